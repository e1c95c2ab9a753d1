"""The state that a training step hands to the next one, and the record that it leaves for people."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from edgewise.learner.monitoring.collapse import StepStats
from edgewise.learner.update.gradient_step import UpdateStats
from edgewise.toolkit.evaluation.statistics import mean
from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.types import Group


@dataclass(frozen=True, slots=True)
class TrainingState:
    """
    State of training beside weights and optimizer, saved in each checkpoint under these names.

    It holds all that the next step depends on, so that a resumed run goes on as if it had not stopped: random numbers
    follow from `number`. `slowed` is a factor on the learning rate, halved at each collapse. `best` is the step of the
    best checkpoint. `stopped` says why learning ended early.
    """

    number: int = 0
    memory: Memory = field(default_factory=Memory)
    history: tuple[StepStats, ...] = ()
    slowed: float = 1.0
    collapses: int = 0
    best: int = 0
    stopped: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        # Memory writes itself: what `asdict` makes of its rollouts could not be read back.
        return {**asdict(replace(self, memory=Memory())), "memory": self.memory.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TrainingState":
        """Read what `to_json` returns."""
        history = tuple(StepStats(**stats) for stats in data["history"])
        return cls(**{**data, "memory": Memory.from_json(data["memory"]), "history": history})


@dataclass(frozen=True, slots=True)
class WeightsStep:
    """
    Record of a step. `rollback` says to which step learning went back, and why.

    `has_smaller_slices` means that memory was too short for slices as large as before.
    """

    number: int
    epoch: int
    groups: tuple[Group, ...]
    statistics: StepStats
    update: UpdateStats | None
    learning_rate: float
    rollback: str = ""
    has_smaller_slices: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with the names of step.json."""
        rollouts = [rollout for group in self.groups for rollout in group.rollouts]
        # Keys of step.json, which reports and resumed comparisons read: they outlive the names of fields.
        statistics = asdict(self.statistics)
        return {
            "step": self.number,
            "epoch": self.epoch,
            "statistics": {
                "runs": len(rollouts),
                "failed": sum(rollout.failed for rollout in rollouts),
                "mean_reward": statistics.pop("reward"),
                "mixed": mean([group.is_mixed for group in self.groups]),
                **statistics,
            },
            "update": asdict(self.update) if self.update else None,
            "rate": self.learning_rate,
            "went": self.rollback,
            "groups": [{"example": g.example.id, "rewards": list(g.rewards)} for g in self.groups],
        }

    def summary(self) -> str:
        """Return one line for people."""
        stats, update = self.statistics, self.update
        outcome = "nothing to learn from"
        if update:
            outcome = f"gradient {update.norm:.2g}, sampler off by {update.mismatch:.1g} nats"
        outcome += f"; {self.rollback}" if self.rollback else ""
        if update and self.has_smaller_slices:
            outcome += f"; memory is short: slices of {update.tokens} tokens now"
        return (
            f"step {self.number}: mean reward {stats.reward:.2f}, "
            f"{mean([group.is_mixed for group in self.groups]):.0%} of groups mixed, {stats.length:.0f} tokens, "
            f"{stats.entropy:.2f} nats a token; {outcome}"
        )
