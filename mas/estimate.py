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

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mas.graph import Graph
from mas.search import Query, Trial, TrialGroup

Rows = NDArray[np.float64]
Numbers = NDArray[np.int64]

LONGEST, BUCKETS = 5, 1024
ENOUGH = 8
"""Once the window is full, so many trials of a shape; more of it stay only where it was drafted."""
KEPT = 4096
"""Of so many graphs what is in them is kept: a search meets the same ones again and again."""
ROLES, EDGES, PATHS, OWN = 0.45, 0.45, 0.45, 0.33
"""How much of a graph's worth is expected in each kind of part, and in itself; in standard deviations of rewards."""
AGENT, EDGE = 0.18, 0.045
"""What an agent and an edge more are expected to cost, in the same unit."""
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
    all), `noise` the variance of a reward over that of what graphs are worth. `window` trials count: see `_kept`.
    """

    roles: tuple[str, ...]
    answers: tuple[bool, ...] = ()
    alike: float = 0.3
    noise: float = 1.0
    window: int = 1024
    graphs: list[Graph] = field(default_factory=list)
    queries: Rows = field(default_factory=lambda: np.zeros((0, 0)))
    rewards: Rows = field(default_factory=lambda: np.zeros(0))
    group: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))
    drafted: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    seen: Described = field(init=False)
    dual: Rows = field(init=False)
    inverse: Rows = field(init=False)
    before: Weights = field(init=False)
    inside: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.roles)
        self.before = Weights(np.zeros(_width(count)), {}, np.zeros(count))

    def add(self, groups: Sequence[TrialGroup]) -> None:
        """Take in trials, and fit again."""
        if self.graphs:
            self.before, self.inside = Weights.of(self.seen, self.dual / self.spread, len(self.roles)), {}
        self._remember(groups)
        same = self.group[:, None] == self.group
        noise = self.noise * (np.eye(len(same)) + same / 2)  # of a reward, and of a query as a whole
        self.seen = self._described(self.graphs)
        self.inverse = np.linalg.inv(self._kernel(self.seen, self.queries) + noise)
        self.dual = self.inverse @ self._left()

    def _counted(self, group: TrialGroup) -> list[tuple[Trial, bool]]:
        """The trials of the drafts, and one of each other shape; with each, whether it is a draft's."""
        drafted = {shape(self.roles, t.draft.graph) for t in group.trials}
        others = {shape(self.roles, t.draft.graph): t for t in group.beside}
        beside = [(trial, False) for key, trial in others.items() if key not in drafted]
        return [*((trial, True) for trial in group.trials), *beside]

    def _remember(self, groups: Sequence[TrialGroup]) -> None:
        first = 1 + int(self.group.max(initial=-1))
        trials = [(first + n, g, *each) for n, g in enumerate(groups) for each in self._counted(g)]
        queries = np.stack([_unit(group.query) for _, group, _, _ in trials])
        self.graphs = [*self.graphs, *(trial.draft.graph for _, _, trial, _ in trials)]
        self.queries = np.concatenate([self.queries.reshape(-1, queries.shape[1]), queries])
        self.rewards = np.append(self.rewards, [trial.reward for _, _, trial, _ in trials])
        self.group = np.append(self.group, [number for number, _, _, _ in trials])
        self.drafted = np.append(self.drafted, [drafted for _, _, _, drafted in trials])
        self._forget(self._kept())

    def _forget(self, kept: Numbers) -> None:
        self.graphs = [self.graphs[i] for i in kept]
        self.queries, self.rewards = self.queries[kept], self.rewards[kept]
        self.group, self.drafted = self.group[kept], self.drafted[kept]

    def _kept(self) -> Numbers:
        """
        Which trials stay: the last `window`.

        Those beside drafts go first where `ENOUGH` later ones of their shape are known: there are several for each
        draft, and they would push the drafts out.
        """
        later, spare = Counter[int](), np.zeros(len(self.graphs), np.bool_)
        for i, graph in reversed(list(enumerate(self.graphs))):
            key = shape(self.roles, graph)
            spare[i] = not self.drafted[i] and later[key] >= ENOUGH
            later[key] += 1
        first_to_go = np.argsort(~spare, kind="stable")
        return np.sort(first_to_go[max(0, len(spare) - self.window) :])

    def _left(self) -> Rows:
        """(T,) rewards beyond what was expected, around 0."""
        left = self.rewards - self.spread * self.seen.expected
        return left - left.mean()

    def value(self, graphs: Sequence[Graph], queries: Sequence[Query]) -> Rows:
        """(graphs,) what they get on a query each beyond the mean of all; 0 before any trial."""
        if not self.graphs or not graphs:
            return np.zeros(len(graphs))
        found = self._described(graphs)
        return self._mean(found, self._kernel(found, np.stack([_unit(query) for query in queries])))

    def _mean(self, found: Described, kernel: Rows) -> Rows:
        return kernel @ self.dual + self.spread * (found.expected - self.seen.expected.mean())

    def posterior(self, graphs: Sequence[Graph], query: Query) -> tuple[Rows, Rows]:
        """(graphs,) as `value`, and (graphs, graphs) the covariance of what is not known of them, in reward squared."""
        found = self._described(graphs)
        kernel = self._kernel(found, np.stack([_unit(query)] * len(graphs)))
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
        return max(1e-3, float(self.rewards.std())) if len(self.rewards) else 1.0

    def _kernel(self, found: Described, queries: Rows) -> Rows:
        like = np.clip(queries @ self.queries.T, 0.0, 1.0)
        return found.alike(self.seen) * (1 - self.alike + self.alike * like)

    def _described(self, graphs: Sequence[Graph]) -> Described:
        return Described(
            np.stack([described(self.roles, graph) for graph in graphs]),
            np.array([shape(self.roles, graph) for graph in graphs]),
            np.array([self.roles.index(graph[graph.exit].role) for graph in graphs]),
            np.array([_cost(graph) for graph in graphs]),
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
    found = np.zeros(_width(count))
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
def inner_ones(roles: tuple[str, ...], answers: tuple[bool, ...], graph: Graph) -> tuple[Graph, ...]:
    """The graphs that end at the inner agents that answer."""
    inner = (node for node in graph.nodes if node.name != graph.exit)
    return tuple(graph.up_to(n.name) for n in inner if not answers or answers[roles.index(n.role)])


@lru_cache(maxsize=KEPT)
def smaller_ones(graph: Graph) -> tuple[tuple[str, Graph], ...]:
    """Each agent that can be left out, by its name, and the graph without it."""
    if len(graph) == 1:
        return ()
    left = ((node.name, graph.without(node.name)) for node in graph.nodes)
    return tuple((name, rest) for name, rest in left if rest)


def _width(roles: int) -> int:
    """F."""
    return roles * (roles + 1) + BUCKETS


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
