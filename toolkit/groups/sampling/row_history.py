"""
What earlier steps taught about examples. Axes 1 and 2 (select, plan) read it; only the loop writes it, once a step.

A success is a rollout with the full reward: 1 or more. A reward in between counts as a failure here, and a
reward that is not valid counts for nothing. Where rewards have a meaning within their group only
(`Reward.relative`), there is nothing to learn from them about an example.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.types import Group, Rollout

FULL = 1.0

Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
F = TypeVar("F", bound=Callable[..., Any])


def recalls(*names: str) -> Callable[[F], F]:
    """Declare which of `Memory`'s collections a plan reads; those that no part declares stay empty."""

    def declared(part: F) -> F:
        part.recalls = frozenset(names)  # pyright: ignore[reportFunctionMemberAccess]
        return part

    return declared


@dataclass(frozen=True, slots=True)
class Record:
    """
    What is known of one example.

    `alpha` and `beta` are VADE's fading counts of successes and failures, `visits` the steps that it was in,
    `solved` whether every rollout of every visit had the full reward, `last` the round of the latest visit, `mean` the
    mean reward that it had then.
    """

    alpha: Weight = 0.0
    beta: Weight = 0.0
    visits: Count = 0
    solved: bool = False
    last: Count = 0
    mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0

    def after(self, rewards: Iterable[float], lam1: float, round: int) -> "Record":
        """The record after a visit with these rewards."""
        rewards = list(rewards)
        full = [reward >= FULL for reward in rewards]
        return Record(
            lam1 * self.alpha + sum(full),
            lam1 * self.beta + len(full) - sum(full),
            self.visits + 1,
            all(full) and (self.solved or not self.visits),
            round,
            math.fsum(rewards) / len(rewards),
        )


@dataclass(frozen=True, slots=True)
class Worked:
    """An answer that had the full reward, and what was asked."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Memory:
    """
    Records by example id, and the number of the current round.

    A round is as many steps as it takes to see as many examples as there are: an epoch, where examples are
    drawn without replacement. The loop says when one ends (`next_round`).

    What only plans that declare it (`recalls`) keep: `recent` are mean rewards of the latest groups; `rescued`, of
    each step that had such rows, the share of those that failed altogether when last seen, and did not now; `worked`
    the latest solution of each example; `leftover` groups that a step sampled and did not use; `buffer` rollouts that
    had an advantage, which is their mark "stored" (`toolkit.groups.sampling.rollout_plan.marked`).
    """

    records: Mapping[str, Record] = field(default_factory=dict)
    round: Count = 0
    recent: tuple[float, ...] = ()
    rescued: tuple[float, ...] = ()
    worked: Mapping[str, Worked] = field(default_factory=dict)
    leftover: tuple[Group, ...] = ()
    buffer: tuple[Rollout, ...] = ()

    def of(self, example: str) -> Record:
        """The record of an example, an empty one if it was never visited."""
        return self.records.get(example, Record())

    def age(self, example: str) -> int | None:
        """How many rounds ago an example was last visited (0: in this round), or None if it never was."""
        record = self.records.get(example)
        return None if record is None else self.round - record.last

    def after(self, groups: Iterable[Group], *, lam1: float = 0.2, lam2: float = 0.999) -> "Memory":
        """
        The memory after a step with these groups (VADE, arXiv 2511.18902).

        With r full rewards among G valid ones: alpha <- lam1 alpha + r, beta <- lam1 beta + G - r for the
        examples of the step, and lam2 times both for all others. Groups of one example are one visit; one
        without a valid reward is none. lam1 and lam2 are read off the paper's framework figure, and parameters of
        `toolkit.groups.sampling.row_selection.vade`.
        """
        rewards: dict[str, list[float]] = defaultdict(list)
        for group in groups:
            rewards[group.example.id] += group.rewards
        visited = {id: self.of(id).after(found, lam1, self.round) for id, found in rewards.items() if found}
        faded = {
            id: replace(record, alpha=lam2 * record.alpha, beta=lam2 * record.beta)
            for id, record in self.records.items()
        }
        return replace(self, records=faded | visited)

    def next_round(self) -> "Memory":
        """The same records, at the start of the next round."""
        return replace(self, round=self.round + 1)

    def to_json(self) -> dict[str, Any]:
        """Plain data, by example id in order: the same memory gives the same bytes."""
        return {
            "round": self.round,
            "records": {id: asdict(record) for id, record in sorted(self.records.items())},
            "recent": list(self.recent),
            "rescued": list(self.rescued),
            "worked": {id: asdict(each) for id, each in sorted(self.worked.items())},
            "leftover": [asdict(each) for each in self.leftover],
            "buffer": [asdict(each) for each in self.buffer],
        }

    @classmethod
    def from_json(cls, data: Any) -> "Memory":
        """What `to_json` wrote. Raises ArtifactError where it is something else."""
        try:
            saved = _Saved.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ArtifactError(f"This memory of a run can't be read ({where}: {first['msg']}).") from error
        return cls(**dict(saved))


class _Saved(BaseModel, extra="forbid"):
    round: Count
    records: dict[str, Record]
    recent: tuple[float, ...] = ()
    rescued: tuple[float, ...] = ()
    worked: dict[str, Worked] = {}
    leftover: tuple[Group, ...] = ()
    buffer: tuple[Rollout, ...] = ()
