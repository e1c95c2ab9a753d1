import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.groups import advantage
from toolkit.groups.table import Table

AXES = [advantage.centred, advantage.standardised, advantage.zero]
LABELLED = st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), min_size=1, max_size=30)


def naive(labels, rewards, eps=1e-4):
    found = []
    for label, reward in zip(labels, rewards, strict=True):
        group = [r for other, r in zip(labels, rewards, strict=True) if other == label]
        spread = np.std(group, ddof=1) if len(group) > 1 else 0.0
        found.append(0.0 if len(set(group)) == 1 else (reward - np.mean(group)) / (spread + eps))
    return np.array(found)


@given(LABELLED)
def test_standardised_is_the_naive_loop(rows) -> None:
    labels, rewards = zip(*rows, strict=True)
    assert np.allclose(advantage.standardised(Table.of(labels, rewards)), naive(labels, rewards), atol=1e-8)


@pytest.mark.parametrize("axis", AXES)
def test_eight_equal_rewards_in_float32_give_exactly_nothing(axis) -> None:
    table = Table.of([0] * 8 + [1, 1], np.array([0.1] * 8 + [0, 1], np.float32))
    assert (axis(table)[:8] == 0).all()


@pytest.mark.parametrize("axis", AXES)
@given(LABELLED, st.randoms())
def test_the_order_of_rollouts_does_not_matter(axis, rows, random) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)
    whole = axis(Table.of(*zip(*rows, strict=True)))
    shuffled = axis(Table.of(*zip(*(rows[i] for i in order), strict=True)))
    assert np.allclose(whole[order], shuffled, atol=1e-9)


def test_golden_values_of_a_group() -> None:
    table = Table.of([7] * 4, [1.0, 0, 0, 0])
    assert np.allclose(advantage.centred(table), [0.75, -0.25, -0.25, -0.25])
    assert np.allclose(advantage.standardised(table, eps=0.0), [1.5, -0.5, -0.5, -0.5])
    assert np.allclose(advantage.standardised(table, eps=0.0, ddof=0)[0], 3**0.5)
    assert not advantage.zero(table).any()


def test_a_table_says_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="2 groups are named for 3 rewards"):
        Table.of([0, 1], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="not there"):
        Table.of([0], [1.0], [0, 1])
    with pytest.raises(ValueError, match="'cost' has 3 values"):
        Table.of([0], [1.0], cost=[1, 2, 3])
    with pytest.raises(ValueError, match=r"no column 'worth', only \['cost'\]"):
        Table.of([0], [1.0], cost=[1]).column("worth")
