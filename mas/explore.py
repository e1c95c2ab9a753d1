"""
Which graphs to try beside the policy's own: edits of the best ones known, chosen by Thompson sampling.

The policy alone settles early on a graph of one agent, as most larger graphs are worse; this keeps it looking.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mas.actions import Space, build, moves_of
from mas.baselines import standard
from mas.estimate import Estimate
from mas.graph import Graph
from mas.neighbours import neighbour
from mas.search import Draft, Query, TrialGroup


@dataclass
class Explorer:
    """
    Knows the `keep` graphs with the best lower bound, and the usual designs, which it edits too.

    `pool` edits are thought of for each query; `bound` standard deviations are taken off for the lower bound.
    """

    space: Space
    estimate: Estimate
    keep: int = 6
    pool: int = 96
    bound: float = 1.0
    usual: float = 0.2
    twice: float = 0.3
    elite: list[Draft] = field(default_factory=list)

    def __post_init__(self) -> None:
        designs = (self._draft(graph) for graph in standard(self.space.roles))
        self.designs = [draft for draft in designs if draft]

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
        for _ in range(self.pool):
            if draft := self._edited(rng):
                pool[draft.graph.version] = draft
        drafts = list(pool.values())
        graphs = [draft.graph for draft in drafts]
        values, vectors = np.linalg.eigh(self.estimate.doubt(graphs, query))
        noise = (vectors * np.sqrt(np.maximum(values, 0.0))) @ rng.normal(size=(len(graphs), count))
        worth = self.estimate.value(graphs, [query] * len(graphs))[:, None] + noise
        return [drafts[i] for i in worth.argmax(0)]

    def take(self, groups: Sequence[TrialGroup]) -> None:
        """Keep the best of those tried and those kept, over the queries of these groups."""
        known = {draft.graph.version: draft for draft in self.elite}
        for graph in (trial.draft.graph for group in groups for trial in group.trials):
            if graph.version not in known and (draft := self._draft(graph)):
                known[graph.version] = draft
        drafts, queries = list(known.values()), [group.query for group in groups]
        graphs = [draft.graph for draft in drafts]
        mean = np.mean([self.estimate.value(graphs, [query] * len(graphs)) for query in queries], axis=0)
        doubt = np.sqrt(np.maximum(0.0, np.diag(self.estimate.doubt(graphs, queries[0]))))
        self.elite = [drafts[i] for i in np.argsort(self.bound * doubt - mean, kind="stable")[: self.keep]]

    def _edited(self, rng: np.random.Generator) -> Draft | None:
        parents = self.designs if self.designs and rng.random() < self.usual else self.elite
        made = parents[int(rng.integers(len(parents)))].build
        moves = made.moves if made else ()
        for _ in range(1 + int(rng.random() < self.twice)):
            moves = neighbour(self.space, moves, rng)
        return self._draft(build(self.space, moves).graph)

    def _draft(self, graph: Graph) -> Draft | None:
        """The graph with moves that add agents and end; None where the space does not have it."""
        try:
            return Draft(graph, build(self.space, moves_of(self.space, graph)))
        except ValueError:
            return None
