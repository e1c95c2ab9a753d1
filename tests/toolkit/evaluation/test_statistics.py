import math
import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.toolkit.evaluation.statistics import (
    Interval,
    crossed,
    interval,
    paired_difference,
    pass_at_k,
    sign_flip_p,
    smallest_gain,
)


@pytest.mark.parametrize(
    ("n", "c", "k", "chance"),
    [(5, 2, 1, 0.4), (5, 2, 4, 1.0), (5, 0, 5, 0.0), (4, 2, 2, 5 / 6), (10**6, 1, 10**3, 0.001)],
)
def test_pass_at_k_is_exact(n, c, k, chance):
    assert pass_at_k(n, c, k) == chance


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_with_a_pass(case):
    n, c, k = case
    draws = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 6), (5, 2, 0), (5, 6, 1), (5, -1, 1), (0, 0, 1)])
def test_pass_at_k_refuses_what_it_cannot_estimate(n, c, k):
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


def test_a_difference_is_paired_and_weighs_examples_equally_whatever_their_samples():
    before = [[0.0, 0.0, 1.0, 1.0], [0.0], [1.0, 1.0]]
    after = [[1.0], [0.5, 0.5], [1.0]]
    found = paired_difference(before, after)
    assert found.estimate == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert found.low <= found.estimate <= found.high


def test_samples_of_one_example_do_not_count_as_evidence_of_their_own():
    rng = np.random.default_rng(0)
    before, after = rng.random((30, 1)), rng.random((30, 1))
    once = paired_difference(before, after)
    copied = paired_difference(np.repeat(before, 50, axis=1), np.repeat(after, 50, axis=1))
    assert copied.low == pytest.approx(once.low) and copied.p == pytest.approx(once.p)


def test_the_same_seed_gives_the_same_interval_and_swapped_arms_the_mirrored_one():
    rng = np.random.default_rng(0)
    before, after = rng.random((20, 4)), rng.random((20, 4)) + 0.1
    there, back = paired_difference(before, after, seed=5), paired_difference(after, before, seed=5)
    assert there == paired_difference(before, after, seed=5)
    assert (there.estimate, there.low, there.high) == pytest.approx(
        (-back.estimate, -back.high, -back.low), abs=0.01
    )
    assert there.p == back.p


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([[0.0]], [[1.0]], Interval(1.0, -math.inf, math.inf, 1.0)),
        ([[0.5]] * 40, [[0.5]] * 40, Interval(0.0, 0.0, 0.0, 1.0)),
        ([[0.1, 0.2, 0.3]] * 3, [[0.3, 0.1, 0.2]] * 3, Interval(0.0, 0.0, 0.0, 1.0)),
        ([[0.0]] * 4, [[1.0]] * 4, Interval(1.0, 1.0, 1.0, 2 / 2**4)),
    ],
    ids=["one example", "no difference", "no difference but for rounding", "equal differences"],
)
def test_degenerate_data_has_a_defined_result(before, after, expected):
    assert paired_difference(before, after) == expected


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ([], [], "no examples"),
        ([[1.0]], [[1.0], [0.0]], "before has 1 examples and after 2"),
        ([[1.0], []], [[1.0], [1.0]], "at least one sample"),
        ([[math.nan]], [[1.0]], "finite"),
    ],
)
def test_unusable_data_is_refused(before, after, sentence):
    with pytest.raises(ValueError, match=sentence):
        paired_difference(before, after)


@pytest.mark.parametrize("n", [5, 12, 40])
def test_p_agrees_with_scipy(n):
    from scipy import stats

    differences = np.random.default_rng(n).choice([-0.5, -0.25, 0.0, 0.25, 0.75], n)
    reference = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=10_000, rng=np.random.default_rng(0)
    )
    assert sign_flip_p(differences) == pytest.approx(reference.pvalue, abs=0.02 if n > 13 else 1e-9)


def test_p_is_small_for_a_clear_gain_and_never_zero():
    assert 0 < sign_flip_p(np.full(100, 0.3) + np.linspace(0, 0.1, 100)) < 0.001


def trials(gain: float, count: int = 400, examples: int = 30):
    """Paired runs of 4 samples whose true mean difference is `gain` times the mean room to improve, 1/2."""
    rng = np.random.default_rng(11)
    for n in range(count):
        chance = rng.beta(0.7, 0.7, (examples, 1))
        before = rng.random((examples, 4)) < chance
        after = rng.random((examples, 4)) < chance + (1 - chance) * gain
        yield paired_difference(before.astype(float), after.astype(float), seed=n, resamples=500)


@pytest.mark.parametrize("gain", [0.0, 0.3])
def test_the_interval_covers_the_truth_about_95_times_in_100(gain):
    covered = [found.low <= gain / 2 <= found.high for found in trials(gain)]
    assert 0.92 <= np.mean(covered) <= 0.985


def test_an_interval_from_four_examples_covers_the_truth_as_often():
    rng = np.random.default_rng(2)
    found = [paired_difference(*rng.random((2, 4, 4)), resamples=200) for _ in range(500)]
    assert 0.92 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.98


def test_skewed_differences_get_the_end_of_the_bootstrap():
    """A few large gains among many rows that stay: the true mean may lie much higher, not much lower."""
    found = paired_difference(np.zeros((100, 1)), np.r_[np.ones(5), np.zeros(95)][:, None])
    assert found.high - found.estimate > 1.1 * (found.estimate - found.low)


def test_where_nothing_changed_p_is_below_5_percent_about_5_times_in_100():
    assert 0.02 <= np.mean([found.p < 0.05 for found in trials(0.0)]) <= 0.08


def test_a_single_arm_has_the_interval_of_its_mean_and_no_p():
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    found = interval(values)
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.001)
    assert found.p is None


def test_two_hundred_examples_take_under_a_third_of_a_second():
    rng = np.random.default_rng(0)
    before, after = rng.random((200, 8)), rng.random((200, 8))
    paired_difference(before, after, resamples=10)
    start = time.perf_counter()
    paired_difference(before, after)
    assert time.perf_counter() - start < 0.3


def test_the_smallest_gain_shrinks_with_rows_and_samples():
    assert smallest_gain(1) == 1.0
    assert smallest_gain(400) < smallest_gain(100) < smallest_gain(20) < smallest_gain(2) <= 1.0
    assert smallest_gain(100, 8) < smallest_gain(100, 2) < smallest_gain(100)


def all_gain_alike(gain: float, rng: np.random.Generator):
    return np.full((60, 1), 0.5), np.full((60, 1), 0.5 + gain)


def some_gain_everything(gain: float, rng: np.random.Generator):
    moved = rng.random((60, 1)) < gain
    return np.where(moved, 0.0, 0.5), np.where(moved, 1.0, 0.5)


@pytest.mark.parametrize(("samples", "chances"), [(1, all_gain_alike), (8, some_gain_everything)])
def test_the_smallest_gain_shows_in_about_four_of_five_runs(samples, chances):
    rng = np.random.default_rng(3)
    shown = []
    for _ in range(400):
        before, after = (rng.random((60, samples)) < p for p in chances(smallest_gain(60, samples), rng))
        shown.append(sign_flip_p((after * 1.0 - before).mean(axis=1), resamples=500) < 0.05)
    assert 0.74 <= np.mean(shown) <= 0.92


@pytest.mark.parametrize(
    ("seeds", "spreads"), [(3, (0.2, 0.3, 1.0)), (5, (0.3, 0.1, 0.3)), (3, (0.0, 1.0, 0.2))]
)
def test_an_interval_over_seeds_and_examples_covers_as_often_as_it_says(seeds, spreads):
    rng = np.random.default_rng(1)
    covered, wrong = 0, 0
    for _ in range(500):
        shapes = ((seeds, 1), (1, 30), (seeds, 30))
        found = crossed(sum(s * rng.normal(size=shape) for s, shape in zip(spreads, shapes, strict=True)))
        covered += found.low <= 0 <= found.high
        assert found.p is not None
        wrong += found.p < 0.05
    assert 0.92 <= covered / 500 <= 0.995
    assert wrong == 500 - covered


def test_one_seed_or_one_example_or_equal_values_are_compared_over_examples_alone():
    values = np.random.default_rng(2).random((1, 20))
    assert crossed(values) == paired_difference(np.zeros((20, 1)), values.T)
    alone = crossed([[0.3], [0.5], [0.4]])
    assert (alone.low, alone.high, alone.p) == (-math.inf, math.inf, 1.0)
    equal = crossed([[0.25] * 3] * 2)
    assert (equal.low, equal.high, equal.p) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="no values"):
        crossed([])
