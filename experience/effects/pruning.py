"""Removal of lessons whose measured effect is harmful."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from edgewise.experience.effects.estimate import UNSEEN, _largest
from edgewise.experience.library.library import Effect, Lesson, Library
from edgewise.toolkit.evaluation.statistics import Samples, paired_difference


@dataclass(frozen=True, slots=True)
class PrunedLesson:
    """A lesson that `prune` found harmful and why; `kept` where it stays because it is locked."""

    lesson: Lesson
    reason: str
    kept: bool = False


def prune(
    library: Library, sure: float | Callable[[Lesson], float] = 0.975
) -> tuple[Library, tuple[PrunedLesson, ...]]:
    """
    The library without its harmful lessons, and each harmful lesson with the reason.

    A lesson goes when it is harmful with (one-sided) confidence `sure`; by default when its whole 95 % interval lies
    below zero, which is safe to ask after every step. 0.8 needs a third of the rollouts and loses one useless lesson
    in five: for a single look at many rollouts, where the outcome is then tested as a whole. It may be a function of
    the lesson. Locked lessons are reported and kept. ValueError unless 0.5 <= sure < 1.
    """
    needed = sure if callable(sure) else lambda lesson: sure
    measured = [(x, x.effect, needed(x)) for x in library.lessons if x.effect]
    found = [
        PrunedLesson(x, _reason(effect), x.locked) for x, effect, least in measured if _harmful(effect, least)
    ]
    gone = {each.lesson.id for each in found if not each.kept}
    return library.with_lessons(x for x in library.lessons if x.id not in gone), tuple(found)


def select_undecided(library: Library, most: int) -> tuple[Lesson, ...]:
    """
    At most `most` lessons where one more measurement decides something, the worst first.

    Those are lessons with an estimate below zero and an interval that reaches above it, then unmeasured ones. Locked
    lessons are none of them: no measurement removes them.
    """
    free = [x for x in library.lessons if not x.locked]
    doubtful = [x for x in free if x.effect and x.effect.estimate < 0 <= x.effect.high]
    doubtful.sort(key=lambda x: x.effect.estimate if x.effect else 0.0)
    return tuple([*doubtful, *(x for x in free if x.effect is None)][: max(most, 0)])


def estimate_ablation(with_it: Samples, without: Samples) -> Effect:
    """
    The effect of a lesson from rewards with the whole library and with all of it but this lesson.

    Both are (E, K): the same rows and seeds in both, so differences are paired by row (see
    `toolkit.evaluation.statistics.paired_difference`). ValueError for different rows or fewer than two of them.
    """
    if len(with_it) == 1:
        raise ValueError("one row says nothing of others: leave a lesson out on at least two rows")
    found = paired_difference(without, with_it)
    uses, unused = (sum(map(len, arm)) for arm in (with_it, without))
    scale = _largest([*a, *b] for a, b in zip(with_it, without, strict=True))
    least = UNSEEN * scale / min(uses, unused)
    low, high = min(found.low, found.estimate - least), max(found.high, found.estimate + least)
    return Effect(found.estimate, low, high, uses, unused)


def pool_effects(one: Effect | None, other: Effect) -> Effect:
    """Two measurements of one lesson as one, each weighted by the inverse of its interval's squared width."""
    if one is None:
        return other
    weights = [1 / (x.high - x.low) ** 2 for x in (one, other)]
    estimate = (weights[0] * one.estimate + weights[1] * other.estimate) / sum(weights)
    half = 0.5 / math.sqrt(sum(weights))
    return Effect(
        estimate, estimate - half, estimate + half, one.uses + other.uses, one.unused + other.unused
    )


def _harmful(effect: Effect, sure: float) -> bool:
    """Whether the one-sided bound at confidence `sure`, scaled from that of the 95 % interval, is below 0."""
    if not 0.5 <= sure < 1:
        raise ValueError(f"the confidence that a lesson is harmful is {sure}; it must be from 0.5 to below 1")
    narrowed = NormalDist().inv_cdf(sure) / NormalDist().inv_cdf(0.975)
    return effect.estimate + narrowed * (effect.high - effect.estimate) < 0


def _reason(effect: Effect) -> str:
    return (
        f"lowers the reward by {-effect.estimate:.2f} [{effect.low:+.2f}, {effect.high:+.2f}] "
        f"over {effect.uses + effect.unused:,} rollouts"
    )
