"""Rewards of trials as rows: one for each trial, or one for all trials of a shape."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.mas.designs.graph_features import Features, hash_shape
from edgewise.mas.designs.interface import Query, Trial, TrialGroup
from edgewise.mas.graph.graph import Graph

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Observations:
    """
    T rows, each the mean of `counts` trials of one graph: (T, D) queries and (T,) rewards and their squares.

    A mean over trials has the mean of their queries (a kernel that is linear in the query says of it what it says of
    them in the mean), and what is known of its `noise` (T, T): that of a reward is 1, that of a query as a whole 1/2.
    """

    graphs: tuple[Graph, ...]
    queries: Features
    rewards: Features
    squares: Features
    counts: Features
    noise: Features

    @classmethod
    def of(cls, groups: Sequence[TrialGroup], roles: tuple[str, ...]) -> "Observations":
        """A row for each trial of the drafts, and for one of each other shape that ran beside them."""
        trials = [(n, g.query, t) for n, g in enumerate(groups) for t in _distinct(g, roles)]
        rewards, group = np.array([t.reward for _, _, t in trials]), np.array([n for n, _, _ in trials])
        return cls(
            tuple(t.draft.graph for _, _, t in trials),
            np.stack([unit_features(query) for _, query, _ in trials]),
            rewards,
            rewards**2,
            np.ones(len(trials)),
            np.eye(len(trials)) + (group[:, None] == group) / 2,
        )

    def __len__(self) -> int:
        return len(self.graphs)

    def plus(self, other: "Observations") -> "Observations":
        """These rows and, after them, those of other groups."""
        across = np.zeros((len(self), len(other)))
        return Observations(
            self.graphs + other.graphs,
            np.concatenate((self.queries, other.queries)),
            np.append(self.rewards, other.rewards),
            np.append(self.squares, other.squares),
            np.append(self.counts, other.counts),
            np.block([[self.noise, across], [across.T, other.noise]]),
        )

    def joined(self, roles: tuple[str, ...]) -> "Observations":
        """One row for each shape, at the place of its last one."""
        shapes = [hash_shape(roles, graph) for graph in reversed(self.graphs)]
        _, last, which = np.unique(shapes, return_index=True, return_inverse=True)
        place, which = len(self) - 1 - last, which[::-1]
        order = np.argsort(which, kind="stable")
        starts = np.searchsorted(which[order], np.arange(len(last)))
        counts = np.add.reduceat(self.counts[order], starts)
        share = self.counts / counts[which]

        def means(rows: Features) -> Features:
            return np.add.reduceat((rows.T * share).T[order], starts, axis=0)

        found = Observations(
            tuple(self.graphs[i] for i in place),
            means(self.queries),
            means(self.rewards),
            means(self.squares),
            counts,
            means(means(self.noise).T),
        )
        return found._at(np.argsort(place))

    def last(self, count: int) -> "Observations":
        """At most so many rows: those of fewest trials go, the oldest of them first."""
        going = np.argsort(self.counts, kind="stable")
        return self._at(np.sort(going[max(0, len(self) - count) :]))

    def _at(self, places: Numbers) -> "Observations":
        return Observations(
            tuple(self.graphs[i] for i in places),
            self.queries[places],
            self.rewards[places],
            self.squares[places],
            self.counts[places],
            self.noise[np.ix_(places, places)],
        )

    def mean(self, values: Features) -> float:
        """Of a number for each row, over all trials."""
        return float(np.average(values, weights=self.counts))

    @property
    def spread(self) -> float:
        """The standard deviation of the rewards of all trials."""
        return max(0.0, self.mean(self.squares) - self.mean(self.rewards) ** 2) ** 0.5


def _distinct(group: TrialGroup, roles: tuple[str, ...]) -> list[Trial]:
    drafted = {hash_shape(roles, t.draft.graph) for t in group.trials}
    others = {hash_shape(roles, t.draft.graph): t for t in group.extra_trials}
    return [*group.trials, *(t for key, t in others.items() if key not in drafted)]


def unit_features(query: Query) -> Features:
    """(D,) the features of a query, of length 1."""
    length = float(np.linalg.norm(query.features))
    return query.features.astype(np.float64) / (length or 1.0)
