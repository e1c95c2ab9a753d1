"""Removal of lessons whose measured effect is harmful."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from edgewise.experience.effects.estimate import MISS_BOUND
from edgewise.experience.library.library import Effect, Lesson, Library
from edgewise.toolkit.evaluation.statistics import Samples, paired_difference

Z_975 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class PrunedLesson:
    """A lesson that `prune` holds for harmful and why; `kept` where it stays because it is locked."""

    lesson: Lesson
    reason: str
    kept: bool = False


def prune(
    library: Library, confidence: float | Callable[[Lesson], float] = 0.975
) -> tuple[Library, tuple[PrunedLesson, ...]]:
    """
    Return the library without its harmful lessons, and each harmful lesson with the reason.

    A lesson goes when it is harmful with this one-sided confidence; by default when its whole 95 % interval lies
    below zero, which is safe to ask after every step. 0.8 needs a third of the rollouts and loses one useless lesson
    in five: for a single look at many rollouts, where the outcome is then tested as a whole. The confidence may be a
    function of the lesson. Locked lessons are reported and stay. ValueError unless 0.5 <= confidence < 1.
    """
    harmful = []
    for lesson in library.lessons:
        effect = lesson.effect
        if effect is None:
            continue
        required = confidence(lesson) if callable(confidence) else confidence
        if not 0.5 <= required < 1:
            raise ValueError(f"the confidence that a lesson is harmful is {required}; it must be from 0.5 to below 1")

        # The bound at another confidence, as the interval is taken for normal: scaled by z(confidence) / z(0.975).
        narrowed = NormalDist().inv_cdf(required) / Z_975
        if effect.estimate + narrowed * (effect.high - effect.estimate) < 0:
            reason = (
                f"lowers the reward by {-effect.estimate:.2f} [{effect.low:+.2f}, {effect.high:+.2f}] "
                f"over {effect.uses + effect.unused:,} rollouts"
            )
            harmful.append(PrunedLesson(lesson, reason, lesson.locked))
    removed = {pruned.lesson.id for pruned in harmful if not pruned.kept}
    return library.with_lessons(x for x in library.lessons if x.id not in removed), tuple(harmful)


def select_undecided(library: Library, limit: int) -> tuple[Lesson, ...]:
    """
    Return at most `limit` lessons where one more measurement decides something, the worst first.

    Those are lessons with an estimate below zero and an interval that reaches above it, then unmeasured ones. Locked
    lessons are never among them: no measurement removes them.
    """
    # An interval wholly above or below zero has been decided, and so has an estimate above it: it stays.
    free = [x for x in library.lessons if not x.locked]
    doubtful = [x for x in free if x.effect and x.effect.estimate < 0 <= x.effect.high]
    doubtful.sort(key=lambda x: x.effect.estimate if x.effect else 0.0)
    unmeasured = [x for x in free if x.effect is None]
    return tuple([*doubtful, *unmeasured][: max(limit, 0)])


def estimate_ablation(with_it: Samples, without: Samples) -> Effect:
    """
    Estimate the effect of a lesson from rewards with the whole library and with all of it but this lesson.

    Both are [rows, samples] with the same rows and seeds, so differences are paired by row (see
    `toolkit.evaluation.statistics.paired_difference`). ValueError for different rows or fewer than two of them.
    """
    # Rows are the sample: from one of them there is no variance between rows.
    if len(with_it) == 1:
        raise ValueError("one row says nothing of others: leave a lesson out on at least two rows")
    difference = paired_difference(without, with_it)
    uses, unused = (sum(map(len, arm)) for arm in (with_it, without))

    # No narrower than what may have gone unseen, as in `estimate_effects`.
    rows = [[*a, *b] for a, b in zip(with_it, without, strict=True)]
    largest = max(float(max(rewards) - min(rewards)) for rewards in rows) or 1.0
    least = MISS_BOUND * largest / min(uses, unused)
    low = min(difference.low, difference.estimate - least)
    high = max(difference.high, difference.estimate + least)
    return Effect(difference.estimate, low, high, uses, unused)


def pool_effects(one: Effect | None, other: Effect) -> Effect:
    """
    Pool two measurements of one lesson by inverse variance (fixed effect).

    With intervals of width w, the estimate is sum(b / w^2) / sum(1 / w^2) and its interval 1 / sqrt(sum(1 / w^2)) wide.
    """
    if one is None:
        return other
    weights = [1 / (x.high - x.low) ** 2 for x in (one, other)]
    estimate = (weights[0] * one.estimate + weights[1] * other.estimate) / sum(weights)
    half = 0.5 / math.sqrt(sum(weights))
    return Effect(estimate, estimate - half, estimate + half, one.uses + other.uses, one.unused + other.unused)
