import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.toolkit.errors import RewardError
from edgewise.toolkit.groups import advantage
from edgewise.toolkit.groups.table import Table
from tests.support import golden

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
    result = []
    for label, reward in zip(labels, rewards, strict=True):
        group = [r for other, r in zip(labels, rewards, strict=True) if other == label]
        spread = np.std(group, ddof=1) if len(group) > 1 else 0.0
        result.append(0.0 if len(set(group)) == 1 else (reward - np.mean(group)) / (spread + eps))
    return np.array(result)


@given(LABELLED)
def test_standardised_is_the_naive_loop(rows) -> None:
    labels, rewards = zip(*rows, strict=True)
    assert np.allclose(advantage.standardised(Table.from_arrays(labels, rewards)), naive(labels, rewards), atol=1e-8)


# In float64 the sum of eight float32 is exact, that of eight times 0.1 is not.
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("axis", AXES)
def test_equal_rewards_of_a_group_give_exactly_zero(axis, kind) -> None:
    table = Table.from_arrays([0] * 8 + [1, 1], np.array([0.1] * 8 + [0, 1], kind), length=range(10))
    assert (axis(table)[:8] == 0).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [*AXES, *OF_THE_BATCH])
def test_equal_rewards_of_the_batch_give_exactly_zero(axis, kind) -> None:
    table = Table.from_arrays([0] * 8 + [1], np.array([0.1] * 9, kind), length=range(9))
    assert (axis(table) == 0).all()


@pytest.mark.parametrize("axis", [*AXES, *OF_THE_BATCH])
@given(LABELLED, st.randoms())
def test_the_order_of_rollouts_does_not_matter(axis, rows, random) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)
    length = np.arange(len(rows)) % 5
    whole = axis(Table.from_arrays(*zip(*rows, strict=True), length=length))
    shuffled = axis(Table.from_arrays(*zip(*(rows[i] for i in order), strict=True), length=length[order]))
    assert np.allclose(whole[order], shuffled, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("axis", [*AXES, *OF_THE_BATCH])
def test_groups_of_one_and_empty_tables(axis) -> None:
    assert (axis(Table.from_arrays([0], [3.0], length=[2])) == 0).all()
    assert len(axis(Table.from_arrays([], [], length=[]))) == 0


def test_golden_values_of_a_group() -> None:
    table = Table.from_arrays([7] * 4, [1.0, 0, 0, 0])
    assert np.allclose(advantage.centred(table), [0.75, -0.25, -0.25, -0.25])
    assert np.allclose(advantage.standardised(table, eps=0.0), [1.5, -0.5, -0.5, -0.5])
    assert np.allclose(advantage.standardised(table, eps=0.0, ddof=0)[0], 3**0.5)
    assert not advantage.zero(table).any()


@pytest.mark.parametrize("rewards", golden.PRINTED)
@pytest.mark.parametrize("estimator", golden.ESTIMATORS, ids=lambda x: x.name)
def test_estimators_match_public_code_and_formulas(rewards, estimator) -> None:
    result = estimator.part(Table.from_arrays([0] * 4, rewards, length=[3] * 4))
    for end, (number, room) in zip(
        (0, 3), golden.parse_printed(golden.PRINTED[rewards].get(estimator.name, "")), strict=False
    ):
        assert result[end] == pytest.approx(number, abs=room)
    if len(set(rewards)) > 1:
        lengths = [10, 20, 30, 40]
        plain = estimator.plain(rewards, lengths)
        assert np.allclose(estimator.part(Table.from_arrays([0] * 4, rewards, length=lengths)), plain, atol=1e-12)


def test_opo_weighs_the_baseline_by_length() -> None:
    table = Table.from_arrays([0] * 4, [1, 0, 0, 0], length=[10, 20, 30, 40])
    assert np.allclose(advantage.length_weighted(table), [0.9, -0.1, -0.1, -0.1])


def test_pass_at_k_rewards_the_lead_of_the_best() -> None:
    table = Table.from_arrays([0, 1, 0, 1, 0], [0.25, 3, 1, 3, 0.5])
    assert advantage.best_only(table, scaled=False).tolist() == [0, 0, 0.5, 0, 0]


def test_gpg_rescales_for_groups_without_signal() -> None:
    table = Table.from_arrays([0, 0, 1, 1], [1, 0, 1, 1])
    assert advantage.amplified(table).tolist() == [1, -1, 0, 0]
    assert np.allclose(advantage.amplified(table, by_score=True), [2 / 3, -2 / 3, 0, 0])


def test_whitening_weighs_replies_by_length() -> None:
    table = Table.from_arrays([0, 0], [1.0, 0.0], length=[1, 3])
    assert np.allclose(advantage.whitened(table), np.array([0.75, -0.25]) / 0.5, atol=1e-6)


def test_a_table_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="2 groups are named for 3 rewards"):
        Table.from_arrays([0, 1], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="not there"):
        Table.from_arrays([0], [1.0], [0, 1])
    with pytest.raises(ValueError, match="'cost' has 3 values"):
        Table.from_arrays([0], [1.0], cost=[1, 2, 3])
    with pytest.raises(ValueError, match=r"no column 'worth', only \['cost'\]"):
        Table.from_arrays([0], [1.0], cost=[1]).column("worth")


# ---- estimators of single papers; their numbers are in tests/support/golden_seeds.py -----------------------

EQUAL = st.sampled_from([0.0, 0.1, float(np.float32(0.1)), 1.0])
REWARDS = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=1, max_size=9)


def one_group(rewards, **columns):
    n = len(rewards)
    usual = {
        "length": [3.0] * n,
        "anchor": [0.0] * n,
        "trait": np.linspace(0, 1, n),
        "mean_logp": -np.arange(n),
        "stored": [np.nan] * n,
        "share": [1.0] * n,
    }
    return Table.from_arrays([0] * n, rewards, range(n), **{**usual, **columns})


PARTS = [
    advantage.decoupled,
    advantage.referred,
    advantage.by_hardness,
    advantage.distinctive,
    advantage.sharpened,
    advantage.stored,
    advantage.shared,
    advantage.by_steps,
]


@pytest.mark.parametrize("part", PARTS)
@given(EQUAL, st.integers(1, 9))
def test_equal_rewards_give_zero_advantage(part, reward, count) -> None:
    assert not part(one_group([reward] * count)).any()


@pytest.mark.parametrize("part", [*PARTS, advantage.calibrated])
@given(REWARDS)
def test_all_parts_are_finite_and_accept_no_rollouts(part, rewards) -> None:
    result = part(one_group(rewards))
    assert result.shape == (len(rewards),) and np.isfinite(result).all()
    assert part(one_group([])).shape == (0,)


@given(REWARDS)
def test_calibrated_without_virtual_reward_is_grpo(rewards) -> None:
    table = one_group(rewards)
    result = advantage.calibrated(table, virtual=0)
    assert result == pytest.approx(advantage.standardised(table, eps=1e-6), abs=1e-9)


@given(st.sampled_from([0.0, 0.1, 0.5]), st.integers(2, 9))
def test_calibrated_pushes_down_all_wrong_groups(reward, count) -> None:
    result = advantage.calibrated(one_group([reward] * count))
    assert len(set(result.tolist())) == 1 and result[0] < 0
    assert not advantage.calibrated(one_group([1.0] * count)).any()
    assert not advantage.calibrated(one_group([reward])).any()


def test_a_reward_above_the_best_raises() -> None:
    with pytest.raises(
        RewardError, match=r"A reward of 1\.5 is above the best one of 1, .*plan\.best, keep\.best and advantage\.best"
    ):
        advantage.calibrated(one_group([1.5, 0.0]))
    assert advantage.calibrated(one_group([1.5, 0.0]), best=1.5)[0] > 0


@given(st.lists(st.integers(1, 8000), min_size=2, max_size=6), st.lists(st.integers(1, 8000), min_size=1, max_size=4))
def test_decoupled_prefers_short_right_answers(right, wrong) -> None:
    rewards = [1.0] * len(right) + [0.0] * len(wrong)
    result = advantage.decoupled(one_group(rewards, length=[*right, *wrong]))
    assert result[: len(right)].sum() == pytest.approx(1)
    order = np.argsort(right, kind="stable")
    assert (np.diff(result[order]) <= 0).all()
    assert (result[len(right) :] == -1 / len(wrong)).all()
    even = advantage.decoupled(one_group(rewards, length=[*right, *wrong]), lam=1e9)
    assert even[: len(right)] == pytest.approx(1 / len(right), abs=1e-5)


def test_decoupled_ignores_other_rewards_and_empty_replies() -> None:
    result = advantage.decoupled(one_group([1.0, 1.0, 0.5, 0.0, 0.0], length=[4, 0, 4, 4, 0]))
    assert result.tolist() == [1, 0, 0, -1, 0]


def test_referred_is_zero_for_equal_own_answers() -> None:
    table = one_group([0.0, 0.0, 0.0, 1.0], anchor=[0, 0, 0, 1])
    assert not advantage.referred(table, pooled=False).any()
    assert advantage.referred(table)[3] > 0


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=8))
def test_hardness_factor_is_bounded(rewards) -> None:
    result, plain = advantage.by_hardness(one_group(rewards)), 2 * advantage.centred(one_group(rewards))
    inside = plain != 0
    assert ((result[inside] / plain[inside] >= 1) & (result[inside] / plain[inside] <= 1.512)).all()


@given(REWARDS)
def test_sharpening_raises_by_half_at_most(rewards) -> None:
    table = one_group(rewards)
    result, plain = advantage.sharpened(table), advantage.standardised(table, eps=1e-6)
    assert (result[plain <= 0] == plain[plain <= 0]).all()
    assert ((result >= plain) & (result <= 1.5 * np.maximum(plain, 0) + np.minimum(plain, 0) + 1e-12)).all()


def test_shares_weigh_like_copies() -> None:
    shared = advantage.shared(one_group([1.0, 0.5, 0.0], share=[1.0, 0.5, 0.5]))
    copied = advantage.shared(one_group([1.0, 1.0, 0.5, 0.0]))
    assert shared == pytest.approx(copied[1:])


def test_stored_advantages_stay() -> None:
    result = advantage.stored(one_group([1.0, 0.0, 0.0], stored=[np.nan, -7.0, np.nan]))
    assert result[1] == -7 and result[0] > 0 > result[2]
