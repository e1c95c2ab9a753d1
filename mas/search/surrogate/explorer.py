"""
Exploration beside the policy: edits of the best graphs known, chosen by Thompson sampling.

The policy alone settles early on a graph of one agent, as most larger graphs are worse. The explorer knows the elite:
the graphs with the best lower bounds, and the best one for each role of the exit.

    joins     two graphs of the elite under an agent that takes both outputs: never tried, however they are predicted
    edits     elite, standard graphs, prunings and role changes of the best  -> pool
              ROUNDS times:  pool += POOL random edits of parents;  parents = Thompson samples of the pool
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np

from edgewise.mas.designs.graph_features import CACHE_SIZE, hash_shape
from edgewise.mas.designs.interface import Draft, Query, TrialGroup
from edgewise.mas.designs.patterns import standard_graphs
from edgewise.mas.graph.construction import Move, Space, build, moves_for
from edgewise.mas.graph.graph import Graph
from edgewise.mas.search.surrogate.gaussian_process import RewardSurrogate
from edgewise.mas.search.surrogate.mutations import graft, join, list_prunings, list_role_changes, mutate

# Drafts by shape: the names and the order of agents make no other graph.
Pool = dict[int, Draft]

# Measured by bench/topology.py: samples until the design stays within 95 % of the best graph.
# Graphs with the best lower bounds that are kept, beside the best one for each role of the exit.
ELITE = 8
# Standard deviations that the lower bound takes off the mean.
BOUND = 1.0
# Rounds of edits for a query, and random edits in each.
ROUNDS, POOL = 2, 64
# Graphs of the elite whose prunings and role changes all enter the pool.
PRUNED = 2
# Shares of the random edits that graft a part of another graph, and that are edited once more.
GRAFTS, TWICE = 0.5, 0.3
# Share of edits with a standard graph as parent; as many have one of the elite.
STANDARD = 0.2
# Share of the drafts that are joins: two halves of a good graph say little of the whole, so the prediction doesn't
# matter. Of the other drafts, the share that must be new, though predicted to be good.
JOINS, FRESH = 1 / 6, 0.5
# Joins that are sampled for a query.
JOIN_TRIES = 40
# Factor on the standard deviation of Thompson samples; 1 would be the posterior's own.
BOLDNESS = 0.7
# Added to all variances, in units of the largest: rounding makes a covariance indefinite otherwise.
JITTER = 1e-6


@dataclass
class Explorer:
    """Proposes drafts for a query; `tried` holds the shapes of all trials."""

    space: Space
    surrogate: RewardSurrogate
    tried: set[int] = field(default_factory=set, init=False)
    elite: list[Draft] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._hash = partial(hash_shape, self.space.roles)
        drafts = (_make_draft(self.space, graph) for graph in standard_graphs(self.space))
        self.standard = [draft for draft in drafts if draft]

    @property
    def best(self) -> list[Draft]:
        """The elite without the graphs that are there for their exit alone."""
        return self.elite[:ELITE]

    def update_elite(self, groups: Sequence[TrialGroup]) -> None:
        """Rank the elite and the graphs of these groups by lower bound, over the queries of these groups."""
        candidates = {self._hash(draft.graph): draft for draft in self.elite}
        graphs = [trial.draft.graph for group in groups for trial in group.all_trials]
        self.tried |= {self._hash(graph) for graph in graphs}
        self._add_to_pool(candidates, graphs)

        drafts, queries = list(candidates.values()), [group.query for group in groups]
        graphs = [draft.graph for draft in drafts]
        mean = np.mean([self.surrogate.predict(graphs, [query] * len(graphs)) for query in queries], axis=0)
        std = np.sqrt(np.maximum(0.0, np.diag(self.surrogate.posterior(graphs, queries[0])[1])))
        ranked = [drafts[i] for i in np.argsort(BOUND * std - mean, kind="stable")]

        # Reversed, so that of each role the best draft is the one that stays.
        of_exit = {draft.graph[draft.graph.exit].role: draft for draft in reversed(ranked)}
        best = ranked[:ELITE]
        self.elite = [*best, *(draft for draft in of_exit.values() if draft not in best)]

    def propose(self, query: Query, count: int, seed: int) -> list[Draft]:
        """Return `count` drafts of different shapes, joins first; before any trial the standard graphs."""
        if not (count and self.elite):
            return self.standard[:count]
        rng = np.random.default_rng(seed)

        # Joins of two random graphs of the elite that were never tried.
        joins: Pool = {}
        num_joins = round(count * JOINS)
        for _ in range(JOIN_TRIES if num_joins else 0):
            first, second = (_moves(self.elite[int(rng.integers(len(self.elite)))]) for _ in range(2))
            graph = _build_graph(self.space, join(self.space, first, second, rng))
            if self._hash(graph) not in self.tried:
                self._add_to_pool(joins, [graph])
            if len(joins) == num_joins:
                break
        count -= len(joins)

        # Edits, chosen among a growing pool.
        pool = {self._hash(draft.graph): draft for draft in [*self.elite, *self.standard]}
        for draft in self.best[:PRUNED]:
            moves = _moves(draft)
            neighbours = [*list_prunings(self.space, moves), *list_role_changes(self.space, moves)]
            self._add_to_pool(pool, [_build_graph(self.space, edited) for edited in neighbours])
        parents = list(pool.values())
        for _ in range(ROUNDS):
            self._add_to_pool(pool, [self._sample_edit(parents, rng) for _ in range(POOL)])
            parents = self._sample_by_thompson(pool, query, count, rng)
        return [*joins.values(), *parents]

    def _sample_edit(self, parents: Sequence[Draft], rng: np.random.Generator) -> Graph:
        """Return a random edit of a random parent: a graft or a mutation, and sometimes another mutation."""

        def sample_parent() -> tuple[Move, ...]:
            number = rng.random()
            pool = self.standard if number < STANDARD else self.elite if number < 2 * STANDARD else parents
            pool = pool or parents
            return _moves(pool[int(rng.integers(len(pool)))])

        moves = sample_parent()
        if rng.random() < GRAFTS:
            moves = graft(self.space, moves, sample_parent(), rng)
        else:
            moves = mutate(self.space, moves, rng)
        if rng.random() < TWICE:
            moves = mutate(self.space, moves, rng)
        return _build_graph(self.space, moves)

    def _sample_by_thompson(self, pool: Pool, query: Query, count: int, rng: np.random.Generator) -> list[Draft]:
        """Return `count` drafts of the pool, each the best in one sample of the posterior; the first are new."""
        drafts = list(pool.values())
        mean, covariance = self.surrogate.posterior([draft.graph for draft in drafts], query)
        root = np.linalg.cholesky(covariance + JITTER * covariance.max() * np.eye(len(drafts)))
        samples = mean[:, None] + BOLDNESS * (root @ rng.normal(size=(len(drafts), count)))  # [draft, sample]

        is_tried = [shape in self.tried for shape in pool]
        if len(drafts) - sum(is_tried) >= count:
            samples[is_tried, : round(count * FRESH)] = -np.inf
        chosen: list[int] = []
        for sample in samples.T:
            sample[chosen] = -np.inf
            chosen.append(int(sample.argmax()))
        return [drafts[i] for i in chosen]

    def _add_to_pool(self, pool: Pool, graphs: Sequence[Graph]) -> None:
        for graph in graphs:
            shape = self._hash(graph)
            if shape not in pool and (draft := _make_draft(self.space, graph)):
                pool[shape] = draft


# A search meets the same graphs again and again, so they are built once.


@lru_cache(maxsize=CACHE_SIZE)
def _build_graph(space: Space, moves: tuple[Move, ...]) -> Graph:
    return build(space, moves).graph


@lru_cache(maxsize=CACHE_SIZE)
def _make_draft(space: Space, graph: Graph) -> Draft | None:
    """Return the graph with moves that add agents and end; None where the space does not have it."""
    try:
        return Draft(graph, build(space, moves_for(space, graph)))
    except ValueError:
        return None


def _moves(draft: Draft) -> tuple[Move, ...]:
    return draft.build.moves if draft.build else ()
