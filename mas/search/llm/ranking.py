"""
How good graphs are, from rewards on different queries.

reward = level + effect of the graph + effect of the query + noise, where effects are drawn around 0, those of graphs
with the variance of the noise and those of queries with `EASE` times as much: the best linear unbiased prediction
(Henderson 1975, doi 10.2307/2529430). So a graph that met hard queries does not look worse for it, and one lucky
trial counts for half.

G graphs, Q queries.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgewise.mas.designs.interface import TrialGroup

EASE = 10.0
DOUBT = 0.25
"""The noise is thought of as if one more trial had been off by this: a few that agree are not sure."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial: the graph's version, the query's id, the reward."""

    graph: str
    query: str
    reward: float


@dataclass(frozen=True, slots=True)
class GraphRating:
    """What is thought of a graph after so many trials: its mean reward, and how far off that may be."""

    mean: float
    deviation: float
    trials: int

    @property
    def low(self) -> float:
        """A mean that it most likely reaches."""
        return self.mean - self.deviation

    @property
    def high(self) -> float:
        """A mean that it may reach."""
        return self.mean + self.deviation


def list_records(groups: Iterable[TrialGroup]) -> list[TrialRecord]:
    """The trials of groups, in order."""
    return [TrialRecord(t.draft.graph.version, group.query.id, t.reward) for group in groups for t in group.trials]


def rate_graphs(seen: Sequence[TrialRecord], expected: Mapping[str, float] | None = None) -> dict[str, GraphRating]:
    """
    The standing of each graph, in the order of their first trials.

    `expected` is the mean of each graph on many queries, where the ones that were `seen` are some of these: then what
    is different here is learnt, and a graph that was not tried here is as good as expected, but less surely so.
    """
    if not seen:
        return {}
    base = expected or {}
    graphs = {version: i for i, version in enumerate(dict.fromkeys(r.graph for r in seen))}
    queries = {query: len(graphs) + i for i, query in enumerate(dict.fromkeys(r.query for r in seen))}
    rows = np.array([graphs[r.graph] for r in seen])
    columns = np.array([queries[r.query] for r in seen])
    surprise = np.array([r.reward - base.get(r.graph, 0.0) for r in seen])
    level = math.fsum(surprise) / len(seen)
    inverse, effects = _solved(rows, columns, surprise - level, len(graphs) + len(queries))
    off = surprise - level - effects[rows] - effects[columns]
    noise = math.sqrt((math.fsum(off**2) + DOUBT**2) / (len(seen) + 1))
    trials = np.bincount(rows)
    found = {
        version: GraphRating(
            round(base.get(version, level) + float(effects[i]), 9),
            round(noise * math.sqrt(inverse[i, i]), 9),
            int(trials[i]),
        )
        for version, i in graphs.items()
    }
    return found | {v: GraphRating(mean, round(noise, 9), 0) for v, mean in base.items() if v not in graphs}


def _solved(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """(G + Q, G + Q) the covariance of the effects in units of the noise's variance, and (G + Q,) the effects."""
    graphs = 1 + rows.max()
    normal = np.diag(np.where(np.arange(size) < graphs, 1.0, 1 / EASE))
    right = np.zeros(size)
    for a, b in ((rows, rows), (columns, columns), (rows, columns), (columns, rows)):
        np.add.at(normal, (a, b), 1.0)
    for a in (rows, columns):
        np.add.at(right, a, values)
    inverse = np.linalg.inv(normal)
    return inverse, inverse @ right


def best_rated(found: Mapping[str, GraphRating]) -> str:
    """The graph of the highest `low`; of equals the first."""
    return max(found, key=lambda version: found[version].low)
