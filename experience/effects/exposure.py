"""Exposures: which lessons a rollout's prompt held, and the reward that followed."""

import math
from dataclasses import dataclass

from edgewise.experience.library.library import Lesson, Library
from edgewise.toolkit.util.hashing import hash_text
from edgewise.toolkit.util.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Exposure:
    """
    One graded rollout: the lessons it could have been shown, those it was shown, and its reward.

    Rollouts of one `group` ("step 3/row 17") answer the same question under the same candidate lessons.
    `candidates` are the keys of lessons that were included at random, and `treatment` those of them that the prompt
    held. `row` is the question itself, whatever the step; "" stands for the group. A `reward` that is not finite is
    missing.
    """

    group: str
    reward: float
    candidates: frozenset[str]
    treatment: frozenset[str]
    row: str = ""


def measurement_key(lesson: Lesson) -> str:
    """Return what a measurement belongs to, id and wording: a reworded lesson is measured anew."""
    return f"{lesson.id}@{hash_text(lesson.text, 8)}"


def sample_subset(library: Library, share: float, seed: int) -> Library:
    """
    Return the library with each lesson included with probability `share`; always-on lessons all stay.

    Each lesson has a draw of its own from `seed` and its key: other lessons do not change it. `share` 1 returns
    the library itself. ValueError unless 0 < share <= 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of lessons to show is {share}; it must be above 0 and at most 1")
    if share == 1:
        return library
    threshold = share * 2**31  # seeds are uniform below 2^31
    return library.with_lessons(
        x for x in library.lessons if x.always or derive_seed(seed, measurement_key(x)) < threshold
    )


def record_exposure(group: str, library: Library, shown: Library, reward: float | None, row: str = "") -> Exposure:
    """
    Return the exposure of a rollout that was shown `shown`, a subset of `library`.

    `reward` is None without a valid score; such a rollout says nothing. Where a lesson may itself break a rollout,
    pass the reward of a failure. ValueError for a lesson that is not in the library.
    """
    unknown = {x.id for x in shown.lessons} - {x.id for x in library.lessons}
    if unknown:
        raise ValueError(f"lessons {sorted(unknown)} were shown, but are not in the library they come from")
    # Always-on lessons are in every prompt, so their effect can't be measured.
    candidates = frozenset(measurement_key(x) for x in library.lessons if not x.always)
    treatment = candidates & {measurement_key(x) for x in shown.lessons}
    return Exposure(group, math.nan if reward is None else float(reward), candidates, treatment, row)
