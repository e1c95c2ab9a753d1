from dataclasses import replace

import numpy as np
import pytest
import torch

from edgewise.mas.designs.interface import Draft, Query, Trial, TrialGroup
from edgewise.mas.graph.construction import Move, Space, build
from edgewise.mas.search.policy import hrpo as hrpo_module
from edgewise.mas.search.policy.hrpo import Hrpo, HrpoSettings, clipped_surrogate, compute_move_rewards, entropy_bonus
from edgewise.mas.search.policy.network import NetworkPolicy
from edgewise.mas.search.policy.policy_gradient import LossInputs
from edgewise.mas.search.surrogate.gaussian_process import RewardSurrogate
from tests.support.plans import play

SPACE = Space(("solver", "planner", "critic", "majority"), (0, 0, 1, 2), agents=3, moves=6)
D = 4
QUERIES = [Query(f"q{i}", "", np.eye(D, dtype=np.float32)[i]) for i in range(2)]
PLAIN = HrpoSettings(estimate=False, smooth=0.0, explore=0.0, imagined=0, settle=0)
SOLVER, PLANNER, CRITIC, DELETE, EXIT = 0, 1, 2, 4, 5


def no_model(request) -> str:
    raise AssertionError("no model is asked")


def make_hrpo(settings=PLAIN, joint=True) -> Hrpo:
    return Hrpo(NetworkPolicy.start(SPACE, D, 0, joint=joint), settings)


def run_steps(searcher, count, reward, size=8):
    for seed in range(count):
        drafts = play(searcher.propose(QUERIES, size, seed), no_model)
        groups = [
            TrialGroup(q, tuple(Trial(d, reward(d.graph, q)) for d in ds))
            for q, ds in zip(QUERIES, drafts, strict=True)
        ]
        play(searcher.learn(groups, seed), no_model)
    return searcher


def planned(graph, query) -> float:
    """A planner before the solver that answers."""
    return float(graph[graph.exit].role == "solver") + float(("planner", "solver") in graph.edges) - 0.1 * len(graph)


def fitting(graph, query) -> float:
    """Another single agent for each query."""
    return float(graph[graph.exit].role == ("solver" if query.id == "q0" else "planner")) - 0.1 * len(graph)


@pytest.mark.parametrize(
    ("settings", "joint"), [(PLAIN, True), (PLAIN, False), (HrpoSettings(), True)], ids=["plain", "apart", "all"]
)
def test_policy_learns_the_rewarded_graph(settings, joint) -> None:
    faster = replace(settings, rate=0.03)
    graphs = run_steps(make_hrpo(faster, joint), 25, planned).design().graphs(QUERIES)
    assert all(planned(g, q) >= 0.9 for g, q in zip(graphs, QUERIES, strict=True))


def test_policy_learns_another_graph_for_another_query() -> None:
    graphs = run_steps(make_hrpo(replace(PLAIN, rate=0.05)), 25, fitting).design().graphs(QUERIES)
    assert [g[g.exit].role for g in graphs] == ["solver", "planner"]


def test_equal_seeds_give_equal_drafts_and_designs() -> None:
    settings = HrpoSettings()
    one, two = (run_steps(make_hrpo(settings), 2, planned) for _ in range(2))
    assert one.design().version == two.design().version
    assert play(one.propose(QUERIES, 4, 9), no_model) == play(two.propose(QUERIES, 4, 9), no_model)


def test_design_is_settled_on_the_last_queries(monkeypatch) -> None:
    monkeypatch.setattr(hrpo_module, "LAST_QUERIES", 2)
    searcher, queries = make_hrpo(), [Query(f"q{i}", "", np.eye(D, dtype=np.float32)[i]) for i in range(3)]
    for seed, query in enumerate([queries[0], queries[1], queries[0], queries[2]]):
        ((draft,),) = play(searcher.propose([query], 1, seed), no_model)
        play(searcher.learn([TrialGroup(query, (Trial(draft, 1.0),))], seed), no_model)
    assert list(searcher.last_queries) == ["q0", "q2"]


def test_equal_rewards_in_a_group_change_nothing() -> None:
    searcher = make_hrpo(replace(PLAIN, action_reward=False, entropy=0.0))
    run_steps(searcher, 1, lambda g, q: float(np.float32(0.1)))
    assert searcher.design().version == searcher.start.version


def test_move_rewards_count_in_a_group_of_equal_rewards() -> None:
    searcher = run_steps(make_hrpo(replace(PLAIN, entropy=0.0)), 1, lambda g, q: 0.1)
    assert searcher.design().version != searcher.start.version


def test_order_of_trials_does_not_matter() -> None:
    searchers = [make_hrpo(), make_hrpo()]
    for searcher, back in zip(searchers, (1, -1), strict=True):
        drafts = play(searcher.propose(QUERIES, 8, 0), no_model)
        groups = [
            TrialGroup(q, tuple(Trial(d, planned(d.graph, q)) for d in ds)[::back])
            for q, ds in zip(QUERIES, drafts, strict=True)
        ]
        play(searcher.learn(groups[::back], 0), no_model)
    one, two = (s.learner.weights for s in searchers)
    # Adam divides by the size of the gradient, so that sums in another order may differ in small ones.
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_move_rewards_are_credit_less_cost_and_redundancy() -> None:
    moves = (Move(SOLVER), Move(CRITIC, (0,)), Move(PLANNER), Move(DELETE, (2,)), Move(SOLVER, (1,)), Move(EXIT))
    made = build(SPACE, moves)
    credit = {"solver": 0.2, "critic": -0.1}
    rewards = compute_move_rewards(DELETE, moves, made.move_numbers, credit, 0.5, 2)
    assert rewards == pytest.approx([0.4, -0.2, -0.6, 0.0, -0.1, 0.0])
    without_exemption = compute_move_rewards(DELETE, moves, made.move_numbers, {}, 0.5, 0)
    assert without_exemption[0] == pytest.approx(-0.1)


def test_deletion_is_rewarded_by_minus_the_role_credit() -> None:
    moves = (Move(SOLVER), Move(PLANNER), Move(DELETE, (0,)), Move(EXIT))
    made = build(SPACE, moves)
    assert made.move_numbers == {"planner": 1}
    rewards = compute_move_rewards(DELETE, moves, made.move_numbers, {}, 1.0, 2, {SOLVER: -0.3})
    assert rewards[2] == pytest.approx(0.3)


@pytest.mark.parametrize(("edge", "change"), [(-0.2, -0.2), (0.2, 0.0)])
def test_harmful_inputs_reduce_the_reward_of_an_agent(edge, change) -> None:
    made = build(SPACE, (Move(PLANNER), Move(SOLVER, (0,)), Move(EXIT)))
    plain = Trial(Draft(made.graph, made), 1.0, credit={"planner": 0.1, "solver": 0.5})
    trials = [(QUERIES[0], plain), (QUERIES[0], replace(plain, edge_credit={("planner", "solver"): edge}))]
    searcher = make_hrpo()
    before, after = np.split(searcher.move_rewards(trials), 2)
    assert after - before == pytest.approx([0.0, change / searcher.surrogate.reward_std, 0.0])


def test_surrogate_clips_on_the_pessimistic_side() -> None:
    ratio, gain = torch.tensor([0.5, 0.5, 1.5, 1.5, 1.1]), torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    x = LossInputs(ratio.log(), torch.zeros(5), gain, torch.ones(5))
    assert torch.allclose(-clipped_surrogate(x, low=0.2, high=0.28), torch.tensor([0.5, -0.8, 1.28, -1.5, 1.1]))
    assert torch.allclose(entropy_bonus(x, scale=0.1), torch.full((5,), -0.1))


def test_surrogate_predicts_rewards_and_node_credit() -> None:
    rng, surrogate = np.random.default_rng(0), RewardSurrogate(SPACE.roles)
    trials = []
    for seed in range(120):
        built = build(SPACE, NetworkPolicy.start(SPACE, D, 0).sample([QUERIES[0]], [seed])[0])
        noise = rng.normal() * 0.2
        trials.append(Trial(Draft(built.graph, built), planned(built.graph, QUERIES[0]) + noise))
    surrogate.fit([TrialGroup(QUERIES[0], tuple(trials))])
    good = build(SPACE, (Move(PLANNER), Move(SOLVER, (0,)), Move(EXIT))).graph
    bad = build(SPACE, (Move(SOLVER), Move(PLANNER, (0,)), Move(EXIT))).graph
    good_value, bad_value = surrogate.predict([good, bad], [QUERIES[0]] * 2)
    assert good_value > bad_value + 0.5
    assert surrogate.node_credit([good], [QUERIES[0]])[0]["planner"] > 0.1
