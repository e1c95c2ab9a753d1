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

from edgewise.mas.designs.graph_features import Rows, cost, described, inner_ones, shape, smaller_ones, width
from edgewise.mas.designs.interface import Query, TrialGroup
from edgewise.mas.graph.graph import Graph
from edgewise.mas.search.surrogate.observations import Numbers, Observed, unit

OWN = 0.33
"""How much of a graph's worth is expected in itself, beside what is in it; in standard deviations of rewards."""
FED, FED_DOUBT = 0.5, 0.3
"""
How much of what the best answer inside is better by is expected to arrive at the exit, and by how much that may be off:
for all graphs, and again for those of each role of the exit.
"""


@dataclass(frozen=True, slots=True)
class Described:
    """
    G graphs as arrays: (G, F) what is in them, and (G,) their shapes, the roles of their exits, and what they cost.

    `inside` is the worth of the best answer inside, in standard deviations of rewards; 0 where there is none.
    """

    features: Rows
    shapes: Numbers
    exits: Numbers
    costs: Rows
    inside: Rows

    def alike(self, other: "Described") -> Rows:
        """(G, H) how far these graphs and H others are alike, the query left aside."""
        same = self.shapes[:, None] == other.shapes
        role = 1.0 + (self.exits[:, None] == other.exits)
        fed = FED_DOUBT**2 * role * self.inside[:, None] * other.inside
        return self.features @ other.features.T + OWN**2 * same + fed

    @property
    def expected(self) -> Rows:
        """(G,) what they are expected to get before any trial, in standard deviations of rewards."""
        return FED * self.inside - self.costs


@dataclass(frozen=True, slots=True)
class Weights:
    """
    What a fit says in few numbers, in standard deviations of rewards, the query left aside.

    (F,) of what is in a graph, of graphs by their shapes, and (K,) of what is inside, by the role of the exit.
    """

    parts: Rows
    own: Mapping[int, float]
    fed: Rows

    @classmethod
    def of(cls, seen: Described, dual: Rows, roles: int) -> "Weights":
        """Those of a fit; `dual` is in standard deviations."""
        own, fed = dict[int, float](), np.full(roles, FED + FED_DOUBT**2 * (seen.inside @ dual))
        for key, value in zip(seen.shapes.tolist(), OWN**2 * dual, strict=True):
            own[key] = own.get(key, 0.0) + float(value)
        np.add.at(fed, seen.exits, FED_DOUBT**2 * seen.inside * dual)
        return cls(seen.features.T @ dual, own, fed)


@dataclass(slots=True)
class Estimate:
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
    observed: Observed | None = None
    seen: Described = field(init=False)
    dual: Rows = field(init=False)
    inverse: Rows = field(init=False)
    before: Weights = field(init=False)
    inside: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.roles)
        self.before = Weights(np.zeros(width(count)), {}, np.zeros(count))

    def add(self, groups: Sequence[TrialGroup]) -> None:
        """Take in trials, and fit again."""
        new = Observed.of(groups, self.roles)
        if self.observed:
            self.before, self.inside = Weights.of(self.seen, self.dual / self.spread, len(self.roles)), {}
            new = self.observed.plus(new)
        self.observed = new if len(new) <= self.window else new.joined(self.roles).last(self.window)
        self.seen = self._described(self.observed.graphs)
        kernel, noise = self._kernel(self.seen, self.observed.queries), self.noise * self.observed.noise
        self.inverse = np.linalg.inv(kernel + noise).astype(np.float64, copy=False)
        self.dual = self.inverse @ self._left()

    def _left(self) -> Rows:
        """(T,) rewards beyond what was expected, around 0."""
        assert self.observed
        left = self.observed.rewards - self.spread * self.seen.expected
        return left - self.observed.mean(left)

    def value(self, graphs: Sequence[Graph], queries: Sequence[Query]) -> Rows:
        """(graphs,) what they get on a query each beyond the mean of all; 0 before any trial."""
        if not self.observed or not graphs:
            return np.zeros(len(graphs))
        found = self._described(graphs)
        return self._mean(found, self._kernel(found, np.stack([unit(query) for query in queries])))

    def _mean(self, found: Described, kernel: Rows) -> Rows:
        assert self.observed
        return kernel @ self.dual + self.spread * (found.expected - self.observed.mean(self.seen.expected))

    def posterior(self, graphs: Sequence[Graph], query: Query) -> tuple[Rows, Rows]:
        """(graphs,) as `value`, and (graphs, graphs) the covariance of what is not known of them, in reward squared."""
        found = self._described(graphs)
        kernel = self._kernel(found, np.stack([unit(query)] * len(graphs)))
        left = found.alike(found) - kernel @ self.inverse @ kernel.T
        return self._mean(found, kernel), left * (self.spread**2 / self.noise)

    def worth(self, graphs: Sequence[Graph], queries: Sequence[Query]) -> list[dict[str, float]]:
        """
        For each graph, its nodes' worth on its query: the value with the node less the value without it.

        Nodes that cannot be left out (an exit that hears several, the only one) have none.
        """
        smaller = [(i, name, rest) for i, graph in enumerate(graphs) for name, rest in smaller_ones(graph)]
        whole = self.value(graphs, queries)
        without = self.value([rest for _, _, rest in smaller], [queries[i] for i, _, _ in smaller])
        found: list[dict[str, float]] = [{} for _ in graphs]
        for (i, name, _), value in zip(smaller, without, strict=True):
            found[i][name] = float(whole[i] - value)
        return found

    @property
    def spread(self) -> float:
        """The standard deviation of rewards; 1 before any trial."""
        return max(1e-3, self.observed.spread) if self.observed else 1.0

    def _kernel(self, found: Described, queries: Rows) -> Rows:
        assert self.observed
        like = np.clip(queries @ self.observed.queries.T, 0.0, 1.0)
        return found.alike(self.seen) * (1 - self.alike + self.alike * like)

    def _described(self, graphs: Sequence[Graph]) -> Described:
        return Described(
            np.stack([described(self.roles, graph) for graph in graphs]),
            np.array([shape(self.roles, graph) for graph in graphs]),
            np.array([self.roles.index(graph[graph.exit].role) for graph in graphs]),
            np.array([cost(graph) for graph in graphs]),
            np.array([self._inside(graph) for graph in graphs]),
        )

    def _inside(self, graph: Graph) -> float:
        """The best answer inside of a graph; 0, as good as the mean, where there is none."""
        key = shape(self.roles, graph)
        if key not in self.inside:
            inner = inner_ones(self.roles, self.answers, graph)
            self.inside[key] = max(map(self._answer, inner), default=0.0)
        return self.inside[key]

    def _answer(self, graph: Graph) -> float:
        """What a graph's answer is worth by the trials before the last ones, its cost left aside."""
        own = self.before.own.get(shape(self.roles, graph), 0.0)
        fed = self.before.fed[self.roles.index(graph[graph.exit].role)] * self._inside(graph)
        return float(described(self.roles, graph) @ self.before.parts + own + fed)
