"""A table as the policy: its probabilities, its gradient, and its stored form."""

import json

import numpy as np
import pytest
import torch

from edgewise.mas.designs.interface import Query
from edgewise.mas.graph.construction import Move, Space, replay
from edgewise.mas.search.load_design import read_design
from edgewise.mas.search.policy.policy_gradient import LossInputs, TabularLearner
from edgewise.mas.search.policy.state_features import encode_moves
from edgewise.mas.search.policy.tabular import TabularPolicy
from tests.mas.search.policy.test_network import every_move

SPACE = Space(("solver", "planner", "majority"), (0, 0, 2), agents=3, moves=6)
QUERIES = [Query(f"q{i}", "", np.eye(2, dtype=np.float32)[i]) for i in range(2)]
PREFIX = (Move(0), Move(1, (0,)))


def random_table(seed: int) -> TabularPolicy:
    """A table with random rows for all states that its samples meet."""
    start = TabularPolicy(SPACE, key="by_features")
    learner = TabularLearner(start, 0.0)
    moves = encode_moves(SPACE, start.sample(QUERIES * 20, range(40)))
    ones = np.ones(len(moves))
    learner.update(moves, QUERIES * 20, learner.logp(moves, QUERIES * 20), ones, ones, lambda x: x.logp)
    rng, policy = np.random.default_rng(seed), learner.policy()
    logits = {name: tuple(rng.normal(size=len(row))) for name, row in policy.logits.items()}
    return TabularPolicy(SPACE, logits, policy.key)


def test_probabilities_of_all_moves_of_a_state_sum_to_one() -> None:
    options = list(every_move(SPACE, replay(SPACE, PREFIX)))
    batch = encode_moves(SPACE, [(*PREFIX, move) for move in options])
    logp = TabularLearner(random_table(1), 0.1).logp(batch, [QUERIES[0]] * len(options))[0]
    assert np.exp(logp[len(PREFIX) :: len(PREFIX) + 1]).sum() == pytest.approx(1.0, abs=1e-12)


def test_samples_follow_the_scored_probabilities() -> None:
    policy = random_table(2)
    batch = encode_moves(SPACE, [(Move(0),), (Move(1),)])
    p = np.exp(TabularLearner(policy, 0.1).logp(batch, [QUERIES[0]] * 2)[0])
    first = [moves[0].action for moves in policy.sample([QUERIES[0]] * 2000, range(2000))]
    assert np.abs(np.array([first.count(0), first.count(1)]) / 2000 - p).max() < 0.05


def test_step_is_the_finite_difference_of_the_loss() -> None:
    policy, rate = random_table(3), 1e-3
    moves = encode_moves(SPACE, policy.sample(QUERIES, [5, 6]))
    gain, weights = np.random.default_rng(0).normal(size=len(moves)), np.full(len(moves), 0.5)

    def loss(x: LossInputs) -> torch.Tensor:
        return -x.logp * x.advantage - 0.1 * x.entropy

    def take_step(table: TabularPolicy) -> tuple[float, TabularPolicy]:
        learner = TabularLearner(table, rate)
        value = learner.update(moves, QUERIES, learner.logp(moves, QUERIES), gain, weights, loss)
        return value, learner.policy()

    after = take_step(policy)[1].logits
    for name, row in policy.logits.items():
        for i in range(len(row)):
            values = []
            for shift in (1e-5, -1e-5):
                shifted = tuple(x + shift * (i == j) for j, x in enumerate(row))
                table = TabularPolicy(SPACE, {**policy.logits, name: shifted}, policy.key)
                values.append(take_step(table)[0])
            slope = (values[0] - values[1]) / 2e-5
            assert (row[i] - after[name][i]) / rate == pytest.approx(slope, abs=1e-6)


def test_scoring_adds_no_rows_and_json_keeps_the_version() -> None:
    start = TabularPolicy(SPACE)
    learner = TabularLearner(start, 0.1)
    learner.logp(encode_moves(SPACE, start.sample(QUERIES, [1, 2])), QUERIES)
    assert learner.policy() == start
    policy = random_table(4)
    again = read_design(json.loads(json.dumps(policy.to_json())))
    assert again.version == policy.version and again.graphs(QUERIES) == policy.graphs(QUERIES)
