"""
How sure a measured number is: pass@k, means, and intervals over examples.

E examples, K samples of each (K may differ between examples). A result must carry over to new examples, and
samples of one example resemble each other: so an interval draws whole examples, never single samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = Sequence[Sequence[float]] | NDArray[np.floating]
CHUNK = 4_000_000
FINEST = 64


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, its 95 % interval, and, for a difference, the two-sided p-value of "there is none"."""

    estimate: float
    low: float
    high: float
    p: float | None = None


def pass_at_k(n: int, c: int, k: int) -> float:
    """
    The chance that at least one of `k` samples passes, estimated without bias from `c` passes among `n`.

    1 - C(n-c, k) / C(n, k), in whole numbers, so it is exact for any n (Chen et al. 2021, arXiv 2107.03374,
    equation 1). ValueError unless 1 <= k <= n and 0 <= c <= n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples and k >= 1, but there are {n} samples")
    if not 0 <= c <= n:
        raise ValueError(f"{c} of {n} samples can't have passed")
    return (math.comb(n, k) - math.comb(n - c, k)) / math.comb(n, k)


def means(samples: Samples) -> NDArray[np.float64]:
    """(E,) mean of each example. ValueError for no examples, an example without samples, or a NaN."""
    if len(samples) == 0:
        raise ValueError("there are no examples to measure")
    if any(len(row) == 0 for row in samples):
        raise ValueError("every example needs at least one sample")
    result = np.array([math.fsum(row) / len(row) for row in samples])
    if not np.isfinite(result).all():
        raise ValueError("samples must be finite numbers")
    return result


def interval(
    values: Sequence[float] | NDArray[np.floating], seed: int = 0, resamples: int = 10_000
) -> Interval:
    """
    The mean of `values`, one per example, with a 95 % bootstrap interval.

    The percentile bootstrap, widened for small E: its tails are those that give Student's t interval its
    coverage (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", the expanded percentile).
    Chosen by simulated coverage on paired differences of pass rates (1000 data sets, 4 samples, no change):

        E                       10      20      60      200
        expanded percentile     0.943   0.952   0.955   0.950
        percentile              0.917   0.930   0.950   0.950
        BCa                     0.899   0.915   0.941   0.948

    One example says nothing of others: the interval is infinite. Equal values give an interval of width zero.
    ValueError for no values.
    """
    data = means(np.asarray(values, dtype=np.float64).reshape(-1, 1))
    estimate = float(data.mean())
    if len(data) == 1:
        return Interval(estimate, -math.inf, math.inf)
    if np.ptp(data) == 0:
        return Interval(estimate, estimate, estimate)
    from scipy import stats

    n = len(data)
    tail = float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1)))
    rng = np.random.default_rng(seed)
    found = stats.bootstrap(
        (data,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, CHUNK // n),
        confidence_level=1 - 2 * tail,
        method="percentile",
        rng=rng,
    ).confidence_interval
    return Interval(estimate, float(found.low), float(found.high))


def paired_difference(before: Samples, after: Samples, seed: int = 0, resamples: int = 10_000) -> Interval:
    """
    How much better `after` is than `before` on the same examples: mean difference, 95 % interval, p-value.

    Both are (E, K) rewards, row for row of the same example; K may differ between rows and arms. Over the (E,)
    differences of means, each end of the interval is the farther one of `interval` and of Student's t: t holds
    where few rows differ at all, the bootstrap where the differences are skewed. p is that of `sign_flip_p`.
    With one example, p is 1 and the interval infinite. Where all differences are equal the interval has width
    zero, and p alone says how far so few examples go. Where all rewards lie between 0 and 1 the ends stay between
    -1 and 1. ValueError for no examples, or different numbers of them.

    Coverage of 54 structures at each E (bench/coverage.py: 1 to 16 samples, three spreads of difficulty, no
    effect, one on all rows or on 8 % of them; pass or fail and graded rewards):

        E                           10      20      60      200
        median                      0.949   0.952   0.952   0.953
        share within 0.93 to 0.97   0.61    0.74    0.87    1.00
        the same of `interval`      0.43    0.65    0.83    0.98
        lowest                      0.351   0.558   0.843   0.931

    The lowest are effects that sit in 8 % of the rows: with 10 examples, none of those rows is drawn in 43 of
    100 comparisons (66, where half the rows were solved anyway), which then look as if nothing had changed. An
    interval that allows for it nearly always covers "no change", and is three times as wide where rewards
    hardly vary. Interval and p disagree about "no change" in 2 to 3 of 100 comparisons.
    """
    if len(before) != len(after):
        raise ValueError(f"before has {len(before)} examples and after {len(after)}; they must be the same")
    differences = means(after) - means(before)
    found = interval(differences, seed, resamples)
    half = t_half_width(differences)
    low, high = min(found.low, found.estimate - half), max(found.high, found.estimate + half)
    if len(differences) > 1 and all(
        0 <= reward <= 1 for arm in (before, after) for row in arm for reward in row
    ):
        low, high = max(low, -1.0), min(high, 1.0)
    return Interval(found.estimate, low, high, sign_flip_p(differences, seed, resamples))


def crossed(values: Samples) -> Interval:
    """
    The mean of (S, E) values, those of S training seeds on the same E examples, with a 95 % interval over both.

    A result must carry over to new seeds and to new examples. In the model mean + seed + example + rest, the mean has
    the variance (MS_seeds + MS_examples - MS_rest) / S E by mean squares, here never less than by one of them alone,
    and Student's t has Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946). p is of "it is 0".
    One seed says nothing of others, nor does one example: then, and where all values are equal, interval and p are
    those of `paired_difference` from 0, over examples alone. ValueError for no values, or rows of other lengths.

    Simulated coverage, the lowest and the highest of seven ratios of the three spreads at 12, 40 and 200 examples:

        S        2                3                5                10
                 0.905 to 0.991   0.936 to 0.991   0.945 to 0.989   0.946 to 0.988
    """
    data = np.array([means([[x] for x in row]) for row in values])
    if data.size == 0:
        raise ValueError("there are no values to measure")
    (seeds, examples), estimate = data.shape, float(data.mean())
    by_example, by_seed = data.mean(0), data.mean(1)
    if seeds == 1 or examples == 1 or np.ptp(data) == 0:
        return paired_difference(np.zeros((examples, 1)), by_example[:, None])
    from scipy.special import stdtr, stdtrit

    rest = data - by_example - by_seed[:, None] + estimate
    squares = np.array([examples * by_seed.var(ddof=1), seeds * by_example.var(ddof=1)])
    degrees = np.array([seeds - 1, examples - 1])
    left = (rest**2).sum() / degrees.prod()
    variance = max(squares.sum() - left, squares.max(), left)
    freedom = variance**2 / max((squares**2 / degrees).sum(), 1e-300)
    freedom = min(max(freedom, 1.0), float(degrees.prod()))
    error = math.sqrt(variance / data.size)
    half = float(stdtrit(freedom, 0.975)) * error
    return Interval(
        estimate, estimate - half, estimate + half, float(2 * stdtr(freedom, -abs(estimate) / error))
    )


def t_half_width(values: NDArray[np.floating]) -> float:
    """Half the width of Student's 95 % interval for the mean; infinite for one value, 0 for equal ones."""
    if len(values) == 1:
        return math.inf
    if np.ptp(values) == 0:
        return 0.0
    from scipy.special import stdtrit

    return float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values)))


def sign_flip_p(differences: NDArray[np.floating], seed: int = 0, resamples: int = 10_000) -> float:
    """
    Two-sided p-value of "each difference might as well have the other sign", for (E,) differences.

    All 2**E signs where that is no more than `resamples`, otherwise that many at random. The observed signs
    count as one more, so that p is never 0 (Phipson and Smyth 2010). `scipy.stats.permutation_test` gives
    the same values and takes ten times as long.
    """
    n = len(differences)
    observed = abs(differences.sum())
    # Sums that differ by rounding alone are ties.
    threshold = observed - 1e-9 * (np.abs(differences).sum() or 1.0)
    if 2**n <= resamples:
        signs = (np.arange(2**n)[:, None] >> np.arange(n) & 1) * 2.0 - 1.0
        return float((np.abs(signs @ differences) >= threshold).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    rows = max(1, CHUNK // n)
    for start in range(0, resamples, rows):
        signs = rng.integers(0, 2, (min(rows, resamples - start), n), dtype=np.int8) * 2.0 - 1.0
        extreme += int((np.abs(signs @ differences) >= threshold).sum())
    return (extreme + 1) / (resamples + 1)


def gain_p(differences: NDArray[np.floating], resamples: int = 100_000) -> float:
    """
    One-sided p-value of "there is no gain", for (E,) paired differences: signs are flipped, the sum is compared.

    Exact where the differences lie on a grid, as those of mean 0/1 rewards do, or where few of them are not zero;
    otherwise by `resamples` random flips, so that p is at least 1 / (resamples + 1). 1 for no differences.
    """
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return 1.0
    grid = _grid(sizes)
    if grid:
        whole = np.rint(sizes * grid).astype(int)
        return _tail(whole, int(np.rint(differences.sum() * grid)))
    rng = np.random.default_rng(0)
    threshold = differences.sum() - 1e-9 * sizes.sum()
    extreme, rows = 0, max(1, CHUNK // len(sizes))
    for start in range(0, resamples, rows):
        signs = rng.integers(0, 2, (min(rows, resamples - start), len(sizes)), dtype=np.int8) * 2.0 - 1.0
        extreme += int((signs @ sizes >= threshold).sum())
    return (extreme + 1) / (resamples + 1)


def _grid(sizes: NDArray[np.floating]) -> int:
    """The smallest n up to `FINEST` such that all sizes are whole multiples of 1/n; 0 if there is none."""
    fits = (n for n in range(1, FINEST + 1) if np.abs(sizes * n - np.rint(sizes * n)).max() < 1e-9)
    return next(fits, 0)


def _tail(sizes: NDArray[np.integer], total: int) -> float:
    """The chance that whole numbers with random signs add up to at least `total`: one convolution a number."""
    chances, reach = np.ones(1), int(sizes.sum())
    for size in sizes:
        step = np.zeros(2 * int(size) + 1)
        step[0] = step[-1] = 0.5
        chances = np.convolve(chances, step)
    return float(min(1.0, chances[total + reach :].sum()))


def smallest_gain(
    examples: int, samples: int = 1, *, level: float = 0.05, sides: int = 2, power: float = 0.8
) -> float:
    """
    The smallest true gain in mean reward that a paired comparison shows with a chance of `power`.

    For rewards from 0 to 1, before anything is known of the task, so with much noise: the gain g comes from a
    share g of the rows, which go from never to always solved, and all others are fair coins. One example's
    difference then has the variance (1 - g) (g + 1 / 2K) for K samples, and g is (t_level + t_power) standard
    errors, at E - 1 degrees of freedom. At most 1: no gain is sure to show.
    """
    if examples < 2 or 2.0**-examples > level / sides:
        return 1.0
    from scipy.special import stdtrit

    quantiles = stdtrit(examples - 1, 1 - level / sides) + stdtrit(examples - 1, power)
    scale, coin = float(quantiles) ** 2 / examples, 1 / (2 * samples)
    # g**2 = scale (1 - g) (g + coin), a quadratic a g**2 - b g - c = 0.
    a, b, c = 1 + scale, scale * (1 - coin), scale * coin
    return min(1.0, (b + math.sqrt(b * b + 4 * a * c)) / (2 * a))
