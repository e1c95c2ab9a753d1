"""
Whether measured effects find the harmful lessons of a library, and after how many rollouts.

Each simulated library has 10 harmful, 10 useful and 10 useless lessons: -0.10, +0.10 and 0 in mean reward on the rows
they apply to, half of all rows, drawn for each lesson. Lessons of one prompt add up on the logit scale; question
difficulties are normal there with a deviation of 1.5 (one question in ten is right less than 13 % of the time, one in
ten more than 87 %). 100 rows, groups of 5, so 1,500 rollouts are three epochs. Over all rows a lesson is thus worth
0.05: that, in a population of rows, is what intervals must cover.

Printed for several shares of lessons shown: harmful removed and useful lost (means of 10), useless removed, the
share of libraries with >= 9 and <= 1 of them, and coverage, mean width and bias of the intervals. "sure_0.8" is `prune`
with that confidence; "holm" and "bh" correct for 30 lessons (Holm, Benjamini-Hochberg). "where it applies" offers a
lesson only on its rows, as perfect retrieval would; "all rows" has lessons that apply everywhere; "every epoch" prunes
after each epoch on all rollouts so far. Last, plain leave-one-out on paired rows: its arms share one baseline,
whose luck is in all 30 estimates of a library.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # small matrices: threads would only wait for each other

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress

import numpy as np
from common import quick, report
from statsmodels.stats.multitest import multipletests

from edgewise.experience.effects.estimate import attach_effects
from edgewise.experience.effects.exposure import Exposure, measurement_key
from edgewise.experience.effects.pruning import estimate_ablation, prune
from edgewise.experience.library.library import Library, make_lesson

SIGNS = np.repeat([-1, 1, 0], 10)
LIBRARY = Library(tuple(make_lesson(f"lesson {number}") for number in range(len(SIGNS))))
KEYS = [measurement_key(x) for x in LIBRARY.lessons]
ROWS, GROUP, SPREAD, WORTH = 100, 5, 1.5, 0.10
STATED, EARLY, SHARE = 9_000, 3_000, 0.8
Prune = Callable[[Library], Library]


@dataclass(frozen=True)
class World:
    """How lessons work: their weights (30,), where they apply, whether they are offered elsewhere, how often shown."""

    weights: np.ndarray
    applies: float
    everywhere: bool
    share: float

    def rows(self, rng, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Difficulties (E,) and whether a lesson applies (E, 30)."""
        return rng.normal(0, SPREAD, number), rng.random((number, len(SIGNS))) < self.applies


def chance(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def effects(world: World, rng, number: int = 3_000, draws: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """The true effect (30,) on all rows where a lesson is offered, and on those where it applies."""
    level, applies = world.rows(rng, number)
    weights = applies * world.weights
    change = np.zeros(applies.shape)
    for _ in range(draws):
        shown = rng.random(applies.shape) < world.share
        logits = (level + (shown * weights).sum(axis=1))[:, None]
        change += (chance(logits + ~shown * weights) - chance(logits - shown * weights)) / draws
    there = (change * applies).sum(axis=0) / applies.sum(axis=0)
    return (change.mean(axis=0) if world.everywhere else there), there


def planted(applies: float, share: float, everywhere: bool = True) -> tuple[World, np.ndarray]:
    """A world whose lessons are worth WORTH where they apply, and their true effects where offered."""
    rng = np.random.default_rng(1)
    world = World(SIGNS * 0.7, applies, everywhere, share)
    for _ in range(8):
        _, there = effects(world, rng)
        size = np.array([abs(there[sign == SIGNS].mean()) if sign else 1 for sign in SIGNS])
        world = replace(world, weights=world.weights * np.where(SIGNS, WORTH / size, 1))
    found, _ = effects(world, rng, 6_000, 40)
    return world, np.array([found[sign == SIGNS].mean() for sign in SIGNS])


def rollouts(world: World, rng, number: int) -> list[Exposure]:
    """Epochs of one group a row under random subsets."""
    level, applies = world.rows(rng, ROWS)
    row = np.arange(number) // GROUP % ROWS
    offered = np.ones((number, len(SIGNS)), bool) if world.everywhere else applies[row]
    shown = offered & (rng.random(offered.shape) < world.share)
    rewards = rng.random(number) < chance(level[row] + (shown * applies[row] * world.weights).sum(axis=1))
    return [
        Exposure(f"group {i // GROUP}", float(rewards[i]), pick(offered[i]), pick(shown[i]), f"row {row[i]}")
        for i in range(number)
    ]


def pick(mask: np.ndarray) -> frozenset[str]:
    return frozenset(compress(KEYS, mask))


def by_interval(library: Library, sure: float = 0.975) -> Library:
    return prune(library, sure)[0]


def corrected(library: Library, method: str) -> Library:
    """Without the lessons that are harmful after a correction for their number."""
    from scipy import stats

    found = [x.effect for x in library.lessons]
    z = np.array([1.96 * e.estimate / (e.high - e.estimate) if e else 0.0 for e in found])
    rejected = multipletests(2 * stats.norm.sf(abs(z)), method=method)[0] & (z < 0)
    return library.with_lessons(x for x, out in zip(library.lessons, rejected, strict=True) if not out)


RULES: dict[str, Prune] = {
    "interval": by_interval,
    "sure_0.8": partial(by_interval, sure=0.8),
    "holm": partial(corrected, method="holm"),
    "bh": partial(corrected, method="fdr_bh"),
}


def removed(before: Library, after: Library) -> np.ndarray:
    """How many harmful, useful and useless lessons are gone (3,)."""
    kept = {x.id for x in after.lessons}
    gone = np.array([x.id not in kept for x in before.lessons])
    return np.array([gone[sign == SIGNS].sum() for sign in (-1, 1, 0)])


def score(libraries: list[Library], truth: np.ndarray, rules: dict[str, Prune]) -> dict[str, object]:
    """What the rules make of measured libraries."""
    gone = {name: np.array([removed(x, rule(x)) for x in libraries]) for name, rule in rules.items()}
    pairs = [(x.effect, true) for each in libraries for x, true in zip(each.lessons, truth, strict=True)]
    covered = [e.low <= true <= e.high for e, true in pairs if e]
    return {
        **{name: summary(counts) for name, counts in gone.items()},
        "coverage": round(float(np.mean(covered)), 3),
        "width": round(float(np.mean([e.high - e.low for e, _ in pairs if e])), 3),
        "bias": round(float(np.mean([e.estimate - true for e, true in pairs if e])), 4),
    }


def summary(counts: np.ndarray) -> dict[str, float]:
    harmful, useful, useless = counts.mean(axis=0).round(2)
    meets = ((counts[:, 0] >= 9) & (counts[:, 1] <= 1)).mean().round(2)
    return {"harmful": float(harmful), "useful": float(useful), "useless": float(useless), "meets": float(meets)}


def randomised(setting: tuple[World, np.ndarray], sizes: list[int], libraries: int) -> dict[str, dict[str, object]]:
    """Scores after so many rollouts; the smaller sizes are the first part of the larger ones."""
    world, truth = setting
    measured = {size: [] for size in sizes}
    for draw in range(libraries):
        seen = rollouts(world, np.random.default_rng([7, draw]), max(sizes))
        for size in sizes:
            measured[size].append(attach_effects(LIBRARY, seen[:size]))
    found = {str(size): score(measured[size], truth, RULES) for size in sizes}
    for size, scores in found.items():
        print(f"  {size:>6} rollouts:", scores, flush=True)
    return found


def looking(setting: tuple[World, np.ndarray], most: int, libraries: int) -> dict[str, dict[str, float]]:
    """What is removed by pruning after every epoch, each time on all rollouts so far."""
    world, _ = setting
    rules = {name: RULES[name] for name in ("interval", "sure_0.8")}
    gone = {name: [] for name in rules}
    for draw in range(libraries):
        seen = rollouts(world, np.random.default_rng([9, draw]), most)
        looks = [attach_effects(LIBRARY, seen[:end]) for end in range(ROWS * GROUP, most + 1, ROWS * GROUP)]
        for name, rule in rules.items():
            always = set.intersection(*({x.id for x in rule(look).lessons} for look in looks))
            left = LIBRARY.with_lessons(x for x in LIBRARY.lessons if x.id in always)
            gone[name].append(removed(LIBRARY, left))
    found = {name: summary(np.array(counts)) for name, counts in gone.items()}
    print(f"pruning after every epoch up to {most} rollouts:", found, flush=True)
    return found


def one_out(samples: list[int], libraries: int) -> dict[str, dict[str, object]]:
    """Each lesson left out once, so many samples of every row in each of the 31 arms."""
    world, truth = planted(0.5, share=1.0)
    found = {}
    for count in samples:
        rng = np.random.default_rng([8, count])
        measured = [without_each(world, rng, count) for _ in range(libraries)]
        rollouts = (len(SIGNS) + 1) * ROWS * count
        found[str(rollouts)] = score(measured, truth, {"interval": by_interval})
        print(f"  {rollouts:6} rollouts:", found[str(rollouts)], flush=True)
    return found


def without_each(world: World, rng, count: int) -> Library:
    level, applies = world.rows(rng, ROWS)
    weights = applies * world.weights
    total = level + weights.sum(axis=1)

    def graded(logits: np.ndarray) -> np.ndarray:
        return (rng.random((ROWS, count)) < chance(logits)[:, None]).astype(float)

    full = graded(total)
    return LIBRARY.with_lessons(
        replace(x, effect=estimate_ablation(full, graded(total - weights[:, k]))) for k, x in enumerate(LIBRARY.lessons)
    )


def main() -> int:
    fast = quick()
    sizes, libraries = ([EARLY, STATED], 10) if fast else ([1_500, 3_000, 6_000, STATED], 40)
    settings = {f"share {SHARE}": planted(0.5, SHARE)}
    if not fast:
        settings |= {
            "share 0.5": planted(0.5, 0.5),
            "where it applies": planted(0.5, SHARE, everywhere=False),
            "all rows": planted(1.0, SHARE),
        }
    figures: dict[str, object] = {"libraries": libraries}
    for name, setting in settings.items():
        print(f"{name}: true effects {setting[1][0]:+.3f}, {setting[1][10]:+.3f}, {setting[1][20]:+.3f}")
        figures[name] = randomised(setting, sizes, libraries)
    first = settings[f"share {SHARE}"]
    figures["every epoch"] = looking(first, EARLY if fast else 6_000, 4 if fast else 20)
    print("leave-one-out")
    figures["leave one out"] = one_out([10] if fast else [5, 10, 15, 20], 2 if fast else 8)
    found = figures[f"share {SHARE}"]
    late, early = found[str(STATED)], found[str(EARLY)]["sure_0.8"]
    figures |= {"rollouts": STATED, **late["interval"], "coverage": late["coverage"], "early": early}
    holds = all(x["harmful"] >= 9 and x["useful"] <= 1 for x in (late["interval"], early))
    bar = f"mean harmful removed >= 9 of 10, useful lost <= 1 of 10: by interval in {STATED:,} rollouts, by one look "
    bar += f"with confidence 0.8 in {EARLY:,}; coverage 0.93-0.97"
    return report("effect", figures, bar, holds and 0.93 <= late["coverage"] <= 0.97)


if __name__ == "__main__":
    sys.exit(main())
