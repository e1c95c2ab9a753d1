"""
Estimates and their uncertainty: pass@k, means, intervals and p-values over examples.

E examples, K samples of each (K may differ between examples), S training seeds. A result must carry over to new
examples, and samples of one example resemble each other. So an interval resamples whole examples, never single samples.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = Sequence[Sequence[float]] | NDArray[np.floating]
CHUNK = 4_000_000
"""Numbers in memory at once while resampling: 32 MB."""
FINEST_GRID = 64
"""The finest fraction, 1/64, on which `gain_p_value` is exact; means of up to 64 samples of 0 and 1 lie on it."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, its 95 % interval, and, for a difference, the two-sided p-value of "there is none"."""

    estimate: float
    low: float
    high: float
    p: float | None = None


def mean(values: Sequence[float], default: float = 0.0) -> float:
    """Return the mean by an exact sum, or `default` for no values."""
    return math.fsum(values) / len(values) if values else default


def pass_at_k(n: int, c: int, k: int) -> float:
    """
    Return the unbiased estimate of the chance that one of `k` samples passes, from `c` passes among `n`.

    Raises ValueError unless 1 <= k <= n and 0 <= c <= n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples and k >= 1, but there are {n} samples")
    if not 0 <= c <= n:
        raise ValueError(f"{c} of {n} samples can't have passed")
    # 1 - C(n-c, k) / C(n, k), Chen et al. 2021 (arXiv 2107.03374), equation 1; in integers, so exact for any n.
    return (math.comb(n, k) - math.comb(n - c, k)) / math.comb(n, k)


def example_means(samples: Samples) -> NDArray[np.float64]:
    """Return the mean of each example: (E,). Raises ValueError for no examples, one without samples, or a NaN."""
    if len(samples) == 0:
        raise ValueError("there are no examples to measure")
    if any(len(row) == 0 for row in samples):
        raise ValueError("every example needs at least one sample")
    result = np.array([math.fsum(row) / len(row) for row in samples])
    if not np.isfinite(result).all():
        raise ValueError("samples must be finite numbers")
    return result


def bootstrap_interval(
    values: Sequence[float] | NDArray[np.floating], seed: int = 0, resamples: int = 10_000
) -> Interval:
    """
    Estimate the mean of `values`, one per example, with a 95 % bootstrap interval.

    One example gives an infinite interval, equal values one of width zero. Raises ValueError for no values.
    """
    data = example_means(np.asarray(values, dtype=np.float64).reshape(-1, 1))
    estimate = float(data.mean())
    if len(data) == 1:
        return Interval(estimate, -math.inf, math.inf)
    if np.ptp(data) == 0:
        return Interval(estimate, estimate, estimate)
    from scipy import stats

    # The percentile bootstrap, widened for small E: its tails are those that give Student's t interval its coverage
    # (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", the expanded percentile). Chosen by simulated
    # coverage on paired differences of pass rates (1000 data sets, 4 samples, no change):
    #
    #     E                       10      20      60      200
    #     expanded percentile     0.943   0.952   0.955   0.950
    #     percentile              0.917   0.930   0.950   0.950
    #     BCa                     0.899   0.915   0.941   0.948
    n = len(data)
    tail = float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1)))
    rng = np.random.default_rng(seed)
    bounds = stats.bootstrap(
        (data,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, CHUNK // n),
        confidence_level=1 - 2 * tail,
        method="percentile",
        rng=rng,
    ).confidence_interval
    return Interval(estimate, float(bounds.low), float(bounds.high))


def paired_difference(before: Samples, after: Samples, seed: int = 0, resamples: int = 10_000) -> Interval:
    """
    Estimate the gain of `after` over `before` on the same examples: mean difference, 95 % interval, p-value.

    Both are (E, K) rewards, row for row of the same example; K may differ between rows and arms. p is that of
    `sign_flip_p_value`. With one example, p is 1 and the interval infinite. Where all differences are equal the
    interval has width zero, and p alone tells the strength of the evidence. Raises ValueError for no examples, or
    different numbers of them.
    """
    if len(before) != len(after):
        raise ValueError(f"before has {len(before)} examples and after {len(after)}; they must be the same")
    differences = example_means(after) - example_means(before)
    interval = bootstrap_interval(differences, seed, resamples)
    # Each end is the farther one of two: Student's t holds where few rows differ at all, the bootstrap where the
    # differences are skewed. Coverage of 54 structures at each E (bench/coverage.py: 1 to 16 samples, three spreads of
    # difficulty, no effect, one on all rows or on 8 % of them; pass or fail and graded rewards):
    #
    #     E                           10      20      60      200
    #     median                      0.949   0.952   0.952   0.953
    #     share within 0.93 to 0.97   0.61    0.74    0.87    1.00
    #     the same, bootstrap alone   0.43    0.65    0.83    0.98
    #     lowest                      0.351   0.558   0.843   0.931
    #
    # The lowest are effects that sit in 8 % of the rows: with 10 examples, none of those rows is sampled in 43 of 100
    # comparisons (66, where half the rows were solved anyway), which then look as if nothing had changed. An interval
    # that allows for it nearly always covers "no change", and is three times as wide where rewards hardly vary.
    # Interval and p disagree about "no change" in 2 to 3 of 100 comparisons.
    half = t_half_width(differences)
    low = min(interval.low, interval.estimate - half)
    high = max(interval.high, interval.estimate + half)

    # Differences of rewards within 0 to 1 lie within -1 to 1.
    is_bounded = all(0 <= reward <= 1 for arm in (before, after) for row in arm for reward in row)
    if len(differences) > 1 and is_bounded:
        low, high = max(low, -1.0), min(high, 1.0)
    return Interval(interval.estimate, low, high, sign_flip_p_value(differences, seed, resamples))


def crossed_interval(values: Samples) -> Interval:
    """
    Estimate the mean of (S, E) values, S training seeds on the same E examples, with a 95 % interval over both.

    p is the two-sided p-value of "the mean is 0". With one seed or one example, and where all values are equal,
    interval and p are those of `paired_difference` from 0, over examples alone. Raises ValueError for no values, or
    rows of different lengths.
    """
    data = np.array([example_means([[x] for x in row]) for row in values])
    if data.size == 0:
        raise ValueError("there are no values to measure")
    (seeds, examples), estimate = data.shape, float(data.mean())
    by_example, by_seed = data.mean(0), data.mean(1)
    if seeds == 1 or examples == 1 or np.ptp(data) == 0:
        return paired_difference(np.zeros((examples, 1)), by_example[:, None])
    from scipy.special import stdtr, stdtrit

    # A two-way layout without replication: value = mean + seed + example + residual. By mean squares MS, the mean has
    # the variance (MS_seeds + MS_examples - MS_residual) / (S E). Here it is never less than by one of them alone.
    residual = data - by_example - by_seed[:, None] + estimate
    squares = np.array([examples * by_seed.var(ddof=1), seeds * by_example.var(ddof=1)])  # MS_seeds, MS_examples
    degrees = np.array([seeds - 1, examples - 1])
    residual_square = (residual**2).sum() / degrees.prod()
    variance = max(squares.sum() - residual_square, squares.max(), residual_square)

    # Student's t with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946). Simulated coverage, the lowest
    # and the highest of seven ratios of the three spreads at 12, 40 and 200 examples:
    #
    #     S        2                3                5                10
    #              0.905 to 0.991   0.936 to 0.991   0.945 to 0.989   0.946 to 0.988
    freedom = variance**2 / max((squares**2 / degrees).sum(), 1e-300)
    freedom = min(max(freedom, 1.0), float(degrees.prod()))
    error = math.sqrt(variance / data.size)
    half = float(stdtrit(freedom, 0.975)) * error
    p = float(2 * stdtr(freedom, -abs(estimate) / error))
    return Interval(estimate, estimate - half, estimate + half, p)


def t_half_width(values: NDArray[np.floating]) -> float:
    """Return half the width of Student's 95 % interval of the mean; infinite for one value, 0 for equal ones."""
    if len(values) == 1:
        return math.inf
    if np.ptp(values) == 0:
        return 0.0
    from scipy.special import stdtrit

    return float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values)))


def sign_flip_p_value(differences: NDArray[np.floating], seed: int = 0, resamples: int = 10_000) -> float:
    """
    Return the two-sided p-value of "the differences (E,) are symmetric around 0", by flipping their signs.

    All 2**E signs where that is no more than `resamples`, otherwise that many at random.
    """
    # `scipy.stats.permutation_test` gives the same values and takes ten times as long.
    n = len(differences)
    observed = abs(differences.sum())
    # Sums that differ by rounding alone are ties.
    threshold = observed - 1e-9 * (np.abs(differences).sum() or 1.0)
    if 2**n <= resamples:
        signs = (np.arange(2**n)[:, None] >> np.arange(n) & 1) * 2.0 - 1.0
        return float((np.abs(signs @ differences) >= threshold).mean())
    sums = _random_sign_sums(differences, resamples, seed)
    extreme = sum(int((np.abs(part) >= threshold).sum()) for part in sums)
    # The observed signs count as one more resample, so that p is never 0 (Phipson and Smyth 2010).
    return (extreme + 1) / (resamples + 1)


def gain_p_value(differences: NDArray[np.floating], resamples: int = 100_000) -> float:
    """
    Return the one-sided p-value of "there is no gain", for paired differences (E,), by flipping their signs.

    Exact where the differences lie on a grid, as those of mean 0/1 rewards do; otherwise by `resamples` random flips,
    so that p is at least 1 / (resamples + 1). 1 for no differences.
    """
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return 1.0

    # The coarsest grid 1/n of which all differences are multiples, 0 if there is none.
    fits = (n for n in range(1, FINEST_GRID + 1) if np.abs(sizes * n - np.rint(sizes * n)).max() < 1e-9)
    if grid := next(fits, 0):
        # The distribution of the sum of whole numbers with random signs: one convolution with (1/2, 0, ..., 0, 1/2)
        # for each number.
        steps = np.rint(sizes * grid).astype(int)
        total, reach = int(np.rint(differences.sum() * grid)), int(steps.sum())
        chances = np.ones(1)  # of the sums -reach, ..., reach
        for size in steps:
            signs = np.zeros(2 * int(size) + 1)
            signs[0] = signs[-1] = 0.5
            chances = np.convolve(chances, signs)
        return float(min(1.0, chances[total + reach :].sum()))

    threshold = differences.sum() - 1e-9 * sizes.sum()
    extreme = sum(int((part >= threshold).sum()) for part in _random_sign_sums(sizes, resamples, seed=0))
    return (extreme + 1) / (resamples + 1)


def _random_sign_sums(values: NDArray[np.floating], resamples: int, seed: int) -> Iterator[NDArray[np.floating]]:
    """Yield sums of the values with random signs, `resamples` of them in chunks that fit in memory."""
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(values))
    for start in range(0, resamples, rows):
        shape = min(rows, resamples - start), len(values)
        yield (rng.integers(0, 2, shape, dtype=np.int8) * 2.0 - 1.0) @ values


def minimum_detectable_gain(
    examples: int, samples: int = 1, *, level: float = 0.05, sides: int = 2, power: float = 0.8
) -> float:
    """
    Return the smallest true gain in mean reward that a paired comparison detects with a chance of `power`.

    For rewards from 0 to 1, before anything is known of the task, so with much noise. At most 1: no gain is certain to
    be detected.
    """
    if examples < 2 or 2.0**-examples > level / sides:
        return 1.0
    from scipy.special import stdtrit

    # The gain g comes from a share g of the rows, which go from never to always solved; all others are fair coins. The
    # difference of one example then has the variance (1 - g) (g + 1 / 2K), and g is (t_level + t_power) standard
    # errors, at E - 1 degrees of freedom: g**2 = scale (1 - g) (g + coin), a quadratic a g**2 - b g - c = 0.
    quantiles = stdtrit(examples - 1, 1 - level / sides) + stdtrit(examples - 1, power)
    scale, coin = float(quantiles) ** 2 / examples, 1 / (2 * samples)
    a, b, c = 1 + scale, scale * (1 - coin), scale * coin
    return min(1.0, (b + math.sqrt(b * b + 4 * a * c)) / (2 * a))
