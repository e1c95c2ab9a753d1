"""
Which graphs to try beside the policy's own: edits of the best ones known, chosen by Thompson sampling.

The policy alone settles early on a graph of one agent, as most larger graphs are worse; this keeps it looking.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from edgewise.mas.designs.graph_features import CACHE_SIZE, hash_shape
from edgewise.mas.designs.interface import Draft, Query, TrialGroup
from edgewise.mas.designs.patterns import standard_graphs
from edgewise.mas.graph.construction import Move, Space, build, moves_for
from edgewise.mas.graph.graph import Graph
from edgewise.mas.search.surrogate.gaussian_process import RewardSurrogate
from edgewise.mas.search.surrogate.mutations import graft, join, mutate, list_prunings, list_role_changes

Pool = dict[int, Draft]
"""Graphs by their shape: the names and the order of agents make no other graph."""

TRIES = 40
"""So many joins are thought of for a query."""
JITTER = 1e-6
"""Of the largest variance, added to all of them: rounding makes a covariance indefinite else."""


@dataclass
class Explorer:
    """
    Knows the `keep` graphs with the best lower bound, the best one for each role of the exit, and the usual designs.

    In each of `rounds`, `pool` edits are thought of; `bound` standard deviations are taken off for the lower bound.
    The first `prune` of the best are also thought of with a part less, or with another role for an agent. `graft` is
    the share of edits that put a part of one graph into another one, `twice` of those that are edited again, `usual`
    of those with a usual design as parent. `boldness` scales doubt where graphs are drawn by what they may be worth.

    The share `joins` of the drafts puts two of the known graphs under an agent that hears both: what was never tried,
    whatever it is thought to be worth, for two halves of a good graph say little of the whole. Of the others the share
    `fresh` was never tried either, but is thought to be worth it. No two of these are the same graph.
    """

    space: Space
    estimate: RewardSurrogate
    keep: int = 8
    pool: int = 64
    rounds: int = 2
    prune: int = 2
    bound: float = 1.0
    usual: float = 0.2
    graft: float = 0.5
    twice: float = 0.3
    boldness: float = 0.7
    joins: float = 1 / 6
    fresh: float = 0.5
    tried: set[int] = field(default_factory=set)
    elite: list[Draft] = field(default_factory=list)

    def __post_init__(self) -> None:
        designs = (_draft(self.space, graph) for graph in standard_graphs(self.space))
        self.designs = [draft for draft in designs if draft]

    @property
    def best(self) -> list[Draft]:
        """The best ones known, without those kept for their exit."""
        return self.elite[: self.keep]

    def propose(self, query: Query, count: int, seed: int) -> list[Draft]:
        """
        `count` drafts; before any trial the usual designs.

        First joins, then edits: each is the best of a pool of edits under one draw of what they may be worth.
        """
        if not (count and self.elite):
            return self.designs[:count]
        rng = np.random.default_rng(seed)
        joins = self._joins(round(count * self.joins), rng)
        return [*joins, *self._edits(query, count - len(joins), rng)]

    def _joins(self, count: int, rng: np.random.Generator) -> list[Draft]:
        """At most `count` joins of two of those known that were not tried yet."""
        found: Pool = {}
        for _ in range(TRIES if count else 0):
            one, other = (_moves(self.elite[int(rng.integers(len(self.elite)))]) for _ in range(2))
            graph = _graph(self.space, join(self.space, one, other, rng))
            if self._shape(graph) not in self.tried:
                self._take_in(found, [graph])
            if len(found) == count:
                break
        return list(found.values())

    def _edits(self, query: Query, count: int, rng: np.random.Generator) -> list[Draft]:
        pool = {self._shape(draft.graph): draft for draft in [*self.elite, *self.designs]}
        for draft in self.best[: self.prune]:
            near = [*list_prunings(self.space, _moves(draft)), *list_role_changes(self.space, _moves(draft))]
            self._take_in(pool, [_graph(self.space, each) for each in near])
        parents = list(pool.values())
        for _ in range(self.rounds):
            self._take_in(pool, [self._edited(parents, rng) for _ in range(self.pool)])
            parents = self._drawn(pool, query, count, rng)
        return parents

    def _drawn(self, pool: Pool, query: Query, count: int, rng: np.random.Generator) -> list[Draft]:
        """`count` of the pool, each the best under one draw of what all of it may be worth; the first are fresh."""
        drafts = list(pool.values())
        mean, doubt = self.estimate.posterior([draft.graph for draft in drafts], query)
        root = np.linalg.cholesky(doubt + JITTER * doubt.max() * np.eye(len(doubt)))
        worth = mean[:, None] + self.boldness * (root @ rng.normal(size=(len(drafts), count)))
        old = [key in self.tried for key in pool]
        if len(drafts) - sum(old) >= count:
            worth[old, : round(count * self.fresh)] = -np.inf
        picked: list[int] = []
        for column in worth.T:
            column[picked] = -np.inf
            picked.append(int(column.argmax()))
        return [drafts[i] for i in picked]

    def update_elite(self, groups: Sequence[TrialGroup]) -> None:
        """Keep the best of those tried and those kept, over the queries of these groups."""
        known = {self._shape(draft.graph): draft for draft in self.elite}
        graphs = [trial.draft.graph for group in groups for trial in group.all_trials]
        self.tried |= {self._shape(graph) for graph in graphs}
        self._take_in(known, graphs)
        drafts, queries = list(known.values()), [group.query for group in groups]
        graphs = [draft.graph for draft in drafts]
        mean = np.mean([self.estimate.predict(graphs, [query] * len(graphs)) for query in queries], axis=0)
        doubt = np.sqrt(np.maximum(0.0, np.diag(self.estimate.posterior(graphs, queries[0])[1])))
        ranked = [drafts[i] for i in np.argsort(self.bound * doubt - mean, kind="stable")]
        of_exit = {draft.graph[draft.graph.exit].role: draft for draft in reversed(ranked)}
        best = ranked[: self.keep]
        self.elite = [*best, *(draft for draft in of_exit.values() if draft not in best)]

    def _edited(self, parents: Sequence[Draft], rng: np.random.Generator) -> Graph:
        moves = _moves(self._parent(parents, rng))
        if rng.random() < self.graft:
            moves = graft(self.space, moves, _moves(self._parent(parents, rng)), rng)
        else:
            moves = mutate(self.space, moves, rng)
        if rng.random() < self.twice:
            moves = mutate(self.space, moves, rng)
        return _graph(self.space, moves)

    def _parent(self, parents: Sequence[Draft], rng: np.random.Generator) -> Draft:
        chance = rng.random()
        among = self.designs if chance < self.usual else self.elite if chance < 2 * self.usual else parents
        return (among or parents)[int(rng.integers(len(among or parents)))]

    def _take_in(self, pool: Pool, graphs: Sequence[Graph]) -> None:
        for graph in graphs:
            key = self._shape(graph)
            if key not in pool and (draft := _draft(self.space, graph)):
                pool[key] = draft

    def _shape(self, graph: Graph) -> int:
        return hash_shape(self.space.roles, graph)


@lru_cache(maxsize=CACHE_SIZE)
def _graph(space: Space, moves: tuple[Move, ...]) -> Graph:
    return build(space, moves).graph


@lru_cache(maxsize=CACHE_SIZE)
def _draft(space: Space, graph: Graph) -> Draft | None:
    """The graph with moves that add agents and end; None where the space does not have it."""
    try:
        return Draft(graph, build(space, moves_for(space, graph)))
    except ValueError:
        return None


def _moves(draft: Draft) -> tuple[Move, ...]:
    return draft.build.moves if draft.build else ()
