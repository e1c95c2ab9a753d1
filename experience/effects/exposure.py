"""Exposures: which lessons a rollout's prompt held, and the reward that followed."""

import hashlib
import math
from dataclasses import dataclass

from edgewise.experience.library.library import Lesson, Library
from edgewise.toolkit.util.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Exposure:
    """
    One graded rollout: what it could have been shown, what it was shown, and its reward.

    Rollouts of one `group` ("step 3/row 17") answer the same question under the same candidate lessons. `offered` and
    `shown` are keys of lessons that were included at random. `row` is the question itself, whatever the step;
    "" stands for the group. A `reward` that is not finite is missing.
    """

    group: str
    reward: float
    candidates: frozenset[str]
    treatment: frozenset[str]
    row: str = ""


def measurement_key(lesson: Lesson) -> str:
    """What a measurement belongs to, id and wording: a reworded lesson is a new thing to measure."""
    return f"{lesson.id}@{hashlib.sha256(lesson.text.encode()).hexdigest()[:8]}"


def sample_subset(library: Library, share: float, seed: int) -> Library:
    """
    The library with each lesson kept with probability `share`; lessons that are always on all stay.

    Each lesson has a draw of its own from `seed` and its key: other lessons do not change it. `share` 1 returns
    the library itself. ValueError unless 0 < share <= 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of lessons to show is {share}; it must be above 0 and at most 1")
    if share == 1:
        return library
    most = share * 2**31
    return library.with_lessons(x for x in library.lessons if x.always or derive_seed(seed, measurement_key(x)) < most)


def record_exposure(group: str, library: Library, shown: Library, reward: float | None, row: str = "") -> Exposure:
    """
    A rollout that was shown `shown`, a `subset` of `library`; `reward` is None where it has no valid score.

    A missing reward says nothing. Where a lesson may itself break a rollout, pass the reward of a failure. ValueError
    for a lesson that is not in the library.
    """
    strange = {x.id for x in shown.lessons} - {x.id for x in library.lessons}
    if strange:
        raise ValueError(f"lessons {sorted(strange)} were shown, but are not in the library they come from")
    offered = frozenset(measurement_key(x) for x in library.lessons if not x.always)
    value = math.nan if reward is None else float(reward)
    return Exposure(group, value, offered, offered & {measurement_key(x) for x in shown.lessons}, row)
