"""
Interface of all searches for graphs: queries, trials, designs and searchers.

    queries ──► Searcher.propose ──► drafts ──► run, reward ──► trials ──► Searcher.learn
                      ▲                                                          │
                      └──────────────── state of the searcher ◄──────────────────┘
                                                │
                                         Searcher.design ──► Design: query ──► graph

A `Searcher` proposes G graphs for each query, learns from their rewards, and returns at any time the `Design` that it
would use: an immutable value with a version, which the gate compares and the artefact stores. All searchers have the
same interface and the same budget, so that they can be compared.

G trials of a query, D features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgewise.mas.graph.construction import Build
from edgewise.mas.graph.graph import Graph
from edgewise.toolkit.types import Plan


@dataclass(frozen=True, slots=True)
class Query:
    """A row as a searcher sees it: its id, its text, and its features (see `mas.designs.query_encoder`)."""

    id: str
    text: str
    features: NDArray[np.float32]  # [D]


@dataclass(frozen=True, slots=True)
class Draft:
    """A graph that a searcher proposes; `build` holds its moves if it was made move by move."""

    graph: Graph
    build: Build | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """
    Result of a draft on its query.

    `reward` is quality - cost_weight * cost - rationality_weight * irrationality (see `mas.credit.reward`); `parts`
    holds the three by name. `credit` is the measured worth of nodes, in reward: the reward with the node minus the
    reward without it. It lacks nodes that were not measured. `edge_credit` is the same for edges.
    """

    draft: Draft
    reward: float
    parts: Mapping[str, float] = field(default_factory=dict)
    credit: Mapping[str, float] = field(default_factory=dict)
    edge_credit: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrialGroup:
    """
    The G trials of one query in one step.

    `extra_trials` are of graphs that ran without being drafts: those that end at an inner agent of a draft, and the
    plain agent.
    """

    query: Query
    trials: tuple[Trial, ...]
    extra_trials: tuple[Trial, ...] = ()

    @property
    def all_trials(self) -> tuple[Trial, ...]:
        """Trials of drafts, then the extra ones."""
        return (*self.trials, *self.extra_trials)


class Design(Protocol):
    """A choice of a graph for each query: an immutable value."""

    @property
    def version(self) -> str:
        """A short hash; designs of equal versions choose alike."""
        ...

    def graphs(self, queries: Sequence[Query]) -> list[Graph]:
        """Return the graph of each query. It does not depend on the other queries."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return plain data with a key `kind`; `mas.search.load_design` reads it back."""
        ...


class Searcher(Protocol):
    """
    A search that proposes graphs, learns from trials, and has a design at any time.

    Its state is not saved: a run that was stopped is replayed from its journal.
    """

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """Return `size` drafts for each query. The same state, queries and seed give the same drafts."""
        ...

    def learn(self, groups: Sequence[TrialGroup], seed: int) -> Plan[None]:
        """Update the state with the trials of drafts."""
        ...

    def design(self) -> Design:
        """Return the design that it would use now."""
        ...
