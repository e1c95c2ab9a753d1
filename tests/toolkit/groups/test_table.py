import numpy as np
import pytest

from edgewise.toolkit.groups.table import Table

TABLE = Table.from_arrays([5, 5, 9], [1.0, 0.0, 0.5], [0, 0, 1, 2], length=[3, 2, 1], step_reward=[1, 2, 3, 4])


def test_selected_rollouts_keep_steps_and_columns() -> None:
    part = TABLE.select_rollouts(np.array([True, False, True]))
    assert part.group.tolist() == [0, 1] and part.reward.tolist() == [1.0, 0.5]
    assert part.rollout.tolist() == [0, 0, 1]
    assert part.column("length").tolist() == [3, 1]
    assert part.column("step_reward").tolist() == [1, 2, 4]


def test_select_none_or_all_rollouts() -> None:
    nothing = TABLE.select_rollouts(np.zeros(3, bool))
    assert len(nothing) == 0 and len(nothing.rollout) == 0 and nothing.n_groups == 0
    assert TABLE.select_rollouts(np.ones(3, bool)).rollout.tolist() == TABLE.rollout.tolist()


def test_step_columns_where_steps_equal_rollouts() -> None:
    table = Table(
        np.array([0, 0]),
        np.array([0.0, 1.0]),
        np.array([1, 1]),
        {"length": np.array([0.0, 2.0])},
        {"step_reward": np.array([3.0, 4.0])},
    )
    part = table.select_rollouts(np.array([False, True]))
    assert part.column("length").tolist() == [2] and part.column("step_reward").tolist() == [3, 4]
    with pytest.raises(ValueError, match="'cost' has 1 values for 2 steps"):
        Table(table.group, table.reward, table.rollout, {}, {"cost": np.zeros(1)})


def test_select_columns_hides_others() -> None:
    hidden = TABLE.select_columns({"length"})
    assert hidden.column("length").tolist() == [3, 2, 1]
    with pytest.raises(ValueError, match="no column 'step_reward'"):
        hidden.column("step_reward")
