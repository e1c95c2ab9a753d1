"""
Finished groups of rollouts as arrays: the input of axes 3 to 6 of a method (shape, keep, advantage, credit).

N rollouts, M steps of all rollouts together, G groups.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

F = TypeVar("F", bound=Callable[..., Any])


def reads_columns(*names: str) -> Callable[[F], F]:
    """Declare the columns that a part of a method reads; a column that no part declares is not computed."""

    def decorate(part: F) -> F:
        part.columns = frozenset(names)  # pyright: ignore[reportFunctionMemberAccess]
        return part

    return decorate


@dataclass(frozen=True, slots=True)
class Table:
    """
    N rollouts and their M steps.

    `columns` holds further data by name, each (N,) or (M,). A column of `step_columns` is (M,) in any case, which
    matters where N = M. Raises ValueError where lengths do not fit.
    """

    group: NDArray[np.int64]  # (N,) number of the rollout's group, from 0
    reward: NDArray[np.float64]  # (N,)
    rollout: NDArray[np.int64]  # (M,) index of the rollout that the step belongs to
    columns: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    step_columns: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.group) != len(self.reward):
            raise ValueError(f"{len(self.group)} groups are named for {len(self.reward)} rewards")
        if len(self.rollout) and not 0 <= self.rollout.min() <= self.rollout.max() < len(self.reward):
            raise ValueError("a step belongs to a rollout that is not there")

        for name, column in self.columns.items():
            if len(column) not in (len(self.reward), len(self.rollout)):
                raise ValueError(f"column {name!r} has {len(column)} values, neither one a rollout nor one a step")
        for name, column in self.step_columns.items():
            if len(column) != len(self.rollout):
                raise ValueError(f"column {name!r} has {len(column)} values for {len(self.rollout)} steps")

    @classmethod
    def from_arrays(cls, group: ArrayLike, reward: ArrayLike, rollout: ArrayLike = (), **columns: ArrayLike) -> "Table":
        """Make a table of anything that numpy reads; groups may have any labels."""
        # Labels become numbers from 0, in sorted order.
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
        """Return a column by name. Raises ValueError that lists the existing ones."""
        columns = {**self.columns, **self.step_columns}
        if name not in columns:
            raise ValueError(f"the table has no column {name!r}, only {sorted(columns)}")
        return columns[name]

    def select_columns(self, names: Collection[str]) -> "Table":
        """Return the table with no other columns than these."""
        return replace(
            self,
            columns={name: column for name, column in self.columns.items() if name in names},
            step_columns={name: column for name, column in self.step_columns.items() if name in names},
        )

    def select_rollouts(self, mask: NDArray[np.bool_]) -> "Table":
        """Return the rollouts of a mask (N,), with their steps; groups keep their numbers."""
        steps = mask[self.rollout]  # (M,)
        return Table(
            self.group[mask],
            self.reward[mask],
            # The running count of selected rollouts is the new index of each.
            (np.cumsum(mask) - 1)[self.rollout[steps]],
            {name: x[mask if len(x) == len(self) else steps] for name, x in self.columns.items()},
            {name: column[steps] for name, column in self.step_columns.items()},
        )

    @property
    def n_groups(self) -> int:
        """G, the number of groups."""
        return int(self.group.max()) + 1 if len(self) else 0

    @property
    def step_group(self) -> NDArray[np.int64]:
        """(M,) the group of each step."""
        return self.group[self.rollout]

    @property
    def has_equal_rewards(self) -> NDArray[np.bool_]:
        """(G,) whether all rewards of a group are exactly equal, so that it holds no signal."""
        # Extremes are compared, never a deviation: the mean of equal floats can differ from them by rounding.
        low, high = np.full(self.n_groups, np.inf), np.full(self.n_groups, -np.inf)
        np.minimum.at(low, self.group, self.reward)
        np.maximum.at(high, self.group, self.reward)
        return low == high


def compute_group_means(group: NDArray[np.int64], values: NDArray[np.float64], n_groups: int) -> NDArray[np.float64]:
    """Return the mean of the values of each group (G,), 0 for a group without any."""
    # Groups may be empty where rollouts were dropped: they keep their numbers.
    return np.bincount(group, values, n_groups) / np.maximum(1, np.bincount(group, minlength=n_groups))
