import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import golden
from toolkit.groups import advantage
from toolkit.groups.table import Table

AXES = [
    advantage.zero,
    advantage.centred,
    advantage.standardised,
    advantage.leave_one_out,
    advantage.length_weighted,
    advantage.amplified,
    advantage.best_only,
]
OF_THE_BATCH = [advantage.whitened, advantage.centred_whitened]
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


# In float64 the sum of eight float32 is exact, that of eight times 0.1 is not.
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("axis", AXES)
def test_eight_equal_rewards_give_exactly_nothing(axis, kind) -> None:
    table = Table.of([0] * 8 + [1, 1], np.array([0.1] * 8 + [0, 1], kind), length=range(10))
    assert (axis(table)[:8] == 0).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [*AXES, *OF_THE_BATCH])
def test_equal_rewards_of_all_groups_give_exactly_nothing(axis, kind) -> None:
    table = Table.of([0] * 8 + [1], np.array([0.1] * 9, kind), length=range(9))
    assert (axis(table) == 0).all()


@pytest.mark.parametrize("axis", [*AXES, *OF_THE_BATCH])
@given(LABELLED, st.randoms())
def test_the_order_of_rollouts_does_not_matter(axis, rows, random) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)
    length = np.arange(len(rows)) % 5
    whole = axis(Table.of(*zip(*rows, strict=True), length=length))
    shuffled = axis(Table.of(*zip(*(rows[i] for i in order), strict=True), length=length[order]))
    assert np.allclose(whole[order], shuffled, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("axis", [*AXES, *OF_THE_BATCH])
def test_groups_of_one_and_no_rollouts_at_all_are_no_error(axis) -> None:
    assert (axis(Table.of([0], [3.0], length=[2])) == 0).all()
    assert len(axis(Table.of([], [], length=[]))) == 0


def test_golden_values_of_a_group() -> None:
    table = Table.of([7] * 4, [1.0, 0, 0, 0])
    assert np.allclose(advantage.centred(table), [0.75, -0.25, -0.25, -0.25])
    assert np.allclose(advantage.standardised(table, eps=0.0), [1.5, -0.5, -0.5, -0.5])
    assert np.allclose(advantage.standardised(table, eps=0.0, ddof=0)[0], 3**0.5)
    assert not advantage.zero(table).any()


@pytest.mark.parametrize("rewards", golden.PRINTED)
@pytest.mark.parametrize("each", golden.ESTIMATORS, ids=lambda each: each.name)
def test_numbers_of_public_code_and_of_plain_formulas(rewards, each) -> None:
    found = each.part(Table.of([0] * 4, rewards, length=[3] * 4))
    for end, (number, room) in zip(
        (0, 3), golden.printed(golden.PRINTED[rewards].get(each.name, "")), strict=False
    ):
        assert found[end] == pytest.approx(number, abs=room)
    if len(set(rewards)) > 1:
        lengths = [10, 20, 30, 40]
        plain = each.plain(rewards, lengths)
        assert np.allclose(each.part(Table.of([0] * 4, rewards, length=lengths)), plain, atol=1e-12)


def test_opo_weighs_the_baseline_by_length() -> None:
    table = Table.of([0] * 4, [1, 0, 0, 0], length=[10, 20, 30, 40])
    assert np.allclose(advantage.length_weighted(table), [0.9, -0.1, -0.1, -0.1])


def test_pass_at_k_rewards_the_best_alone_by_its_lead() -> None:
    table = Table.of([0, 1, 0, 1, 0], [0.25, 3, 1, 3, 0.5])
    assert advantage.best_only(table, scaled=False).tolist() == [0, 0, 0.5, 0, 0]


def test_gpg_makes_up_for_groups_without_signal() -> None:
    table = Table.of([0, 0, 1, 1], [1, 0, 1, 1])
    assert advantage.amplified(table).tolist() == [1, -1, 0, 0]
    assert np.allclose(advantage.amplified(table, by_score=True), [2 / 3, -2 / 3, 0, 0])


def test_long_replies_count_more_in_the_statistics_of_the_batch() -> None:
    table = Table.of([0, 0], [1.0, 0.0], length=[1, 3])
    assert np.allclose(advantage.whitened(table), np.array([0.75, -0.25]) / 0.5, atol=1e-6)


def test_a_table_says_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="2 groups are named for 3 rewards"):
        Table.of([0, 1], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="not there"):
        Table.of([0], [1.0], [0, 1])
    with pytest.raises(ValueError, match="'cost' has 3 values"):
        Table.of([0], [1.0], cost=[1, 2, 3])
    with pytest.raises(ValueError, match=r"no column 'worth', only \['cost'\]"):
        Table.of([0], [1.0], cost=[1]).column("worth")
