"""Records of a training step: state, groups, statistics."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from edgewise.experience.distil.distiller import Comparison
from edgewise.experience.effects.exposure import Exposure
from edgewise.experience.effects.pruning import PrunedLesson
from edgewise.experience.library import operations
from edgewise.experience.library.library import Library
from edgewise.toolkit.evaluation.gate import Choice, AlphaSpending
from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.types import Group


@dataclass(frozen=True, slots=True)
class ExperienceState:
    """What one step hands to the next; only the loop writes it."""

    library: Library
    spending: AlphaSpending
    memory: Memory = field(default_factory=Memory)
    seen: tuple[Exposure, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupStudy:
    """
    A finished group and what was made of it; `skipped` says why there is no comparison.

    `signal` says whether there was something to compare.
    """

    group: Group
    comparison: Comparison = Comparison()
    skipped: str = ""
    signal: bool = True

    @property
    def proposals(self) -> tuple[operations.Operation, ...]:
        """The operations that the group proposes."""
        return self.comparison.proposals

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "example": self.group.example.id,
            "rewards": list(self.group.rewards),
            "summaries": list(self.comparison.summaries),
            "over_limit": [op.model_dump() for op in self.comparison.over_limit],
            "proposals": [op.model_dump() for op in self.proposals],
            "skipped": self.skipped,
        }


@dataclass(frozen=True, slots=True)
class ExperienceStep:
    """
    What one step saw and did; `to_json` is what RUN/steps/NNN/step.json holds.

    `outcomes` is what became of the operations of the batch update, `incomplete` why there was none. `dropped`
    are lessons that measurably did harm. `state` is what the next step starts from.
    """

    number: int
    epoch: int
    studies: tuple[GroupStudy, ...]
    outcomes: tuple[operations.OperationOutcome, ...]
    incomplete: str
    choice: Choice[Library] | None
    dropped: tuple[PrunedLesson, ...]
    state: ExperienceState

    @property
    def library(self) -> Library:
        """The library after the step."""
        return self.state.library

    def to_json(self) -> dict[str, Any]:
        """Plain data: rewards and tool calls of the groups, proposals, operations, the choice, the library."""
        return {
            "step": self.number,
            "epoch": self.epoch,
            "complete": not self.incomplete,
            "incomplete": self.incomplete,
            "statistics": statistics([study.group for study in self.studies]),
            "groups": [study.to_json() for study in self.studies],
            "operations": operations.as_json(self.outcomes),
            "gate": self.choice.to_json() if self.choice else None,
            "dropped": [asdict(each) for each in self.dropped],
            "library": self.library.to_json(),
        }

    def summary(self) -> str:
        """One line for people."""
        found = statistics([study.group for study in self.studies])
        applied = sum(outcome.applied for outcome in self.outcomes)
        decided = f"; {self.choice.summary()}" if self.choice else ""
        failed = f"; incomplete: {self.incomplete}" if self.incomplete else ""
        gone = sum(not each.kept for each in self.dropped)
        dropped = f"; {gone} harmful dropped" if gone else ""
        return (
            f"step {self.number}: mean reward {found['mean_reward']:.2f}, {found['mixed']:.0%} of groups mixed, "
            f"{applied} of {len(self.outcomes)} operations applied{failed}{decided}{dropped}; "
            f"{len(self.library)} lessons"
        )


def statistics(groups: Sequence[Group]) -> dict[str, float]:
    """Mean reward, pass@G (any run of a group at full reward), share of mixed groups, tool calls a run."""
    runs = [run for group in groups for run in group.rollouts]
    return {
        "runs": len(runs),
        "failed": sum(run.failed for run in runs),
        "mean_reward": mean([reward for group in groups for reward in group.rewards]),
        "pass": mean([any(r >= 1 for r in group.rewards) for group in groups]),
        "mixed": mean([group.is_mixed for group in groups]),
        "tool_calls": mean([run.tool_call_count for run in runs]),
    }


def mean(values: Sequence[float]) -> float:
    """The mean; 0 for no values."""
    return float(np.mean(values)) if len(values) else 0.0
