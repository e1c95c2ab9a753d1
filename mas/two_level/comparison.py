"""
What is compared at two levels, and the comparison of it (see `mas.two_level.advantages`, `mas.two_level.loop`).

Winners are members with a positive advantage, losers those with a negative one. At the sub level the attempts are shown
with the sub-tasks that they were asked, as these differ.
"""

from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from edgewise.experience.distil import distiller as distil
from edgewise.experience.distil import prompts
from edgewise.experience.distil.distiller import Comparison, Distiller, UnreadableReply
from edgewise.experience.library.library import Library
from edgewise.experience.library.operations import Operation
from edgewise.mas.two_level.advantages import MAIN, Array, Level, standardised
from edgewise.mas.two_level.delegation import SUB, DelegationSpec, orders, part
from edgewise.toolkit.types import Example, Plan, Rollout

STUDIED = {
    MAIN: "The attempts are those of a planner. It hands parts of the task to sub-agents with the tool `delegate`, and "
    "answers by itself in the end. Write lessons for the planner: how to split such tasks, what to hand over, and how "
    "to put results together.",
    SUB: "The attempts are those of sub-agents, each at a part that a planner cut from the task. Write lessons for the "
    "sub-agents, who see their own part only: how to do parts like these.",
}


@dataclass(frozen=True, slots=True)
class Contrast:
    """
    Runs of one level to be compared: winners and losers, in the order in which they were drawn.

    `tasks` are the sub-tasks that they were asked, () at the main level. `siblings_of` is the failed main run that all
    of them belong to, "" where they come from the whole query.
    """

    level: str
    example: Example
    runs: tuple[Rollout, ...]
    tasks: tuple[str, ...] = ()
    siblings_of: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """A contrast and what came of it; `problem` says why nothing did."""

    contrast: Contrast
    comparison: Comparison
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "level": self.contrast.level,
            "runs": [run.id for run in self.contrast.runs],
            "siblings_of": self.contrast.siblings_of,
            "summaries": list(self.comparison.summaries),
            "over_limit": [op.model_dump() for op in self.comparison.over_limit],
            "proposals": [op.model_dump() for op in self.comparison.proposals],
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Studied:
    """One query of a step: its two levels and the comparisons made in them."""

    main: Level
    sub: Level
    compared: tuple[Compared, ...]

    def proposals(self, level: str) -> list[Operation]:
        """The operations proposed for the library of a level."""
        return [
            op for each in self.compared if each.contrast.level == level for op in each.comparison.proposals
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "example": self.main.group.example.id,
            "levels": {level.group.role: level.to_json() for level in (self.main, self.sub)},
            "comparisons": [each.to_json() for each in self.compared],
        }


def contrasts(
    main: Level, sub: Level, terms: DelegationSpec, shown: int, siblings: int
) -> tuple[Contrast, ...]:
    """
    What a query gives to compare: its main runs, its sub runs, and siblings within main runs that failed.

    At most `shown` winners and as many losers each; at most `siblings` failed main runs, those whose sub runs differ
    most in reward. A level that is skipped gives nothing by itself.
    """
    example = main.group.example
    tasks = [order.task for run in main.group.rollouts for order in orders(run, terms)]
    found = []
    if picked := picks(main.advantages, shown):
        found.append(Contrast(MAIN, example, tuple(main.group.rollouts[i] for i in picked)))
    whole = picks(sub.advantages, shown)
    below = [(whole, "")] if whole else []
    for parent, members in _torn(main, sub)[:siblings]:
        picked = members[picks(standardised(sub.rewards[members]), shown)]
        if list(picked) != whole:
            below.append((list(picked), main.group.rollouts[parent].id))
    return (
        *found,
        *(
            Contrast(
                SUB,
                example,
                tuple(sub.group.rollouts[i] for i in indices),
                tuple(tasks[i] for i in indices),
                parent,
            )
            for indices, parent in below
        ),
    )


def picks(advantages: Array, most: int) -> list[int]:
    """Indices of the `most` highest above 0 and of the `most` lowest below 0, in order; of equals the first."""
    ranked = np.argsort(-advantages, kind="stable")
    winners = [int(i) for i in ranked if advantages[i] > 0][:most]
    losers = [int(i) for i in np.argsort(advantages, kind="stable") if advantages[i] < 0][:most]
    return sorted([*winners, *losers])


def _torn(main: Level, sub: Level) -> list[tuple[int, np.ndarray]]:
    """Failed main runs whose sub runs differ in reward, with the indices of these; the widest difference first."""
    found = []
    for parent, run in enumerate(main.group.rollouts):
        members = np.flatnonzero((sub.parents == parent) & np.isfinite(sub.rewards))
        if _lost(run) and len(members) and np.ptp(sub.rewards[members]) > 0:
            found.append((parent, members))
    return sorted(found, key=lambda each: -np.ptp(sub.rewards[each[1]]))


def _lost(run: Rollout) -> bool:
    return bool(run.score and run.score.valid and run.score.parts["correct"] < 1)


def compared(distiller: Distiller, contrast: Contrast, library: Library) -> Plan[Compared]:
    """Summaries of the runs, and the operations that their comparison proposes for the level's library."""
    example, runs = contrast.example, contrast.runs
    # The right answer of the whole is none of a part.
    pieces = [replace(part(example, task), target=None) for task in contrast.tasks] or [example] * len(runs)
    plain = yield [distil.summarise_rollout(distiller, *pair) for pair in zip(pieces, runs, strict=True)]
    summaries = [_shown(*pair) for pair in zip_longest(plain, contrast.tasks)]
    told = replace(distiller, comparing=f"{STUDIED[contrast.level]}\n\n{prompts.COMPARE}")
    try:
        found = yield from distil.compare_summaries(told, example, runs, summaries, library)
    except UnreadableReply as error:
        return Compared(contrast, Comparison(tuple(summaries)), str(error))
    return Compared(contrast, found)


def _shown(summary: str, task: str | None) -> str:
    return summary if task is None else f"Sub-task: {task}\nResult: {summary}"
