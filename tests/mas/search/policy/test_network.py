import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.mas.designs.interface import Query
from edgewise.mas.graph.construction import BuildState, Move, Space, action_mask, apply, build, deletion_mask, replay
from edgewise.mas.search import load_design
from edgewise.mas.search.policy.network import NetworkPolicy
from edgewise.mas.search.policy.policy_gradient import LossInputs, NetworkLearner
from edgewise.mas.search.policy.state_features import encode_moves
from edgewise.mas.search.policy.subset_sampling import pick_subsets, tail_probabilities
from edgewise.toolkit.errors import GraphError

SPACE = Space(("solver", "planner", "critic", "majority"), (0, 0, 1, 2), agents=5, moves=10)
D = 12
RNG = np.random.default_rng(0)
QUERIES = [Query(f"q{i}", "", RNG.normal(size=D).astype(np.float32)) for i in range(6)]


def random_policy(seed: int, space: Space = SPACE, joint: bool = True) -> NetworkPolicy:
    """A policy whose weights are all random, so that none is 0."""
    rng = np.random.default_rng(seed)
    start = NetworkPolicy.start(space, D, seed, joint=joint)
    weights = {n: (w + rng.normal(size=w.shape) * 0.5).astype(np.float32) for n, w in start.weights.items()}
    return NetworkPolicy(space, weights, "test", joint)


def logp(policy: NetworkPolicy, builds, queries) -> np.ndarray:
    return NetworkLearner(policy, 0.1).logp(encode_moves(policy.space, builds), queries)


@given(seed=st.integers(0, 10_000), joint=st.booleans())
@settings(max_examples=30, deadline=None)
def test_sampled_moves_are_allowed_and_build_a_graph(seed: int, joint: bool) -> None:
    policy = random_policy(seed % 7, joint=joint)
    for moves in policy.sample(QUERIES, range(seed, seed + len(QUERIES))):
        built = build(SPACE, moves)
        assert 1 <= len(built.graph) <= SPACE.agents and len(moves) <= SPACE.moves
        for node in built.graph.nodes:
            assert len(built.graph.predecessors[node.name]) >= SPACE.min_inputs[SPACE.roles.index(node.role)]
        assert joint or all(move.action != SPACE.delete_action for move in moves)


def test_deletions_are_sampled_and_scored() -> None:
    builds = [m for s in range(20) for m in random_policy(1).sample(QUERIES, range(s * 6, s * 6 + 6))]
    with_delete = [m for m in builds if any(move.action == SPACE.delete_action for move in m)]
    assert len(with_delete) > 5
    assert np.isfinite(logp(random_policy(1), with_delete, [QUERIES[0]] * len(with_delete))).all()


def every_move(space: Space, state: BuildState):
    for action in np.flatnonzero(action_mask(space, state)):
        if action == space.exit_action:
            yield Move(int(action))
        elif action == space.delete_action:
            yield from (Move(int(action), (p,)) for p, may in enumerate(deletion_mask(space, state)) if may)
        else:
            for size in range(space.min_inputs[action], len(state) + 1):
                yield from (Move(int(action), agents) for agents in itertools.combinations(range(len(state)), size))


@pytest.mark.parametrize(
    "moves", [(), (Move(0),), (Move(0), Move(1, (0,))), (Move(0), Move(1), Move(2, (0, 1)))], ids=len
)
@pytest.mark.parametrize("joint", [True, False])
def test_probabilities_of_all_moves_of_a_state_sum_to_one(moves, joint) -> None:
    options = list(every_move(SPACE, replay(SPACE, moves)))
    if not joint:
        options = [move for move in options if move.action != SPACE.delete_action]
    logps = logp(random_policy(3, joint=joint), [(*moves, move) for move in options], [QUERIES[0]] * len(options))
    last = logps.sum(0)[len(moves) :: len(moves) + 1]
    assert np.exp(last).sum() == pytest.approx(1.0, abs=1e-12)


def test_batched_scores_equal_a_loop_over_moves() -> None:
    policy, seeds = random_policy(4), range(6)
    builds = policy.sample(QUERIES, seeds)
    naive = [
        logp(policy, [moves[: t + 1]], [q])[0, -1]
        for moves, q in zip(builds, QUERIES, strict=True)
        for t in range(len(moves))
    ]
    assert np.allclose(logp(policy, builds, QUERIES)[0], naive, atol=1e-10)


def test_samples_follow_the_scored_probabilities() -> None:
    policy, space = random_policy(5), SPACE
    firsts = [m[0].action for m in policy.sample([QUERIES[0]] * 2000, range(2000))]
    usable = [int(a) for a in np.flatnonzero(action_mask(space, BuildState()))]
    chance = np.exp(logp(policy, [(Move(a),) for a in usable], [QUERIES[0]] * len(usable))[0])
    share = np.array([firsts.count(a) for a in usable]) / len(firsts)
    assert np.abs(share - chance).max() < 0.05


@given(logits=st.lists(st.floats(-4, 4), min_size=2, max_size=5), least=st.integers(0, 2), seed=st.integers(0, 1000))
@settings(max_examples=60)
def test_tail_probabilities_equal_enumeration(logits, least, seed) -> None:
    p = 1 / (1 + np.exp(-np.array([logits])))
    sets = np.array(list(itertools.product([False, True], repeat=len(logits))))
    chance = np.where(sets, p, 1 - p).prod(1)
    enough = sets.sum(1) >= least
    assert tail_probabilities(p, least)[0][least][0] == pytest.approx(chance[enough].sum())
    best = pick_subsets(p, np.array([least]), None)[0]
    assert chance[(sets == best).all(1)][0] == pytest.approx(chance[enough].max())
    assert pick_subsets(p, np.array([least]), np.random.default_rng(seed).random(p.shape)).sum() >= least


def test_subsets_have_their_conditional_probability() -> None:
    p, count = np.array([[0.2, 0.5, 0.7]]), 20_000
    samples = pick_subsets(np.repeat(p, count, 0), np.full(count, 2), np.random.default_rng(0).random((count, 3)))
    both = 0.2 * 0.5 * 0.3 / (0.2 * 0.5 * 0.3 + 0.2 * 0.5 * 0.7 + 0.8 * 0.5 * 0.7 + 0.2 * 0.5 * 0.7)
    assert abs((samples == [True, True, False]).all(1).mean() - both) < 0.01


def test_samples_depend_on_their_own_query_and_seed_alone() -> None:
    policy, seeds = random_policy(6), list(range(6))
    together = policy.sample(QUERIES, seeds)
    assert together == [policy.sample([q], [s])[0] for q, s in zip(QUERIES, seeds, strict=True)]
    assert together[::-1] == policy.sample(QUERIES[::-1], seeds[::-1])
    assert together != policy.sample(QUERIES, [s + 100 for s in seeds])
    assert policy.graphs(QUERIES) == [policy.graphs([q])[0] for q in QUERIES]


def test_policy_survives_json_with_its_version() -> None:
    policy = random_policy(7)
    again = load_design.read_design(json.loads(json.dumps(policy.to_json())))
    assert again.version == policy.version
    assert again.graphs(QUERIES) == policy.graphs(QUERIES)
    assert again.version != random_policy(8).version
    assert again.version != NetworkPolicy(SPACE, policy.weights, "another").version


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("space"),
        lambda d: d["weights"].pop("node"),
        lambda d: d["weights"]["node"].update(shape=[1, 2]),
        lambda d: d["weights"]["node"].update(data="no base64!"),
        lambda d: d["space"].update(agents=9),
    ],
)
def test_broken_policy_is_refused(spoil) -> None:
    data = random_policy(7).to_json()
    spoil(data)
    with pytest.raises(GraphError, match="policy"):
        load_design.read_design(data)


def surrogate(x: LossInputs):
    return -(x.logp - x.old_logp).exp() * x.advantage


def test_ratios_are_exactly_one_before_the_first_update() -> None:
    learner = NetworkLearner(random_policy(9), 0.1)
    moves = encode_moves(SPACE, learner.policy().sample(QUERIES, range(6)))
    old = learner.logp(moves, QUERIES)
    seen = []
    learner.update(
        moves,
        QUERIES,
        old,
        np.ones(len(moves)),
        np.ones(len(moves)),
        lambda x: seen.append(x.logp - x.old_logp) or x.logp,
    )
    assert (seen[0].detach().numpy() == 0).all()


def test_gradient_is_the_score_function_and_finite_difference() -> None:
    learner = NetworkLearner(random_policy(10), 0.1)
    moves = encode_moves(SPACE, learner.policy().sample(QUERIES, range(6)))
    old, gain = learner.logp(moves, QUERIES)[0], np.random.default_rng(0).normal(size=len(moves))
    scores = learner.score(moves, QUERIES)
    logp = scores.action + scores.agents
    x = LossInputs(logp, torch.from_numpy(old), torch.from_numpy(gain), logp)
    weights = list(learner.weights.values())
    ours = torch.autograd.grad(surrogate(x).sum(), weights, retain_graph=True)
    score = torch.autograd.grad(-(logp * x.advantage).sum(), weights)
    assert all(torch.allclose(a, b) for a, b in zip(ours, score, strict=True))
    for name, gradient in zip(learner.weights, score, strict=True):
        w = learner.weights[name]
        place = int(gradient.abs().argmax())
        values = []
        for shift in (1e-6, -1e-6):
            with torch.no_grad():
                w.view(-1)[place] += shift
                values.append(-(learner.logp(moves, QUERIES)[0] * gain).sum())
                w.view(-1)[place] -= shift
        slope = (values[0] - values[1]) / 2e-6
        assert slope == pytest.approx(float(gradient.view(-1)[place]), rel=1e-4, abs=1e-6)


def test_deletion_may_not_leave_a_vote_with_too_few_inputs() -> None:
    state = replay(SPACE, (Move(0), Move(0), Move(3, (0, 1))))
    assert deletion_mask(SPACE, state) == [False, False, True]
    with pytest.raises(ValueError, match="fewer inputs"):
        apply(SPACE, state, Move(SPACE.delete_action, (0,)))
    with pytest.raises(ValueError, match="majority needs 2"):
        apply(SPACE, replay(SPACE, (Move(0), Move(0))), Move(3, (0,)))
