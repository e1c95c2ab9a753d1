"""What one step of training hands to the next, and what it leaves for people."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from edgewise.learner.monitoring.collapse import StepStats, mean
from edgewise.learner.update.gradient_step import UpdateStats
from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.types import Group


@dataclass(frozen=True, slots=True)
class TrainingState:
    """
    What one step hands to the next beside the weights; it is saved with them.

    `slowed` is a factor on the learning rate, halved at each collapse. `best` is the step of the best checkpoint.
    `stopped` says why learning ended early.
    """

    number: int = 0
    memory: Memory = field(default_factory=Memory)
    history: tuple[StepStats, ...] = ()
    slowed: float = 1.0
    collapses: int = 0
    best: int = 0
    stopped: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(replace(self, memory=Memory())), "memory": self.memory.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TrainingState":
        """What `to_json` wrote."""
        history = [StepStats(**each) for each in data["history"]]
        return cls(
            **{
                **data,
                "memory": Memory.from_json(data["memory"]),
                "history": tuple(history),
            }
        )


@dataclass(frozen=True, slots=True)
class WeightsStep:
    """
    What a step saw and did; `went` says where learning went back to, and why.

    `halved` says that memory was too short for slices as large as before.
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
        """Plain data."""
        members = [run for each in self.groups for run in each.rollouts]
        return {
            "step": self.number,
            "epoch": self.epoch,
            "statistics": {
                "runs": len(members),
                "failed": sum(run.failed for run in members),
                "mean_reward": self.statistics.reward,
                "mixed": mean([each.is_mixed for each in self.groups]),
                **{name: value for name, value in asdict(self.statistics).items() if name != "reward"},
            },
            "update": asdict(self.update) if self.update else None,
            "rate": self.learning_rate,
            "went": self.rollback,
            "groups": [{"example": g.example.id, "rewards": list(g.rewards)} for g in self.groups],
        }

    def summary(self) -> str:
        """One line for people."""
        seen, done = self.statistics, self.update
        mixed = mean([each.is_mixed for each in self.groups])
        learnt = (
            f"gradient {done.norm:.2g}, sampler off by {done.mismatch:.1g} nats"
            if done
            else "nothing to learn from"
        )
        went = f"; {self.rollback}" if self.rollback else ""
        went += f"; memory is short: slices of {done.tokens} tokens now" if done and self.has_smaller_slices else ""
        return (
            f"step {self.number}: mean reward {seen.reward:.2f}, {mixed:.0%} of groups mixed, "
            f"{seen.length:.0f} tokens, {seen.entropy:.2f} nats a token; {learnt}{went}"
        )
