"""
Statistics of examples from earlier steps. Axes 1 and 2 (select, plan) read them; only the loop writes, once a step.

A success is a rollout with the full reward: 1 or more. A reward in between counts as a failure, and an invalid one is
ignored. Where rewards have a meaning within their group only (`Reward.relative`), nothing is recorded.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.types import Group, Rollout
from edgewise.toolkit.util.validation import describe_error

FULL_REWARD = 1.0

Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
F = TypeVar("F", bound=Callable[..., Any])

# Keys of groups and rollouts in stored files, by the names of the fields.
STORED_KEYS: Mapping[str, str] = {
    "rollouts": "members", "prompt": "seen", "completion": "said", "tokens": "encoded", "subrollouts": "calls",
    "prompt_ids": "prompt", "completion_ids": "reply",
}  # fmt: skip
FIELD_NAMES: Mapping[str, str] = {key: name for name, key in STORED_KEYS.items()}
FREE_FORM = frozenset({"metadata", "target", "parts"})
"""Fields with keys of the task's own."""


def recalls_history(*names: str) -> Callable[[F], F]:
    """Declare which of `Memory`'s collections a plan reads; those that no part declares stay empty."""

    def decorate(part: F) -> F:
        part.recalls = frozenset(names)  # pyright: ignore[reportFunctionMemberAccess]
        return part

    return decorate


@dataclass(frozen=True, slots=True)
class Record:
    """Statistics of one example."""

    alpha: Weight = 0.0  # VADE's fading count of successes
    beta: Weight = 0.0  # and of failures
    visits: Count = 0  # steps that sampled the example
    solved: bool = False  # whether every rollout of every visit had the full reward
    last: Count = 0  # round of the latest visit
    mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0  # mean reward of the latest visit

    def update(self, rewards: Iterable[float], lam1: float, round: int) -> "Record":
        """Return the record after a visit with these rewards."""
        rewards = list(rewards)
        successes = [reward >= FULL_REWARD for reward in rewards]
        return Record(
            lam1 * self.alpha + sum(successes),
            lam1 * self.beta + len(successes) - sum(successes),
            self.visits + 1,
            all(successes) and (self.solved or not self.visits),
            round,
            math.fsum(rewards) / len(rewards),
        )


@dataclass(frozen=True, slots=True)
class SolvedExample:
    """A question and an answer that had the full reward."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Memory:
    """
    Records by example id, and the number of the current round.

    A round is as many steps as it takes to see as many examples as there are: an epoch, where examples are sampled
    without replacement. The loop calls `next_round` at its end. The other collections are filled only for plans that
    declare them with `recalls_history`.
    """

    records: Mapping[str, Record] = field(default_factory=dict)
    round: Count = 0
    recent: tuple[float, ...] = ()  # mean rewards of the latest groups
    rescued: tuple[float, ...] = ()  # of each step, the share of its failed rows that were solved at last
    worked: Mapping[str, SolvedExample] = field(default_factory=dict)  # latest solution of each example
    leftover: tuple[Group, ...] = ()  # groups that a step sampled and did not use
    buffer: tuple[Rollout, ...] = ()  # rollouts with an advantage, which is their mark "stored"

    def record_of(self, example: str) -> Record:
        """Return the record of an example, an empty one if it was never visited."""
        return self.records.get(example, Record())

    def age(self, example: str) -> int | None:
        """Return the rounds since an example's latest visit (0: in this round), or None if it was never visited."""
        record = self.records.get(example)
        return None if record is None else self.round - record.last

    def update(self, groups: Iterable[Group], *, lam1: float = 0.2, lam2: float = 0.999) -> "Memory":
        """
        Return the memory after a step with these groups (VADE, arXiv 2511.18902).

        Groups of one example are one visit; one without a valid reward is none. lam1 and lam2 are parameters of
        `toolkit.groups.sampling.row_selection.vade`.
        """
        # With r full rewards among G valid ones: alpha <- lam1 alpha + r, beta <- lam1 beta + G - r for the examples
        # of the step, and lam2 times both for all others. The defaults are read off the paper's framework figure.
        rewards: dict[str, list[float]] = defaultdict(list)
        for group in groups:
            rewards[group.example.id] += group.rewards
        visited = {id: self.record_of(id).update(values, lam1, self.round) for id, values in rewards.items() if values}
        faded = {
            id: replace(record, alpha=lam2 * record.alpha, beta=lam2 * record.beta)
            for id, record in self.records.items()
        }
        return replace(self, records=faded | visited)

    def next_round(self) -> "Memory":
        """Return the same records at the start of the next round."""
        return replace(self, round=self.round + 1)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, by example id in order: the same memory gives the same bytes."""
        return {
            "round": self.round,
            "records": {id: asdict(record) for id, record in sorted(self.records.items())},
            "recent": list(self.recent),
            "rescued": list(self.rescued),
            "worked": {id: asdict(solved) for id, solved in sorted(self.worked.items())},
            "leftover": [_rename_keys(asdict(group), STORED_KEYS) for group in self.leftover],
            "buffer": [_rename_keys(asdict(rollout), STORED_KEYS) for rollout in self.buffer],
        }

    @classmethod
    def from_json(cls, data: Any) -> "Memory":
        """Read the output of `to_json`. Raises ArtifactError for anything else."""
        if isinstance(data, dict):
            stored = {key: data[key] for key in ("leftover", "buffer") if key in data}
            data = {**data, **_rename_keys(stored, FIELD_NAMES)}
        try:
            return cls(**dict(_StoredMemory.model_validate(data)))
        except ValidationError as error:
            raise ArtifactError(f"This memory of a run can't be read ({describe_error(error)}).") from error


class _StoredMemory(BaseModel, extra="forbid"):
    round: Count
    records: dict[str, Record]
    recent: tuple[float, ...] = ()
    rescued: tuple[float, ...] = ()
    worked: dict[str, SolvedExample] = {}
    leftover: tuple[Group, ...] = ()
    buffer: tuple[Rollout, ...] = ()


def _rename_keys(data: Any, names: Mapping[str, str]) -> Any:
    """Rename the keys of nested plain data, but not those of the task's own data."""
    if isinstance(data, list | tuple):
        return [_rename_keys(item, names) for item in data]
    if not isinstance(data, dict):
        return data
    return {
        names.get(key, key): value if key in FREE_FORM else _rename_keys(value, names) for key, value in data.items()
    }
