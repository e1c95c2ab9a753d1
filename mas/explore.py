"""
Which graphs to try beside the policy's own: edits of the best ones known, chosen by Thompson sampling.

The policy alone settles early on a graph of one agent, as most larger graphs are worse; this keeps it looking.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mas.actions import Move, Space, build, moves_of
from mas.baselines import standard
from mas.estimate import KEPT, Estimate
from mas.graph import Graph
from mas.neighbours import grafted, neighbour, pruned
from mas.search import Draft, Query, TrialGroup

Pool = dict[str, Draft]


@dataclass
class Explorer:
    """
    Knows the `keep` graphs with the best lower bound, the best one for each role of the exit, and the usual designs.

    In each of `rounds`, `pool` edits are thought of; `bound` standard deviations are taken off for the lower bound.
    The first `prune` of the best are also tried with a part less. `graft` is the share of edits that put a part of
    one graph into another one, `twice` of those that are edited again, `usual` of those with a usual design as parent.
    `boldness` scales doubt where graphs are drawn by what they may be worth.
    """

    space: Space
    estimate: Estimate
    keep: int = 8
    pool: int = 64
    rounds: int = 2
    prune: int = 2
    bound: float = 1.0
    usual: float = 0.2
    graft: float = 0.5
    twice: float = 0.3
    boldness: float = 0.7
    elite: list[Draft] = field(default_factory=list)

    def __post_init__(self) -> None:
        designs = (_draft(self.space, graph) for graph in standard(self.space.roles))
        self.designs = [draft for draft in designs if draft]

    @property
    def best(self) -> list[Draft]:
        """The best ones known, without those kept for their exit."""
        return self.elite[: self.keep]

    def promising(self, query: Query, count: int, seed: int) -> list[Draft]:
        """
        `count` drafts; before any trial the usual designs.

        Each is the best of a pool of edits under one draw of what they may be worth.
        """
        if not count:
            return []
        if not self.elite:
            return self.designs[:count]
        rng = np.random.default_rng(seed)
        pool = {draft.graph.version: draft for draft in [*self.elite, *self.designs]}
        for draft in self.best[: self.prune]:
            self._take_in(pool, [_graph(self.space, each) for each in pruned(self.space, _moves(draft))])
        parents = list(pool.values())
        for _ in range(self.rounds):
            self._take_in(pool, [self._edited(parents, rng) for _ in range(self.pool)])
            parents = self._drawn(pool, query, count, rng)
        return parents

    def _drawn(self, pool: Pool, query: Query, count: int, rng: np.random.Generator) -> list[Draft]:
        """`count` of the pool, each the best under one draw of what all of it may be worth."""
        drafts = list(pool.values())
        graphs = [draft.graph for draft in drafts]
        worth = self.estimate.value(graphs, [query] * len(graphs))
        return [drafts[i] for i in (worth[:, None] + self._noise(graphs, query, count, rng)).argmax(0)]

    def _noise(
        self, graphs: Sequence[Graph], query: Query, count: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        values, vectors = np.linalg.eigh(self.estimate.doubt(graphs, query))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        return self.boldness * (root @ rng.normal(size=(len(graphs), count)))

    def take(self, groups: Sequence[TrialGroup]) -> None:
        """Keep the best of those tried and those kept, over the queries of these groups."""
        known = {draft.graph.version: draft for draft in self.elite}
        self._take_in(known, [trial.draft.graph for group in groups for trial in group.trials])
        drafts, queries = list(known.values()), [group.query for group in groups]
        graphs = [draft.graph for draft in drafts]
        mean = np.mean([self.estimate.value(graphs, [query] * len(graphs)) for query in queries], axis=0)
        doubt = np.sqrt(np.maximum(0.0, np.diag(self.estimate.doubt(graphs, queries[0]))))
        ranked = [drafts[i] for i in np.argsort(self.bound * doubt - mean, kind="stable")]
        of_exit = {draft.graph[draft.graph.exit].role: draft for draft in reversed(ranked)}
        best = ranked[: self.keep]
        self.elite = [*best, *(draft for draft in of_exit.values() if draft not in best)]

    def _edited(self, parents: Sequence[Draft], rng: np.random.Generator) -> Graph:
        moves = _moves(self._parent(parents, rng))
        if rng.random() < self.graft:
            moves = grafted(self.space, moves, _moves(self._parent(parents, rng)), rng)
        else:
            moves = neighbour(self.space, moves, rng)
        if rng.random() < self.twice:
            moves = neighbour(self.space, moves, rng)
        return _graph(self.space, moves)

    def _parent(self, parents: Sequence[Draft], rng: np.random.Generator) -> Draft:
        chance = rng.random()
        among = self.designs if chance < self.usual else self.elite if chance < 2 * self.usual else parents
        return (among or parents)[int(rng.integers(len(among or parents)))]

    def _take_in(self, pool: Pool, graphs: Sequence[Graph]) -> None:
        for graph in graphs:
            if graph.version not in pool and (draft := _draft(self.space, graph)):
                pool[graph.version] = draft


@lru_cache(maxsize=KEPT)
def _graph(space: Space, moves: tuple[Move, ...]) -> Graph:
    return build(space, moves).graph


@lru_cache(maxsize=KEPT)
def _draft(space: Space, graph: Graph) -> Draft | None:
    """The graph with moves that add agents and end; None where the space does not have it."""
    try:
        return Draft(graph, build(space, moves_of(space, graph)))
    except ValueError:
        return None


def _moves(draft: Draft) -> tuple[Move, ...]:
    return draft.build.moves if draft.build else ()
