"""Records of training: the state between steps, the study of a group, and the record of a step."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from edgewise.experience.distil.distiller import Comparison
from edgewise.experience.effects.exposure import Exposure
from edgewise.experience.effects.pruning import PrunedLesson
from edgewise.experience.library import operations
from edgewise.experience.library.library import Library
from edgewise.toolkit.evaluation.gate import AlphaSpending, Choice
from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.types import Group


@dataclass(frozen=True, slots=True)
class ExperienceState:
    """The state that one step hands to the next; only the loop replaces it."""

    library: Library
    spending: AlphaSpending
    memory: Memory = field(default_factory=Memory)
    exposures: tuple[Exposure, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupStudy:
    """
    A finished group and its comparison; `skip_reason` says why there is none, "" where there is one.

    `has_signal` says whether there was something to compare: a group whose comparison failed has signal too.
    """

    group: Group
    comparison: Comparison = Comparison()
    skip_reason: str = ""
    has_signal: bool = True

    @property
    def proposals(self) -> tuple[operations.Operation, ...]:
        """The operations that the group proposes."""
        return self.comparison.proposals

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "example": self.group.example.id,
            "rewards": list(self.group.rewards),
            "summaries": list(self.comparison.summaries),
            "over_limit": [op.model_dump() for op in self.comparison.over_limit],
            "proposals": [op.model_dump() for op in self.proposals],
            # Keys are those of all runs so far; reports read them by name.
            "skipped": self.skip_reason,
        }


@dataclass(frozen=True, slots=True)
class ExperienceStep:
    """
    The record of one step; `to_json` is the content of RUN/steps/NNN/step.json.

    `outcomes` are those of the batch update's operations, `incomplete` says why there was no update. `harmful`
    are lessons that measurably did harm. `state` is what the next step starts from.
    """

    number: int
    epoch: int
    studies: tuple[GroupStudy, ...]
    outcomes: tuple[operations.OperationOutcome, ...]
    incomplete: str
    choice: Choice[Library] | None
    harmful: tuple[PrunedLesson, ...]
    state: ExperienceState

    @property
    def library(self) -> Library:
        """The library after the step."""
        return self.state.library

    @property
    def groups(self) -> list[Group]:
        """The groups of the step, in order."""
        return [study.group for study in self.studies]

    def to_json(self) -> dict[str, Any]:
        """Return plain data: rewards and tool calls of the groups, proposals, operations, the choice, the library."""
        return {
            "step": self.number,
            "epoch": self.epoch,
            "complete": not self.incomplete,
            "incomplete": self.incomplete,
            "statistics": summarise_groups(self.groups),
            "groups": [study.to_json() for study in self.studies],
            "operations": operations.as_json(self.outcomes),
            "gate": self.choice.to_json() if self.choice else None,
            "dropped": [asdict(lesson) for lesson in self.harmful],
            "library": self.library.to_json(),
        }

    def summary(self) -> str:
        """Return one line for people."""
        numbers = summarise_groups(self.groups)
        # A locked lesson is reported as harmful and stays.
        applied = sum(outcome.applied for outcome in self.outcomes)
        dropped = sum(not lesson.kept for lesson in self.harmful)
        parts = [
            f"step {self.number}: mean reward {numbers['mean_reward']:.2f}, "
            f"{numbers['mixed']:.0%} of groups mixed, {applied} of {len(self.outcomes)} operations applied",
            f"incomplete: {self.incomplete}" if self.incomplete else "",
            self.choice.summary() if self.choice else "",
            f"{dropped} harmful dropped" if dropped else "",
            f"{len(self.library)} lessons",
        ]
        return "; ".join(filter(None, parts))


def summarise_groups(groups: Sequence[Group]) -> dict[str, float]:
    """
    Return the mean reward, pass@G, the share of mixed groups and the tool calls of a rollout, among others.

    pass@G is the share of groups in which any rollout has the full reward.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return {
        "runs": len(rollouts),
        "failed": sum(rollout.failed for rollout in rollouts),
        "mean_reward": mean_or_zero([reward for group in groups for reward in group.rewards]),
        "pass": mean_or_zero([any(reward >= 1 for reward in group.rewards) for group in groups]),
        "mixed": mean_or_zero([group.is_mixed for group in groups]),
        "tool_calls": mean_or_zero([rollout.tool_call_count for rollout in rollouts]),
    }


def mean_or_zero(values: Sequence[float]) -> float:
    """Return the mean; 0 for no values."""
    return float(np.mean(values)) if len(values) else 0.0
