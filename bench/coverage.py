"""
How often the 95 % interval of a paired difference holds the true gain, for many kinds of task.

A structure is a number of examples E and of samples K, a spread of difficulty over the examples, an effect, and a
kind of reward. Examples are drawn anew in each simulated comparison; the truth is the mean gain over all examples
that could have been drawn. The intervals of all comparisons of a structure are computed at once; a few of them
are compared with `paired_difference` itself, which also says how often the p-value and the interval disagree.

No interval can tell what is in rows that were not drawn. The bar is on structures where the data have something to go
on: at least `ENOUGH` examples with a difference, and at least so many that carry the effect, on average. Below that the
evaluation warns its reader (`toolkit.evaluation.comparison`). The others are printed beside it.

A share of 2,000 comparisons has a standard error of 0.005. A structure that is outside of the bar is simulated again,
with `AGAIN` times as many comparisons drawn anew, and that share counts; both are printed. The bar is in whole percent,
and so is the comparison with it.
"""

import itertools
import math
import statistics
import sys
from dataclasses import dataclass

import numpy as np
from common import quick, report
from numpy.typing import NDArray
from scipy import stats

from edgewise.toolkit.evaluation.statistics import paired_difference, sign_flip_p_value

Array = NDArray[np.float64]
EXAMPLES, SAMPLES = (10, 20, 60, 200), (1, 4, 16)
RESAMPLES = 1000
ENOUGH, AGAIN = 10, 10
COMPARED = 3  # with the function itself, of each structure
MOVED, HOPELESS = 0.08, 0.03
LOW, HIGH = 0.93, 0.97


@dataclass(frozen=True, slots=True)
class Structure:
    examples: int
    samples: int
    spread: str
    effect: str
    reward: str

    def __str__(self) -> str:
        return f"E{self.examples} K{self.samples} {self.spread}, {self.effect}, {self.reward}"


# Chance to pass of each example, and its mean over all examples.
SPREADS = {
    "equal": (lambda rng, shape: np.full(shape, 0.5), 0.5),
    "U-shaped": (lambda rng, shape: rng.beta(0.63, 0.25, shape), 0.63 / 0.88),
    "hopeless or solved": (lambda rng, shape: np.where(rng.random(shape) < 0.5, HOPELESS, 1 - HOPELESS), 0.5),
}

# The share of what an example lacks that it gains, and its mean over all examples.
EFFECTS = {
    "no effect": (lambda rng, shape: np.zeros(shape), 0.0),
    "all a bit": (lambda rng, shape: np.full(shape, 0.1), 0.1),
    "8 % of rows": (lambda rng, shape: 0.95 * (rng.random(shape) < MOVED), 0.95 * MOVED),
}


def passed(rng: np.random.Generator, chance: Array, samples: int) -> Array:
    return (rng.random((*chance.shape, samples)) < chance[..., None]).astype(float)


def graded(rng: np.random.Generator, chance: Array, samples: int) -> Array:
    """Rewards between 0 and 1 whose mean is `chance`."""
    shares = np.clip(chance, 1e-3, 1 - 1e-3)[..., None]
    return rng.beta(4 * shares, 4 * (1 - shares), (*chance.shape, samples))


REWARDS = {"pass or fail": passed, "graded": graded}


def weights(examples: int) -> Array:
    """(B, E): how often each of `paired_difference`'s resamples draws each example, over E."""
    identity = np.eye(examples)
    rng = np.random.default_rng(0)
    drawn = stats.bootstrap((identity,), np.mean, n_resamples=RESAMPLES, method="percentile", axis=1, rng=rng)
    return drawn.bootstrap_distribution.T


def intervals(differences: Array, weight: Array) -> tuple[Array, Array]:
    """(S,) lower and upper ends of `paired_difference` for (S, E) differences."""
    n = differences.shape[1]
    tail = stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1))
    low, high = np.quantile(differences @ weight.T, [tail, 1 - tail], axis=1)
    mean = differences.mean(axis=1)
    half = stats.t.ppf(0.975, n - 1) * differences.std(axis=1, ddof=1) / math.sqrt(n)
    return np.clip(np.minimum(low, mean - half), -1, None), np.clip(np.maximum(high, mean + half), None, 1)


def simulate(structure: Structure, count: int, rng: np.random.Generator) -> tuple[Array, Array, float]:
    """(S, E, K) rewards before and after, and the true gain."""
    spread, mean = SPREADS[structure.spread]
    effect, gain = EFFECTS[structure.effect]
    draw = REWARDS[structure.reward]
    shape = count, structure.examples
    chance = spread(rng, shape)
    moved = chance + effect(rng, shape) * (1 - chance)
    before, after = (draw(rng, p, structure.samples) for p in (chance, moved))
    return before, after, gain * (1 - mean)


def coverage(
    structure: Structure, weight: Array, count: int, tested: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """
    The share of intervals that hold the truth, the share whose p-value says something else of "no gain", and how
    many examples differ or carry the effect on average, whichever is fewer.
    """
    before, after, gain = simulate(structure, count, rng)
    differences = after.mean(axis=2) - before.mean(axis=2)
    low, high = intervals(differences, weight)
    for s in range(COMPARED):
        real = paired_difference(before[s], after[s], resamples=RESAMPLES)
        assert np.allclose((real.low, real.high), (low[s], high[s]), atol=1e-9), structure
    small = [sign_flip_p_value(row, resamples=RESAMPLES) < 0.05 for row in differences[:tested]]
    without_zero = (low[:tested] > 0) | (high[:tested] < 0)
    disagree = float((without_zero != small).mean()) if tested else 0.0
    # Rounding must not put the truth outside an interval of width zero.
    held = (low <= gain + 1e-9) & (gain - 1e-9 <= high)
    carriers = structure.examples * (MOVED if structure.effect == "8 % of rows" else 1)
    differing = min(carriers, float((np.abs(differences) > 1e-9).sum(axis=1).mean()))
    return float(held.mean()), disagree, differing


def measure(count: int, tested: int) -> dict[Structure, tuple[float, float, float]]:
    rng = np.random.default_rng(1)
    found = {}
    for examples in EXAMPLES:
        weight = weights(examples)
        for parts in itertools.product(SAMPLES, SPREADS, EFFECTS, REWARDS):
            structure = Structure(examples, *parts)
            found[structure] = coverage(structure, weight, count, tested, rng)
            print(structure, *(f"{figure:.3f}" for figure in found[structure]), sep="\t", file=sys.stderr)
    return found


def settled(found: dict[Structure, tuple[float, float, float]], count: int) -> tuple[dict[Structure, float], list[str]]:
    """The share of each structure, that of more comparisons where the first one is outside of the bar; and which."""
    held, again = {s: share for s, (share, _, _) in found.items()}, []
    for structure, (share, _, differing) in found.items():
        if differing >= ENOUGH and not LOW <= share <= HIGH:
            rng = np.random.default_rng(2)
            parts = [coverage(structure, weights(structure.examples), count, 0, rng)[0] for _ in range(AGAIN)]
            held[structure] = statistics.mean(parts)
            again.append(f"{structure}: {share:.4f}, then {held[structure]:.4f}")
    return held, again


def summary(held: list[float]) -> dict[str, float]:
    inside = sum(LOW <= share <= HIGH for share in held) / len(held)
    figures = {"lowest": min(held), "median": statistics.median(held), "highest": max(held), "in_bar": inside}
    return {name: round(figure, 3) for name, figure in figures.items()}


def main() -> int:
    count, tested = (400, 20) if quick() else (2000, 100)
    found = measure(count, tested)
    held, again = settled(found, count)
    regular = [structure for structure, (_, _, differing) in found.items() if differing >= ENOUGH]
    worst = sorted(held, key=lambda structure: held[structure])
    bound = summary([held[structure] for structure in regular])
    figures = {
        "enough_rows": {**bound, "structures": len(regular)},
        "all": summary(list(held.values())),
        **{f"E{n}": summary([share for s, share in held.items() if s.examples == n]) for n in EXAMPLES},
        **{effect: summary([h for s, h in held.items() if s.effect == effect]) for effect in EFFECTS},
        "worst": [f"{structure}: {held[structure]:.3f}" for structure in worst[:3]],
        "worst_with_enough": [f"{s}: {held[s]:.3f}" for s in worst if s in regular][:3],
        "highest_of": f"{worst[-1]}",
        "simulated_again": again,
        "p_disagrees": round(statistics.mean(disagree for _, disagree, _ in found.values()), 4),
        "structures": len(found),
        "simulations": count,
    }
    holds = round(bound["lowest"], 2) >= LOW and round(bound["highest"], 2) <= HIGH
    return report("coverage", figures, f"0.93 to 0.97 for each structure of {ENOUGH} rows or more that differ", holds)


if __name__ == "__main__":
    sys.exit(main())
