"""
What graphs, and the agents in them, are worth, estimated from all trials so far.

Kernel ridge regression (a Gaussian process) of rewards on what is in a graph (roles, who hears whom by roles, and
paths of roles into the exit) and on which graph it is. Before any trial an agent or an edge more is expected to cost
a little. Trials count for a query as far as the queries are alike, so worth depends on the query where the trials say
so.

A graph is also described by the best answer that is given inside of it, which is what the trials before say of the
graphs that end at its inner agents: what is better fed is expected to be better.

T trials, G graphs, F features of a graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgewise.mas.designs.graph_features import Features, expected_cost, extract_features, inner_graphs, hash_shape, leave_one_out, count_features
from edgewise.mas.designs.interface import Query, TrialGroup
from edgewise.mas.graph.graph import Graph
from edgewise.mas.search.surrogate.observations import Numbers, Observations, unit_features

SHAPE_STD = 0.33
"""How much of a graph's worth is expected in itself, beside what is in it; in standard deviations of rewards."""
INSIDE_GAIN, INSIDE_STD = 0.5, 0.3
"""
How much of what the best answer inside is better by is expected to arrive at the exit, and by how much that may be off:
for all graphs, and again for those of each role of the exit.
"""


@dataclass(frozen=True, slots=True)
class EncodedGraphs:
    """
    G graphs as arrays: (G, F) what is in them, and (G,) their shapes, the roles of their exits, and what they cost.

    `inside` is the worth of the best answer inside, in standard deviations of rewards; 0 where there is none.
    """

    features: Features
    shapes: Numbers
    exits: Numbers
    costs: Features
    inside: Features

    def alike(self, other: "EncodedGraphs") -> Features:
        """(G, H) how far these graphs and H others are alike, the query left aside."""
        same = self.shapes[:, None] == other.shapes
        role = 1.0 + (self.exits[:, None] == other.exits)
        fed = INSIDE_STD**2 * role * self.inside[:, None] * other.inside
        return self.features @ other.features.T + SHAPE_STD**2 * same + fed

    @property
    def expected(self) -> Features:
        """(G,) what they are expected to get before any trial, in standard deviations of rewards."""
        return INSIDE_GAIN * self.inside - self.costs


@dataclass(frozen=True, slots=True)
class PrimalWeights:
    """
    What a fit says in few numbers, in standard deviations of rewards, the query left aside.

    (F,) of what is in a graph, of graphs by their shapes, and (K,) of what is inside, by the role of the exit.
    """

    parts: Features
    own: Mapping[int, float]
    fed: Features

    @classmethod
    def of(cls, seen: EncodedGraphs, dual: Features, roles: int) -> "PrimalWeights":
        """Those of a fit; `dual` is in standard deviations."""
        own, fed = dict[int, float](), np.full(roles, INSIDE_GAIN + INSIDE_STD**2 * (seen.inside @ dual))
        for key, value in zip(seen.shapes.tolist(), SHAPE_STD**2 * dual, strict=True):
            own[key] = own.get(key, 0.0) + float(value)
        np.add.at(fed, seen.exits, INSIDE_STD**2 * seen.inside * dual)
        return cls(seen.features.T @ dual, own, fed)


@dataclass(slots=True)
class RewardSurrogate:
    """
    Rewards seen, and what follows from them.

    `answers` says which of the roles answer the task, () that all do. `alike` is how far the query matters (0: not at
    all), `noise` the variance of a reward over that of what graphs are worth. There are at most `window` rows: while
    they suffice each is a trial, then the mean of all trials of a shape.
    """

    roles: tuple[str, ...]
    answers: tuple[bool, ...] = ()
    alike: float = 0.3
    noise: float = 1.0
    window: int = 1024
    observed: Observations | None = None
    seen: EncodedGraphs = field(init=False)
    dual: Features = field(init=False)
    inverse: Features = field(init=False)
    before: PrimalWeights = field(init=False)
    inside: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.roles)
        self.before = PrimalWeights(np.zeros(count_features(count)), {}, np.zeros(count))

    def fit(self, groups: Sequence[TrialGroup]) -> None:
        """Take in trials, and fit again."""
        new = Observations.of(groups, self.roles)
        if self.observed:
            self.before, self.inside = PrimalWeights.of(self.seen, self.dual / self.reward_std, len(self.roles)), {}
            new = self.observed.plus(new)
        self.observed = new if len(new) <= self.window else new.joined(self.roles).last(self.window)
        self.seen = self._described(self.observed.graphs)
        kernel, noise = self._kernel(self.seen, self.observed.queries), self.noise * self.observed.noise
        self.inverse = np.linalg.inv(kernel + noise).astype(np.float64, copy=False)
        self.dual = self.inverse @ self._left()

    def _left(self) -> Features:
        """(T,) rewards beyond what was expected, around 0."""
        assert self.observed
        left = self.observed.rewards - self.reward_std * self.seen.expected
        return left - self.observed.mean(left)

    def predict(self, graphs: Sequence[Graph], queries: Sequence[Query]) -> Features:
        """(graphs,) what they get on a query each beyond the mean of all; 0 before any trial."""
        if not self.observed or not graphs:
            return np.zeros(len(graphs))
        found = self._described(graphs)
        return self._mean(found, self._kernel(found, np.stack([unit_features(query) for query in queries])))

    def _mean(self, found: EncodedGraphs, kernel: Features) -> Features:
        assert self.observed
        return kernel @ self.dual + self.reward_std * (found.expected - self.observed.mean(self.seen.expected))

    def posterior(self, graphs: Sequence[Graph], query: Query) -> tuple[Features, Features]:
        """(graphs,) as `value`, and (graphs, graphs) the covariance of what is not known of them, in reward squared."""
        found = self._described(graphs)
        kernel = self._kernel(found, np.stack([unit_features(query)] * len(graphs)))
        left = found.alike(found) - kernel @ self.inverse @ kernel.T
        return self._mean(found, kernel), left * (self.reward_std**2 / self.noise)

    def node_credit(self, graphs: Sequence[Graph], queries: Sequence[Query]) -> list[dict[str, float]]:
        """
        For each graph, its nodes' worth on its query: the value with the node less the value without it.

        Nodes that cannot be left out (an exit that hears several, the only one) have none.
        """
        smaller = [(i, name, rest) for i, graph in enumerate(graphs) for name, rest in leave_one_out(graph)]
        whole = self.predict(graphs, queries)
        without = self.predict([rest for _, _, rest in smaller], [queries[i] for i, _, _ in smaller])
        found: list[dict[str, float]] = [{} for _ in graphs]
        for (i, name, _), value in zip(smaller, without, strict=True):
            found[i][name] = float(whole[i] - value)
        return found

    @property
    def reward_std(self) -> float:
        """The standard deviation of rewards; 1 before any trial."""
        return max(1e-3, self.observed.spread) if self.observed else 1.0

    def _kernel(self, found: EncodedGraphs, queries: Features) -> Features:
        assert self.observed
        like = np.clip(queries @ self.observed.queries.T, 0.0, 1.0)
        return found.alike(self.seen) * (1 - self.alike + self.alike * like)

    def _described(self, graphs: Sequence[Graph]) -> EncodedGraphs:
        return EncodedGraphs(
            np.stack([extract_features(self.roles, graph) for graph in graphs]),
            np.array([hash_shape(self.roles, graph) for graph in graphs]),
            np.array([self.roles.index(graph[graph.exit].role) for graph in graphs]),
            np.array([expected_cost(graph) for graph in graphs]),
            np.array([self._inside(graph) for graph in graphs]),
        )

    def _inside(self, graph: Graph) -> float:
        """The best answer inside of a graph; 0, as good as the mean, where there is none."""
        key = hash_shape(self.roles, graph)
        if key not in self.inside:
            inner = inner_graphs(self.roles, self.answers, graph)
            self.inside[key] = max(map(self._answer, inner), default=0.0)
        return self.inside[key]

    def _answer(self, graph: Graph) -> float:
        """What a graph's answer is worth by the trials before the last ones, its cost left aside."""
        own = self.before.own.get(hash_shape(self.roles, graph), 0.0)
        fed = self.before.fed[self.roles.index(graph[graph.exit].role)] * self._inside(graph)
        return float(extract_features(self.roles, graph) @ self.before.parts + own + fed)
