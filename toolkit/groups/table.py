"""
Finished groups as arrays, which axes 3 to 6 read (shape, keep, advantage, credit).

N rollouts, M steps of all rollouts together.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

F = TypeVar("F", bound=Callable[..., Any])


def reads(*names: str) -> Callable[[F], F]:
    """Declare the columns that a part of a method reads; a column that no part declares is not computed."""

    def declared(part: F) -> F:
        part.columns = frozenset(names)  # pyright: ignore[reportFunctionMemberAccess]
        return part

    return declared


@dataclass(frozen=True, slots=True)
class Table:
    """
    N rollouts and their M steps.

    `group` (N,) numbers the group of each rollout from 0, `reward` (N,) is in float64, `rollout` (M,) is the row of
    the rollout that each step belongs to. `columns` holds what else a function reads, by name: (N,) or (M,), where
    (N,) is meant if N = M; `step_columns` those that are (M,) in any case. ValueError where lengths do not fit.
    """

    group: NDArray[np.int64]
    reward: NDArray[np.float64]
    rollout: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    step_columns: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.group) != len(self.reward):
            raise ValueError(f"{len(self.group)} groups are named for {len(self.reward)} rewards")
        if len(self.rollout) and not 0 <= self.rollout.min() <= self.rollout.max() < len(self.reward):
            raise ValueError("a step belongs to a rollout that is not there")
        for name, column in self.columns.items():
            if len(column) not in (len(self.reward), len(self.rollout)):
                raise ValueError(
                    f"column {name!r} has {len(column)} values, neither one a rollout nor one a step"
                )
        for name, column in self.step_columns.items():
            if len(column) != len(self.rollout):
                raise ValueError(f"column {name!r} has {len(column)} values for {len(self.rollout)} steps")

    @classmethod
    def of(
        cls, group: ArrayLike, reward: ArrayLike, rollout: ArrayLike = (), **columns: ArrayLike
    ) -> "Table":
        """A table of anything that numpy reads; groups may have any labels."""
        _, numbers = np.unique(np.asarray(group), return_inverse=True)
        return cls(
            numbers.reshape(-1),
            np.asarray(reward, np.float64),
            np.asarray(rollout, np.int64),
            {name: np.asarray(column, np.float64) for name, column in columns.items()},
        )

    def __len__(self) -> int:
        return len(self.reward)

    def column(self, name: str) -> NDArray[np.float64]:
        """A column by name. ValueError that says which there are."""
        found = {**self.columns, **self.step_columns}
        if name not in found:
            raise ValueError(f"the table has no column {name!r}, only {sorted(found)}")
        return found[name]

    def only(self, names: Collection[str]) -> "Table":
        """The same without other columns."""
        return replace(
            self,
            columns={name: column for name, column in self.columns.items() if name in names},
            step_columns={name: column for name, column in self.step_columns.items() if name in names},
        )

    def rows(self, kept: NDArray[np.bool_]) -> "Table":
        """The same of some rollouts (N,), with their steps; groups keep their numbers."""
        steps = kept[self.rollout]
        return Table(
            self.group[kept],
            self.reward[kept],
            (np.cumsum(kept) - 1)[self.rollout[steps]],
            {name: x[kept if len(x) == len(self) else steps] for name, x in self.columns.items()},
            {name: column[steps] for name, column in self.step_columns.items()},
        )

    def with_reward(self, reward: NDArray[np.float64]) -> "Table":
        """The same rollouts with other rewards."""
        return replace(self, reward=reward)

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return int(self.group.max()) + 1 if len(self) else 0

    @property
    def step_group(self) -> NDArray[np.int64]:
        """(M,) the group of each step."""
        return self.group[self.rollout]

    @property
    def dead(self) -> NDArray[np.bool_]:
        """(groups,) whether all rewards of a group are exactly equal: it says nothing of its rollouts."""
        low, high = np.full(self.groups, np.inf), np.full(self.groups, -np.inf)
        np.minimum.at(low, self.group, self.reward)
        np.maximum.at(high, self.group, self.reward)
        return low == high


def group_mean(group: NDArray[np.int64], values: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """(groups,) the mean of the values of each group, 0 for a group without any."""
    return np.bincount(group, values, groups) / np.maximum(1, np.bincount(group, minlength=groups))
