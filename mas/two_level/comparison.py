"""
What is compared at two levels, and its comparison by the distiller (see `mas.two_level.advantages`).

Winners are rollouts with a positive advantage, losers those with a negative one. At the sub level the attempts are
shown with their sub-tasks, as these differ.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgewise.experience.distil import prompts
from edgewise.experience.distil.distiller import (
    Comparison,
    Distiller,
    UnreadableReply,
    compare_summaries,
    summarise_rollout,
)
from edgewise.experience.library.library import Library
from edgewise.experience.library.operations import Operation
from edgewise.mas.two_level.advantages import MAIN, Array, Level, standardise
from edgewise.mas.two_level.delegation import SUB, DelegationSpec, read_subtasks, subtask_example
from edgewise.toolkit.types import Example, Plan, Rollout

INTRODUCTIONS = {
    MAIN: "The attempts are those of a planner. It hands parts of the task to sub-agents with the tool `delegate`, and "
    "answers by itself in the end. Write lessons for the planner: how to split such tasks, what to hand over, and how "
    "to put results together.",
    SUB: "The attempts are those of sub-agents, each at a part that a planner cut from the task. Write lessons for the "
    "sub-agents, who see their own part only: how to do parts like these.",
}


@dataclass(frozen=True, slots=True)
class Contrast:
    """
    Rollouts of one level to be compared: winners and losers, in the order in which they were sampled.

    `subtasks` are what each was asked, () at the main level. `siblings_of` is the id of the failed main rollout that
    all of them belong to, "" where they come from the whole query.
    """

    level: str
    example: Example
    rollouts: tuple[Rollout, ...]
    subtasks: tuple[str, ...] = ()
    siblings_of: str = ""


@dataclass(frozen=True, slots=True)
class ContrastResult:
    """A contrast and its comparison; `problem` says why there is none."""

    contrast: Contrast
    comparison: Comparison
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "level": self.contrast.level,
            "runs": [rollout.id for rollout in self.contrast.rollouts],
            "siblings_of": self.contrast.siblings_of,
            "summaries": list(self.comparison.summaries),
            "over_limit": [op.model_dump() for op in self.comparison.over_limit],
            "proposals": [op.model_dump() for op in self.comparison.proposals],
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class QueryStudy:
    """One query of a step: its two levels and the comparisons made in them."""

    main: Level
    sub: Level
    results: tuple[ContrastResult, ...]

    def proposals(self, level: str) -> list[Operation]:
        """Return the operations proposed for the library of a level."""
        results = [result for result in self.results if result.contrast.level == level]
        return [op for result in results for op in result.comparison.proposals]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "example": self.main.group.example.id,
            "levels": {level.group.role: level.to_json() for level in (self.main, self.sub)},
            "comparisons": [result.to_json() for result in self.results],
        }


def build_contrasts(
    main: Level, sub: Level, delegation: DelegationSpec, shown: int, siblings: int
) -> tuple[Contrast, ...]:
    """
    Return what a query gives to compare: its main rollouts, its sub rollouts, and siblings within failed main rollouts.

    At most `shown` winners and as many losers each; at most `siblings` failed main rollouts, those whose sub rollouts
    differ most in reward. A level that is skipped gives nothing by itself.
    """
    example = main.group.example
    contrasts = []
    if chosen := pick_extremes(main.advantages, shown):
        contrasts.append(Contrast(MAIN, example, tuple(main.group.rollouts[i] for i in chosen)))

    # Sub rollouts of the whole query, then those of one failed main rollout at a time: the siblings share the part of
    # main's correctness in their reward, so only the expert's part tells them apart.
    whole = pick_extremes(sub.advantages, shown)
    selections = [(whole, "")] if whole else []
    for parent, members in _failed_with_differences(main, sub)[:siblings]:
        chosen = [int(i) for i in members[pick_extremes(standardise(sub.rewards[members]), shown)]]
        if chosen != whole:
            selections.append((chosen, main.group.rollouts[parent].id))

    tasks = [subtask.task for rollout in main.group.rollouts for subtask in read_subtasks(rollout, delegation)]
    for indices, parent_id in selections:
        subs = tuple(sub.group.rollouts[i] for i in indices)
        contrasts.append(Contrast(SUB, example, subs, tuple(tasks[i] for i in indices), parent_id))
    return tuple(contrasts)


def pick_extremes(advantages: Array, most: int) -> list[int]:
    """Return indices of the `most` highest above 0 and of the `most` lowest below 0, in order; of equals the first."""
    highest = np.argsort(-advantages, kind="stable")
    lowest = np.argsort(advantages, kind="stable")
    winners = [int(i) for i in highest if advantages[i] > 0][:most]
    losers = [int(i) for i in lowest if advantages[i] < 0][:most]
    return sorted([*winners, *losers])


def _failed_with_differences(main: Level, sub: Level) -> list[tuple[int, np.ndarray]]:
    """Failed main rollouts whose sub rollouts differ in reward, with their indices; the widest difference first."""
    failed = []
    for parent, rollout in enumerate(main.group.rollouts):
        score = rollout.score
        is_wrong = score is not None and score.valid and score.parts["correct"] < 1
        members = np.flatnonzero((sub.parents == parent) & np.isfinite(sub.rewards))
        if is_wrong and len(members) and np.ptp(sub.rewards[members]) > 0:
            failed.append((parent, members))
    return sorted(failed, key=lambda pair: -np.ptp(sub.rewards[pair[1]]))


def compare_contrast(distiller: Distiller, contrast: Contrast, library: Library) -> Plan[ContrastResult]:
    """Summarise the rollouts, and compare them into operations for the level's library."""
    example, rollouts = contrast.example, contrast.rollouts
    # The target is the right answer of the whole row, not of a part of it.
    pieces = [replace(subtask_example(example, task), target=None) for task in contrast.subtasks]
    summaries = yield [
        summarise_rollout(distiller, piece, rollout)
        for piece, rollout in zip(pieces or [example] * len(rollouts), rollouts, strict=True)
    ]
    if contrast.subtasks:
        pairs = zip(contrast.subtasks, summaries, strict=True)
        summaries = [f"Sub-task: {task}\nResult: {summary}" for task, summary in pairs]

    introduced = replace(distiller, compare_prompt=f"{INTRODUCTIONS[contrast.level]}\n\n{prompts.COMPARE}")
    try:
        comparison = yield from compare_summaries(introduced, example, rollouts, summaries, library)
    except UnreadableReply as error:
        return ContrastResult(contrast, Comparison(tuple(summaries)), str(error))
    return ContrastResult(contrast, comparison)
