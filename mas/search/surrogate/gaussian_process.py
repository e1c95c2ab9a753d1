"""
Gaussian process of rewards over graphs and queries, fitted to all trials so far (Rasmussen and Williams 2006).

With s the standard deviation of rewards, a trial of graph g on query q is modelled as

    reward = c + s m(g) + f(g, q) + noise,    f ~ GP(0, s^2 k / NOISE),    noise ~ N(0, s^2 N)

    k((g, q), (h, r)) = k_graph(g, h) (1 - a + a max(0, q . r)),    a = query_weight,  q and r of length 1
    k_graph(g, h) = phi(g) . phi(h)                                 what is in a graph: roles, edges, paths to the exit
                    + SHAPE_STD^2 [shape(g) = shape(h)]             what is special to a graph
                    + INSIDE_STD^2 (1 + [exit(g) = exit(h)]) b(g) b(h)
    m(g) = INSIDE_GAIN b(g) - cost(g)

phi, shape and cost are those of `mas.designs.graph_features`. b(g) is the value of the best answer inside of g, as the
fit before this one predicts it from graphs that end at inner agents: with better inputs a graph is expected to be
better. N is the noise covariance of `Observations`, where the trials of a query share a part; NOISE is the variance of
a reward's noise over that of f, for k = 1.

T trials, G graphs, F features of a graph, D features of a query, K roles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgewise.mas.designs import graph_features
from edgewise.mas.designs.graph_features import FloatArray
from edgewise.mas.designs.interface import Query, TrialGroup
from edgewise.mas.graph.graph import Graph
from edgewise.mas.search.surrogate.observations import Integers, Observations, unit_features

# Standard deviation of what is special to a graph, beside what is in it; in standard deviations of rewards.
SHAPE_STD = 0.33
# Share of the best inner answer's value that is expected to arrive at the exit, and the standard deviation of that
# share: once for all graphs, and once more for those of each role of the exit.
INSIDE_GAIN, INSIDE_STD = 0.5, 0.3
# Variance of the noise of a reward over that of f, where the kernel is 1.
NOISE = 1.0


@dataclass(frozen=True, slots=True)
class EncodedGraphs:
    """G graphs as arrays; `inside` is b, in standard deviations of rewards, and 0 where there is no inner answer."""

    features: FloatArray  # [G, F] phi
    shapes: Integers  # [G]
    exits: Integers  # [G] the number of the exit's role
    costs: FloatArray  # [G]
    inside: FloatArray  # [G]

    def kernel(self, other: "EncodedGraphs") -> FloatArray:
        """Return k_graph [G, H] between these graphs and H others."""
        same_shape = self.shapes[:, None] == other.shapes
        same_exit = self.exits[:, None] == other.exits
        inside = INSIDE_STD**2 * (1.0 + same_exit) * self.inside[:, None] * other.inside
        return self.features @ other.features.T + SHAPE_STD**2 * same_shape + inside

    @property
    def prior_mean(self) -> FloatArray:
        """Prior mean m [G], in standard deviations of rewards."""
        return INSIDE_GAIN * self.inside - self.costs


@dataclass(frozen=True, slots=True)
class PrimalWeights:
    """
    A fit as weights, in standard deviations of rewards, with the query left out (a = 0) and without the cost.

    The dual form needs a kernel row for each graph: f(g) = sum_t k_graph(g, t) dual_t. Collected by what belongs to g
    the same sum is

        f(g) + INSIDE_GAIN b(g) = phi(g) . features + shapes[shape(g)] + inside[exit(g)] b(g)
        features  = sum_t phi(t) dual_t                                                         [F]
        shapes[x] = SHAPE_STD^2 sum_(t of shape x) dual_t
        inside[e] = INSIDE_GAIN + INSIDE_STD^2 (sum_t + sum_(t with exit e)) b(t) dual_t        [K]
    """

    features: FloatArray
    shapes: Mapping[int, float]
    inside: FloatArray

    @classmethod
    def from_dual(cls, trials: EncodedGraphs, dual: FloatArray, roles: int) -> "PrimalWeights":
        """Return the weights of a fit; `dual` [T] is in standard deviations of rewards."""
        shapes: dict[int, float] = {}
        for shape, value in zip(trials.shapes.tolist(), SHAPE_STD**2 * dual, strict=True):
            shapes[shape] = shapes.get(shape, 0.0) + float(value)
        inside = np.full(roles, INSIDE_GAIN + INSIDE_STD**2 * (trials.inside @ dual))
        np.add.at(inside, trials.exits, INSIDE_STD**2 * trials.inside * dual)
        return cls(trials.features.T @ dual, shapes, inside)


@dataclass(slots=True)
class RewardSurrogate:
    """
    Predicts the rewards of graphs that were never tried.

    `answers` says which of the roles answer the task, () that all do. `query_weight` is how far the query matters, 0
    for not at all. At most `window` rows are fitted: a row for each trial while they suffice, then one for each shape.
    """

    roles: tuple[str, ...]
    answers: tuple[bool, ...] = ()
    query_weight: float = 0.3
    window: int = 1024
    observations: Observations | None = field(default=None, init=False)
    trials: EncodedGraphs = field(init=False)
    dual: FloatArray = field(init=False)  # [T] (K + NOISE N)^-1 residual
    inverse: FloatArray = field(init=False)  # [T, T] (K + NOISE N)^-1
    previous: PrimalWeights = field(init=False)
    inner_values: dict[int, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        count = len(self.roles)
        self.previous = PrimalWeights(np.zeros(graph_features.count_features(count)), {}, np.zeros(count))

    @property
    def reward_std(self) -> float:
        """s, the standard deviation of rewards; 1 before any trial."""
        return max(1e-3, self.observations.reward_std) if self.observations else 1.0

    def fit(self, groups: Sequence[TrialGroup]) -> None:
        """Add trials, and fit to all of them."""
        rows = Observations.from_groups(groups, self.roles)
        if self.observations:
            # Inner answers are valued by the fit so far: b of all graphs, old and new, changes with it.
            self.previous = PrimalWeights.from_dual(self.trials, self.dual / self.reward_std, len(self.roles))
            self.inner_values = {}
            rows = self.observations.concatenate(rows)
        if len(rows) > self.window:
            rows = rows.merge_shapes(self.roles).keep_most_tried(self.window)
        self.observations = rows

        # dual = (K + NOISE N)^-1 (y - s m - c), with c the mean over trials of y - s m.
        self.trials = self._encode(rows.graphs)
        covariance = self._kernel(self.trials, rows.queries) + NOISE * rows.noise
        self.inverse = np.linalg.inv(covariance).astype(np.float64, copy=False)
        residual = rows.rewards - self.reward_std * self.trials.prior_mean
        self.dual = self.inverse @ (residual - rows.mean(residual))

    def predict(self, graphs: Sequence[Graph], queries: Sequence[Query]) -> FloatArray:
        """Return the expected reward [G] of each graph on its query, less the mean reward; 0 before any trial."""
        if not self.observations or not graphs:
            return np.zeros(len(graphs))
        encoded = self._encode(graphs)
        return self._mean(encoded, self._kernel(encoded, np.stack([unit_features(query) for query in queries])))

    def posterior(self, graphs: Sequence[Graph], query: Query) -> tuple[FloatArray, FloatArray]:
        """
        Return the mean [G] of graphs on a query, as `predict` does, and their covariance [G, G], in reward squared.

        The covariance is s^2 / NOISE (K** - K* (K + NOISE N)^-1 K*^T), with K* [G, T] between the graphs and the
        trials, and K** among the graphs, which all have the same query (Rasmussen and Williams, equation 2.26).
        """
        encoded = self._encode(graphs)
        kernel = self._kernel(encoded, np.stack([unit_features(query)] * len(graphs)))
        covariance = encoded.kernel(encoded) - kernel @ self.inverse @ kernel.T
        return self._mean(encoded, kernel), covariance * (self.reward_std**2 / NOISE)

    def node_credit(self, graphs: Sequence[Graph], queries: Sequence[Query]) -> list[dict[str, float]]:
        """
        Return for each graph its nodes' predicted credit on its query: the value with the node less that without it.

        Nodes that cannot be removed (an exit with several inputs, the only node) are missing.
        """
        leave_one_out = graph_features.leave_one_out
        ablations = [(i, name, rest) for i, graph in enumerate(graphs) for name, rest in leave_one_out(graph)]
        values = self.predict(graphs, queries)
        smaller = self.predict([rest for _, _, rest in ablations], [queries[i] for i, _, _ in ablations])
        credit: list[dict[str, float]] = [{} for _ in graphs]
        for (i, name, _), value in zip(ablations, smaller, strict=True):
            credit[i][name] = float(values[i] - value)
        return credit

    def _mean(self, graphs: EncodedGraphs, kernel: FloatArray) -> FloatArray:
        """Return s m + K* dual, less the mean over trials of s m; `kernel` is K* [G, T]."""
        assert self.observations
        centre = self.observations.mean(self.trials.prior_mean)
        return kernel @ self.dual + self.reward_std * (graphs.prior_mean - centre)

    def _kernel(self, graphs: EncodedGraphs, queries: FloatArray) -> FloatArray:
        """Return k [G, T] between graphs on queries [G, D] and the trials."""
        assert self.observations
        cosine = np.clip(queries @ self.observations.queries.T, 0.0, 1.0)
        return graphs.kernel(self.trials) * (1 - self.query_weight + self.query_weight * cosine)

    # ---- what is inside of graphs ------------------------------------------------------------------

    def _encode(self, graphs: Sequence[Graph]) -> EncodedGraphs:
        return EncodedGraphs(
            np.stack([graph_features.extract_features(self.roles, graph) for graph in graphs]),
            np.array([graph_features.hash_shape(self.roles, graph) for graph in graphs]),
            np.array([self.roles.index(graph[graph.exit].role) for graph in graphs]),
            np.array([graph_features.expected_cost(graph) for graph in graphs]),
            np.array([self.best_inner_value(graph) for graph in graphs]),
        )

    def best_inner_value(self, graph: Graph) -> float:
        """Return b, the value of the best answer inside of a graph; 0, that of the mean, where there is none."""
        # solver -> critic -> judge: the graph `solver` ends inside, so its value is an input of the judge. Its own
        # inside is empty, so the recursion with `answer_value` ends; each shape is computed once for a fit.
        shape = graph_features.hash_shape(self.roles, graph)
        if shape not in self.inner_values:
            inner = graph_features.inner_graphs(self.roles, self.answers, graph)
            self.inner_values[shape] = max(map(self.answer_value, inner), default=0.0)
        return self.inner_values[shape]

    def answer_value(self, graph: Graph) -> float:
        """Return the value of a graph's answer by the previous fit (`PrimalWeights`), its cost left out."""
        weights, role = self.previous, self.roles.index(graph[graph.exit].role)
        special = weights.shapes.get(graph_features.hash_shape(self.roles, graph), 0.0)
        inside = weights.inside[role] * self.best_inner_value(graph)
        return float(graph_features.extract_features(self.roles, graph) @ weights.features + special + inside)
