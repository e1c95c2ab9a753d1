import numpy as np
import pytest

from toolkit.groups import credit
from toolkit.groups.table import Table

# Rollouts 0 and 1 are of one group, 2 of another; 2, 1 and 3 steps.
TABLE = Table.of([0, 0, 1], [1.0, 0.0, 0.5], [0, 0, 1, 2, 2, 2], step_reward=[1, 0, -1, 2, 2, 2])
ADVANTAGE = np.array([1.0, -1.0, 0.0])


def test_broadcast_gives_each_step_what_its_rollout_has() -> None:
    assert credit.broadcast(TABLE, ADVANTAGE).tolist() == [1, 1, -1, 0, 0, 0]


def test_action_wise_adds_what_a_step_did_better_than_the_steps_of_its_group() -> None:
    assert credit.action_wise(TABLE, ADVANTAGE, beta=0.5).tolist() == [1.5, 1, -1.5, 0, 0, 0]


def test_without_weight_the_two_are_the_same() -> None:
    assert (credit.action_wise(TABLE, ADVANTAGE, beta=0.0) == credit.broadcast(TABLE, ADVANTAGE)).all()


def test_steps_of_a_dead_group_still_differ() -> None:
    table = Table.of([0, 0], [0.1, 0.1], [0, 1], step_reward=[1, 0])
    assert credit.action_wise(table, np.zeros(2)).tolist() == [0.5, -0.5]


def test_action_wise_needs_its_column() -> None:
    with pytest.raises(ValueError, match="step_reward"):
        credit.action_wise(Table.of([0], [1.0], [0]), np.zeros(1))
