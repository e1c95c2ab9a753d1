"""
What agents and edges are worth, estimated from all trials so far: for the moves whose worth was not measured.

Ridge regression of rewards, each less the mean of its group, on what is in a graph: roles, the exit's role, and who
hears whom by roles. Trials count for a query as far as their queries are alike, so worth depends on the query where
the trials say so. In the form of a kernel, as there are more features than trials.

T trials, F features of a graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mas.graph import Graph
from mas.search import Query, TrialGroup


@dataclass(slots=True)
class Estimate:
    """
    Rewards seen, and what follows from them. `alike` is how far the query matters: 0 for not at all. `noise` is the
    variance of a reward over that of one feature's effect. Only the last `window` trials count.
    """

    roles: tuple[str, ...]
    alike: float = 0.5
    noise: float = 4.0
    window: int = 1024
    features: list[NDArray[np.float64]] = field(default_factory=list)
    queries: list[NDArray[np.float64]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    dual: NDArray[np.float64] | None = None

    def add(self, groups: Sequence[TrialGroup]) -> None:
        """Take in trials, and fit again."""
        for group in groups:
            found = [self.described(trial.draft.graph) for trial in group.trials]
            mean, centre = np.mean([trial.reward for trial in group.trials]), np.mean(found, axis=0)
            self.features += [each - centre for each in found]
            self.queries += [_unit(group.query)] * len(found)
            self.rewards += [trial.reward - mean for trial in group.trials]
        for rows in (self.features, self.queries, self.rewards):
            del rows[: -self.window]
        kernel = self._kernel(np.stack(self.features), np.stack(self.queries))
        self.dual = np.linalg.solve(kernel + self.noise * np.eye(len(kernel)), np.array(self.rewards))

    def value(self, graphs: Sequence[Graph], queries: Sequence[Query]) -> NDArray[np.float64]:
        """What graphs get on a query each, up to a constant of the query; 0 before any trial."""
        if self.dual is None or not graphs:
            return np.zeros(len(graphs))
        features = np.stack([self.described(graph) for graph in graphs])
        return self._kernel(features, np.stack([_unit(query) for query in queries])) @ self.dual

    def worth(self, graphs: Sequence[Graph], queries: Sequence[Query]) -> list[dict[str, float]]:
        """
        For each graph, its nodes' worth on its query: the value with the node less the value without it.

        Nodes that cannot be left out (an exit that hears several) have none.
        """
        smaller = [[(node.name, graph.without(node.name)) for node in graph.nodes] for graph in graphs]
        flat = [(i, name, rest) for i, each in enumerate(smaller) for name, rest in each if rest and len(graphs[i]) > 1]
        whole = self.value(graphs, queries)
        without = self.value([rest for _, _, rest in flat], [queries[i] for i, _, _ in flat])
        found: list[dict[str, float]] = [{} for _ in graphs]
        for (i, name, _), value in zip(flat, without, strict=True):
            found[i][name] = float(whole[i] - value)
        return found

    def described(self, graph: Graph) -> NDArray[np.float64]:
        """(F,) how many of each role, the exit's role, and how many edges between each two roles."""
        count = len(self.roles)
        place = {node.name: self.roles.index(node.role) for node in graph.nodes}
        found = np.zeros(count * (count + 2))
        for role in place.values():
            found[role] += 1
        found[count + place[graph.exit]] = 1
        for a, b in graph.edges:
            found[2 * count + place[a] * count + place[b]] += 1
        return found

    def _kernel(self, features: NDArray[np.float64], queries: NDArray[np.float64]) -> NDArray[np.float64]:
        like = np.clip(queries @ np.stack(self.queries).T, 0.0, 1.0)
        return (features @ np.stack(self.features).T) * (1 - self.alike + self.alike * like)


def _unit(query: Query) -> NDArray[np.float64]:
    length = float(np.linalg.norm(query.features))
    return query.features.astype(np.float64) / (length or 1.0)
