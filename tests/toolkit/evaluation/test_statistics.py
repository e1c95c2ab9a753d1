import math
import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.toolkit.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    crossed_interval,
    minimum_detectable_gain,
    paired_difference,
    pass_at_k,
    sign_flip_p_value,
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
def test_pass_at_k_checks_its_arguments(n, c, k):
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


def test_paired_difference_weighs_examples_equally():
    before = [[0.0, 0.0, 1.0, 1.0], [0.0], [1.0, 1.0]]
    after = [[1.0], [0.5, 0.5], [1.0]]
    interval = paired_difference(before, after)
    assert interval.estimate == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert interval.low <= interval.estimate <= interval.high


def test_more_samples_of_one_example_add_no_evidence():
    rng = np.random.default_rng(0)
    before, after = rng.random((30, 1)), rng.random((30, 1))
    once = paired_difference(before, after)
    copied = paired_difference(np.repeat(before, 50, axis=1), np.repeat(after, 50, axis=1))
    assert copied.low == pytest.approx(once.low) and copied.p == pytest.approx(once.p)


def test_interval_is_seeded_and_antisymmetric():
    rng = np.random.default_rng(0)
    before, after = rng.random((20, 4)), rng.random((20, 4)) + 0.1
    there, back = paired_difference(before, after, seed=5), paired_difference(after, before, seed=5)
    assert there == paired_difference(before, after, seed=5)
    assert (there.estimate, there.low, there.high) == pytest.approx((-back.estimate, -back.high, -back.low), abs=0.01)
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
def test_degenerate_data_has_a_defined_interval(before, after, expected):
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
def test_unusable_data_raises(before, after, sentence):
    with pytest.raises(ValueError, match=sentence):
        paired_difference(before, after)


@pytest.mark.parametrize("n", [5, 12, 40])
def test_p_agrees_with_scipy(n):
    from scipy import stats

    differences = np.random.default_rng(n).choice([-0.5, -0.25, 0.0, 0.25, 0.75], n)
    reference = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=10_000, rng=np.random.default_rng(0)
    )
    assert sign_flip_p_value(differences) == pytest.approx(reference.pvalue, abs=0.02 if n > 13 else 1e-9)


def test_p_of_a_clear_gain_is_small_and_positive():
    assert 0 < sign_flip_p_value(np.full(100, 0.3) + np.linspace(0, 0.1, 100)) < 0.001


def trials(gain: float, count: int = 400, examples: int = 30):
    """Paired runs of 4 samples whose true mean difference is `gain` times the mean room to improve, 1/2."""
    rng = np.random.default_rng(11)
    for n in range(count):
        chance = rng.beta(0.7, 0.7, (examples, 1))
        before = rng.random((examples, 4)) < chance
        after = rng.random((examples, 4)) < chance + (1 - chance) * gain
        yield paired_difference(before.astype(float), after.astype(float), seed=n, resamples=500)


@pytest.mark.parametrize("gain", [0.0, 0.3])
def test_interval_coverage_is_about_95_percent(gain):
    covers = [interval.low <= gain / 2 <= interval.high for interval in trials(gain)]
    assert 0.92 <= np.mean(covers) <= 0.985


def test_interval_coverage_with_four_examples():
    rng = np.random.default_rng(2)
    intervals = [paired_difference(*rng.random((2, 4, 4)), resamples=200) for _ in range(500)]
    assert 0.92 <= np.mean([x.low <= 0 <= x.high for x in intervals]) <= 0.98


def test_skewed_differences_use_the_bootstrap_bound():
    """A few large gains among many rows that stay: the true mean may lie much higher, not much lower."""
    interval = paired_difference(np.zeros((100, 1)), np.r_[np.ones(5), np.zeros(95)][:, None])
    assert interval.high - interval.estimate > 1.1 * (interval.estimate - interval.low)


def test_p_has_the_nominal_error_rate():
    assert 0.02 <= np.mean([interval.p < 0.05 for interval in trials(0.0)]) <= 0.08


def test_bootstrap_interval_of_one_arm():
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    interval = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.001)
    assert interval.p is None


def test_paired_difference_is_fast():
    rng = np.random.default_rng(0)
    before, after = rng.random((200, 8)), rng.random((200, 8))
    paired_difference(before, after, resamples=10)
    start = time.perf_counter()
    paired_difference(before, after)
    assert time.perf_counter() - start < 0.3


def test_detectable_gain_shrinks_with_rows_and_samples():
    assert minimum_detectable_gain(1) == 1.0
    assert (
        minimum_detectable_gain(400)
        < minimum_detectable_gain(100)
        < minimum_detectable_gain(20)
        < minimum_detectable_gain(2)
        <= 1.0
    )
    assert minimum_detectable_gain(100, 8) < minimum_detectable_gain(100, 2) < minimum_detectable_gain(100)


def all_gain_alike(gain: float, rng: np.random.Generator):
    return np.full((60, 1), 0.5), np.full((60, 1), 0.5 + gain)


def some_gain_everything(gain: float, rng: np.random.Generator):
    moved = rng.random((60, 1)) < gain
    return np.where(moved, 0.0, 0.5), np.where(moved, 1.0, 0.5)


@pytest.mark.parametrize(("samples", "chances"), [(1, all_gain_alike), (8, some_gain_everything)])
def test_detectable_gain_has_80_percent_power(samples, chances):
    rng = np.random.default_rng(3)
    detections = []
    for _ in range(400):
        before, after = (rng.random((60, samples)) < p for p in chances(minimum_detectable_gain(60, samples), rng))
        detections.append(sign_flip_p_value((after * 1.0 - before).mean(axis=1), resamples=500) < 0.05)
    assert 0.74 <= np.mean(detections) <= 0.92


@pytest.mark.parametrize(("seeds", "spreads"), [(3, (0.2, 0.3, 1.0)), (5, (0.3, 0.1, 0.3)), (3, (0.0, 1.0, 0.2))])
def test_crossed_interval_coverage_matches_its_p(seeds, spreads):
    rng = np.random.default_rng(1)
    covered, wrong = 0, 0
    for _ in range(500):
        shapes = ((seeds, 1), (1, 30), (seeds, 30))
        interval = crossed_interval(sum(s * rng.normal(size=shape) for s, shape in zip(spreads, shapes, strict=True)))
        covered += interval.low <= 0 <= interval.high
        assert interval.p is not None
        wrong += interval.p < 0.05
    assert 0.92 <= covered / 500 <= 0.995
    assert wrong == 500 - covered


def test_crossed_interval_of_one_seed_uses_examples_alone():
    values = np.random.default_rng(2).random((1, 20))
    assert crossed_interval(values) == paired_difference(np.zeros((20, 1)), values.T)
    alone = crossed_interval([[0.3], [0.5], [0.4]])
    assert (alone.low, alone.high, alone.p) == (-math.inf, math.inf, 1.0)
    equal = crossed_interval([[0.25] * 3] * 2)
    assert (equal.low, equal.high, equal.p) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="no values"):
        crossed_interval([])
