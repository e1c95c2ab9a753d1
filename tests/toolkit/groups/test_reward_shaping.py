from dataclasses import replace

import numpy as np
import pytest

from edgewise.toolkit.groups import filters, reward_shaping
from edgewise.toolkit.groups.table import Table


@pytest.mark.parametrize(("length", "loss"), [(0, 0), (16384, 0), (18000, 0.394531), (20480, 1), (30000, 1)])
def test_overlong_penalty_is_linear(length, loss) -> None:
    table = Table.from_arrays([0, 0], [1.0, 0.0], longest=[length, length])
    assert np.allclose(reward_shaping.overlong(table), [1 - loss, -loss], atol=6e-7)
    assert np.allclose(reward_shaping.overlong(table, factor=0.5), [1 - loss / 2, -loss / 2], atol=6e-7)


def test_kl_is_subtracted_from_the_reward() -> None:
    table = Table.from_arrays([0, 0], [1.0, 0.0], kl=[4.0, -2.0])
    assert reward_shaping.less_kl(table, beta=0.25).tolist() == [0.0, 0.5]
    assert reward_shaping.raw(table) is table.reward


@pytest.mark.parametrize(("part", "column"), [(reward_shaping.overlong, "longest"), (reward_shaping.less_kl, "kl")])
def test_a_missing_column_is_named(part, column) -> None:
    with pytest.raises(ValueError, match=column):
        part(Table.from_arrays([0], [1.0]))


def test_mixed_keeps_groups_that_differ() -> None:
    table = Table.from_arrays([0, 0, 1, 1, 2], np.array([0.1, 0.1, 0, 1, 5], np.float32))
    assert filters.mixed(table).tolist() == [False, False, True, True, False]
    assert filters.everything(table).all()


def test_unlikely_without_weight_or_reward_is_raw() -> None:
    table = Table.from_arrays([0] * 3, [1.0, 0.0, 1.0], mean_logp=[-1.0, -2.0, -3.0])
    assert (reward_shaping.unlikely(table, beta=0.0) == table.reward).all()
    assert not reward_shaping.unlikely(replace(table, reward=np.zeros(3))).any()


def test_unlikely_breaks_ties_by_order() -> None:
    table = Table.from_arrays([1, 0, 1, 1], [1.0] * 4, mean_logp=[-1.0, -5.0, -1.0, -2.0])
    expected = [1 - 0.25 / 3, 1.0, 1 - 0.5 / 3, 1.0]
    assert np.allclose(reward_shaping.unlikely(table), expected)


def test_imperfect_keeps_groups_below_the_best() -> None:
    table = Table.from_arrays([0, 0, 1, 1, 2, 2], [1, 1, 0, 0, 1, 0.5])
    assert filters.imperfect(table).tolist() == [False, False, True, True, True, True]


def test_stored_rollouts_are_kept() -> None:
    table = Table.from_arrays([0, 0, 1, 2, 2], [1, 1, 1, 1, 0], stored=[np.nan, np.nan, 0.5, np.nan, np.nan])
    assert filters.mixed_or_stored(table).tolist() == [False, False, True, True, True]
