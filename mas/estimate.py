"""
What graphs, and the agents in them, are worth, estimated from all trials so far.

Kernel ridge regression (a Gaussian process) of rewards on what is in a graph (roles, who hears whom by roles, and
paths of roles into the exit) and on which graph it is. Before any trial an agent or an edge more is expected to cost
a little. Trials count for a query as far as the queries are alike, so worth depends on the query where the trials say
so.

T trials, F features of a graph.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mas.graph import Graph
from mas.search import Query, Trial, TrialGroup

Rows = NDArray[np.float64]

LONGEST, BUCKETS = 5, 1024
KEPT = 4096
"""Of so many graphs what is in them is kept: a search meets the same ones again and again."""
ROLES, EDGES, PATHS, OWN = 0.45, 0.45, 0.45, 0.33
"""How much of a graph's worth is expected in each kind of part, and in itself; in standard deviations of rewards."""
AGENT, EDGE = 0.18, 0.045
"""What an agent and an edge more are expected to cost, in the same unit."""


@dataclass(slots=True)
class Estimate:
    """
    Rewards seen, and what follows from them.

    `alike` is how far the query matters (0: not at all), `noise` the variance of a reward over that of what graphs
    are worth. The last `window` trials count.
    """

    roles: tuple[str, ...]
    alike: float = 0.3
    noise: float = 1.0
    window: int = 1024
    features: Rows = field(init=False)
    queries: Rows = field(init=False)
    rewards: Rows = field(init=False)
    group: NDArray[np.int64] = field(init=False)
    shapes: NDArray[np.int64] = field(init=False)
    costs: Rows = field(init=False)
    dual: Rows = field(init=False)
    inverse: Rows = field(init=False)

    def __post_init__(self) -> None:
        self.features, self.queries = np.zeros((0, 0)), np.zeros((0, 0))
        self.rewards, self.dual, self.group = np.zeros(0), np.zeros(0), np.zeros(0, np.int64)
        self.shapes, self.costs = np.zeros(0, np.int64), np.zeros(0)
        self.inverse = np.zeros((0, 0))

    def add(self, groups: Sequence[TrialGroup]) -> None:
        """Take in trials, and fit again."""
        self._remember([(number, g, t) for number, g in enumerate(groups) for t in g.trials])
        same = self.group[:, None] == self.group
        noise = self.noise * (np.eye(len(same)) + same / 2)  # of a reward, and of a query as a whole
        self.inverse = np.linalg.inv(self._kernel(self.features, self.shapes, self.queries) + noise)
        left = self.rewards + self.spread * self.costs
        self.dual = self.inverse @ (left - left.mean())

    def _remember(self, trials: Sequence[tuple[int, TrialGroup, Trial]]) -> None:
        first = 1 + int(self.group.max(initial=-1))
        new = (
            np.stack([described(self.roles, t.draft.graph) for _, _, t in trials]),
            np.stack([_unit(group.query) for _, group, _ in trials]),
            np.array([t.reward for _, _, t in trials], np.float64),
            np.array([first + number for number, _, _ in trials]),
            np.array([shape(self.roles, t.draft.graph) for _, _, t in trials]),
            np.array([_cost(t.draft.graph) for _, _, t in trials]),
        )
        old = (self.features, self.queries, self.rewards, self.group, self.shapes, self.costs)
        joined: list[Any] = [
            b if not len(a) else np.concatenate([a, b])[-self.window :] for a, b in zip(old, new, strict=True)
        ]
        self.features, self.queries, self.rewards, self.group, self.shapes, self.costs = joined

    def value(self, graphs: Sequence[Graph], queries: Sequence[Query]) -> Rows:
        """(graphs,) what they get on a query each beyond the mean of all; 0 before any trial."""
        if not len(self.dual) or not graphs:
            return np.zeros(len(graphs))
        return self._mean(graphs, self._to_seen(graphs, queries)[2])

    def _mean(self, graphs: Sequence[Graph], kernel: Rows) -> Rows:
        costs = np.array([_cost(graph) for graph in graphs]) - self.costs.mean()
        return kernel @ self.dual - self.spread * costs

    def posterior(self, graphs: Sequence[Graph], query: Query) -> tuple[Rows, Rows]:
        """(graphs,) as `value`, and (graphs, graphs) the covariance of what is not known of them, in reward squared."""
        features, shapes, kernel = self._to_seen(graphs, [query] * len(graphs))
        left = self._alike(features, shapes, features, shapes) - kernel @ self.inverse @ kernel.T
        return self._mean(graphs, kernel), left * (self.spread**2 / self.noise)

    def _to_seen(
        self, graphs: Sequence[Graph], queries: Sequence[Query]
    ) -> tuple[Rows, NDArray[np.int64], Rows]:
        features = np.stack([described(self.roles, graph) for graph in graphs])
        shapes = np.array([shape(self.roles, graph) for graph in graphs])
        return features, shapes, self._kernel(features, shapes, np.stack([_unit(query) for query in queries]))

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
        return max(1e-3, float(self.rewards.std())) if len(self.rewards) else 1.0

    def _kernel(self, features: Rows, shapes: NDArray[np.int64], queries: Rows) -> Rows:
        like = np.clip(queries @ self.queries.T, 0.0, 1.0)
        alike = self._alike(features, shapes, self.features, self.shapes)
        return alike * (1 - self.alike + self.alike * like)

    @staticmethod
    def _alike(one: Rows, shapes: NDArray[np.int64], other: Rows, others: NDArray[np.int64]) -> Rows:
        """How far graphs are alike, the query left aside."""
        return one @ other.T + OWN**2 * (shapes[:, None] == others)


@lru_cache(maxsize=KEPT)
def described(roles: tuple[str, ...], graph: Graph) -> Rows:
    """
    (F,) what is in a graph.

    How many agents of each role, how many edges between each two roles, and how many paths of each sequence of up to
    `LONGEST` roles end in the exit. What an agent says depends on what it hears, so graphs are alike as far
    as they are alike from the exit back. Paths are hashed to `BUCKETS` places. Counts are over the square root of how
    many there are (agents, edges, agents heard), so that a large graph is no more uncertain than a small one.
    """
    place = {node.name: roles.index(node.role) for node in graph.nodes}
    count = len(roles)
    found = np.zeros(count * (count + 1) + BUCKETS)
    np.add.at(found, list(place.values()), ROLES / len(place) ** 0.5)
    edges = [count + place[a] * count + place[b] for a, b in graph.edges]
    np.add.at(found, edges, EDGES / max(1, len(edges)) ** 0.5)
    for path, share in _paths(graph, (graph.exit,), PATHS):
        found[-1 - hash(tuple(place[name] for name in path)) % BUCKETS] += share
    found.setflags(write=False)
    return found


@lru_cache(maxsize=KEPT)
def shape(roles: tuple[str, ...], graph: Graph) -> int:
    """A number that is equal for graphs that differ in the names and the order of agents alone."""
    place = {node.name: roles.index(node.role) for node in graph.nodes}
    below, above = dict[str, int](), dict[str, int]()
    for name in graph.order:
        below[name] = hash((place[name], *sorted(below[x] for x in graph.before[name])))
    for name in reversed(graph.order):
        above[name] = hash((below[name], *sorted(above[x] for x in graph.after[name])))
    return hash(tuple(sorted(above.values())))


@lru_cache(maxsize=KEPT)
def smaller_ones(graph: Graph) -> tuple[tuple[str, Graph], ...]:
    """Each agent that can be left out, by its name, and the graph without it."""
    if len(graph) == 1:
        return ()
    left = ((node.name, graph.without(node.name)) for node in graph.nodes)
    return tuple((name, rest) for name, rest in left if rest)


def _cost(graph: Graph) -> float:
    return AGENT * len(graph) + EDGE * len(graph.edges)


def _paths(graph: Graph, path: tuple[str, ...], share: float) -> Iterator[tuple[tuple[str, ...], float]]:
    """A path into the exit, and all that are longer by what its first agent hears, with their shares."""
    yield path, share
    heard = graph.before[path[0]]
    if len(path) < LONGEST:
        for name in heard:
            yield from _paths(graph, (name, *path), share / len(heard) ** 0.5)


def _unit(query: Query) -> Rows:
    length = float(np.linalg.norm(query.features))
    return query.features.astype(np.float64) / (length or 1.0)
