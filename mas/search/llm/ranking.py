"""
Ratings of graphs, from rewards on different queries.

    reward = level + u(graph) + v(query) + e,    u ~ N(0, s^2),  v ~ N(0, EASE s^2),  e ~ N(0, s^2)

The effects are predicted by best linear unbiased prediction (Henderson 1975, doi 10.2307/2529430). So a graph that met
hard queries does not look worse for it, and one lucky trial counts for half.

T trials, G graphs, Q queries.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgewise.mas.designs.interface import TrialGroup

# Variance of the effects of queries, in units of the noise variance.
EASE = 10.0
# The noise is estimated with one more residual of this size: a few trials that agree prove little.
PRIOR_RESIDUAL = 0.25


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial: the graph's version, the query's id, the reward."""

    graph: str
    query: str
    reward: float


@dataclass(frozen=True, slots=True)
class GraphRating:
    """Predicted mean reward of a graph, the standard deviation of its error, and the number of its trials."""

    mean: float
    deviation: float
    trials: int

    @property
    def low(self) -> float:
        """Lower confidence bound, one standard deviation below the mean."""
        return self.mean - self.deviation

    @property
    def high(self) -> float:
        """Upper confidence bound, one standard deviation above the mean."""
        return self.mean + self.deviation


def list_records(groups: Iterable[TrialGroup]) -> list[TrialRecord]:
    """Return the trials of groups, in order."""
    return [
        TrialRecord(trial.draft.graph.version, group.query.id, trial.reward)
        for group in groups
        for trial in group.trials
    ]


def rate_graphs(records: Sequence[TrialRecord], expected: Mapping[str, float] | None = None) -> dict[str, GraphRating]:
    """
    Return the rating of each graph, in the order of their first trials.

    With `expected`, the mean of each graph on many queries of which `records` are some, only the difference on these
    queries is estimated. A graph without a trial here keeps its expected mean, with a larger deviation.
    """
    if not records:
        return {}
    expected = expected or {}
    graphs = {version: i for i, version in enumerate(dict.fromkeys(r.graph for r in records))}
    queries = {query: i for i, query in enumerate(dict.fromkeys(r.query for r in records), len(graphs))}
    graph_of = np.array([graphs[r.graph] for r in records])
    query_of = np.array([queries[r.query] for r in records])
    residual = np.array([r.reward - expected.get(r.graph, 0.0) for r in records])
    level = math.fsum(residual) / len(records)

    # Henderson's mixed model equations, (Z^T Z + D) w = Z^T (y - level): w [G + Q] holds the effects u and then v, Z
    # [T, G + Q] has a 1 for the graph and the query of each trial, and D is diagonal with s^2 over the variance of
    # each effect. The prediction errors have the covariance s^2 (Z^T Z + D)^-1.
    size = len(graphs) + len(queries)
    normal = np.diag(np.where(np.arange(size) < len(graphs), 1.0, 1 / EASE))
    right = np.zeros(size)
    for a, b in ((graph_of, graph_of), (query_of, query_of), (graph_of, query_of), (query_of, graph_of)):
        np.add.at(normal, (a, b), 1.0)
    for a in (graph_of, query_of):
        np.add.at(right, a, residual - level)
    inverse = np.linalg.inv(normal)
    effects = inverse @ right

    # s from what the effects leave over. Nine digits, so that ties do not depend on rounding.
    errors = residual - level - effects[graph_of] - effects[query_of]
    noise = math.sqrt((math.fsum(errors**2) + PRIOR_RESIDUAL**2) / (len(records) + 1))
    trials = np.bincount(graph_of)
    ratings = {
        version: GraphRating(
            round(expected.get(version, level) + float(effects[i]), 9),
            round(noise * math.sqrt(inverse[i, i]), 9),
            int(trials[i]),
        )
        for version, i in graphs.items()
    }
    untried = {v: GraphRating(mean, round(noise, 9), 0) for v, mean in expected.items() if v not in graphs}
    return ratings | untried


def best_rated(ratings: Mapping[str, GraphRating]) -> str:
    """Return the graph of the highest lower bound, of equals the first."""
    return max(ratings, key=lambda version: ratings[version].low)
