"""Rewards of trials as rows for the surrogate: a row for each trial, or one for all trials of a shape."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.mas.designs.graph_features import FloatArray, hash_shape
from edgewise.mas.designs.interface import Query, TrialGroup
from edgewise.mas.graph.graph import Graph

Integers = NDArray[np.int64]

# Noise variance that the trials of one query in one step share, in units of that of a single reward.
GROUP_NOISE = 0.5


@dataclass(frozen=True, slots=True)
class Observations:
    """
    T rows, each the mean of `counts` trials of one graph.

    `squares` are mean squared rewards. `noise` is the covariance of the rows' noise, in units of the noise variance of
    a single reward.
    """

    graphs: tuple[Graph, ...]
    queries: FloatArray  # [T, D]
    rewards: FloatArray  # [T]
    squares: FloatArray  # [T]
    counts: FloatArray  # [T]
    noise: FloatArray  # [T, T]

    @classmethod
    def from_groups(cls, groups: Sequence[TrialGroup], roles: tuple[str, ...]) -> "Observations":
        """Return a row for each drafted trial, and one for each other shape that ran beside the drafts of a query."""
        trials = []
        for number, group in enumerate(groups):
            drafted = {hash_shape(roles, t.draft.graph) for t in group.trials}
            beside = {hash_shape(roles, t.draft.graph): t for t in group.extra_trials}
            more = [trial for shape, trial in beside.items() if shape not in drafted]
            trials += [(number, group.query, trial) for trial in (*group.trials, *more)]

        rewards, group = np.array([t.reward for _, _, t in trials]), np.array([n for n, _, _ in trials])
        return cls(
            tuple(t.draft.graph for _, _, t in trials),
            np.stack([unit_features(query) for _, query, _ in trials]),
            rewards,
            rewards**2,
            np.ones(len(trials)),
            np.eye(len(trials)) + (group[:, None] == group) * GROUP_NOISE,
        )

    def __len__(self) -> int:
        return len(self.graphs)

    def concatenate(self, other: "Observations") -> "Observations":
        """Return these rows and, after them, the rows of later groups, whose noise is independent."""
        across = np.zeros((len(self), len(other)))
        return Observations(
            self.graphs + other.graphs,
            np.concatenate((self.queries, other.queries)),
            np.append(self.rewards, other.rewards),
            np.append(self.squares, other.squares),
            np.append(self.counts, other.counts),
            np.block([[self.noise, across], [across.T, other.noise]]),
        )

    def merge_shapes(self, roles: tuple[str, ...]) -> "Observations":
        """
        Return one row for each shape, at the place of the shape's last row.

        Merging is a linear map A [S, T] from T rows to S shapes. Row i of shape s has the share of its trials,
        A[s, i] = counts_i / sum of the counts of s, so

            queries' = A queries    rewards' = A rewards    squares' = A squares    noise' = A noise A^T

        The kernel depends on a graph by its shape alone, and on the query linearly while no cosine is negative. So the
        kernel of the merged rows is A K A^T: they are plain observations of the same Gaussian process.
        """
        # Shapes from the last row back: the first index of a shape is then that of its last row.
        shapes = [hash_shape(roles, graph) for graph in reversed(self.graphs)]
        _, from_end, shape_of = np.unique(shapes, return_index=True, return_inverse=True)
        last_row, shape_of = len(self) - 1 - from_end, shape_of[::-1]

        # Sort rows by shape, so that the rows of a shape are a run; `reduceat` sums each run.
        order = np.argsort(shape_of, kind="stable")
        starts = np.searchsorted(shape_of[order], np.arange(len(from_end)))
        counts = np.add.reduceat(self.counts[order], starts)
        share = self.counts / counts[shape_of]  # [T] the nonzero entry of each column of A

        def average(rows: FloatArray) -> FloatArray:
            """Return A rows; `rows` is [T, ...]."""
            return np.add.reduceat((rows.T * share).T[order], starts, axis=0)

        merged = Observations(
            tuple(self.graphs[i] for i in last_row),
            average(self.queries),
            average(self.rewards),
            average(self.squares),
            counts,
            average(average(self.noise).T),
        )
        return merged.select(np.argsort(last_row))

    def keep_most_tried(self, count: int) -> "Observations":
        """Return at most `count` rows, in order: rows of the fewest trials go first, the oldest of them first."""
        by_trials = np.argsort(self.counts, kind="stable")
        return self.select(np.sort(by_trials[max(0, len(self) - count) :]))

    def select(self, rows: Integers) -> "Observations":
        """Return the rows with these indices, in this order."""
        return Observations(
            tuple(self.graphs[i] for i in rows),
            self.queries[rows],
            self.rewards[rows],
            self.squares[rows],
            self.counts[rows],
            self.noise[np.ix_(rows, rows)],
        )

    def mean(self, values: FloatArray) -> float:
        """Return the mean over all trials of a value for each row."""
        return float(np.average(values, weights=self.counts))

    @property
    def reward_std(self) -> float:
        """Standard deviation of the rewards of all trials."""
        return max(0.0, self.mean(self.squares) - self.mean(self.rewards) ** 2) ** 0.5


def unit_features(query: Query) -> FloatArray:
    """Return the features [D] of a query, scaled to length 1."""
    length = float(np.linalg.norm(query.features))
    return query.features.astype(np.float64) / (length or 1.0)
