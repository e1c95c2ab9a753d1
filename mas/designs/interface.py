"""
What every way of searching for graphs shares: queries, trials, and the two sides of a searcher.

A `Searcher` proposes G graphs for each query, is told how each of them did, and says at any time which `Design` it
would use: an immutable value with a version, which the gate compares and the artefact keeps. All searchers have the
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
    """A row as a searcher sees it: its id, its text, and its (D,) features (see `mas.designs.query_encoder`)."""

    id: str
    text: str
    features: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Draft:
    """A graph that a searcher wants tried; `build` is how it was made, where it was made move by move."""

    graph: Graph
    build: Build | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """
    How a draft did on its query.

    `reward` is quality - cost_weight * cost - rationality_weight * irrationality (see `mas.credit.reward`), `parts` holds
    the three by name. `credit` is the measured worth of nodes, in reward: the reward with the node minus the reward
    without it; nodes that were not measured are not in it. Likewise `edge_credit` for edges.
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

    `beside` are trials of graphs that nobody drafted but that ran as well: those that end at an inner agent of a draft,
    and the plain agent.
    """

    query: Query
    trials: tuple[Trial, ...]
    extra_trials: tuple[Trial, ...] = ()

    @property
    def all_trials(self) -> tuple[Trial, ...]:
        """All that ran."""
        return (*self.trials, *self.extra_trials)


class Design(Protocol):
    """Which graph to use for which query: an immutable value."""

    @property
    def version(self) -> str:
        """A short hash; equal versions design alike."""
        ...

    def graphs(self, queries: Sequence[Query]) -> list[Graph]:
        """The graph of each query. The same for the same query, whatever else is asked with it."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain data with a key `kind`; `mas.search.load_design.load` reads it back."""
        ...


class Searcher(Protocol):
    """
    Proposes, learns, and says what it would use.

    It owns its state, which is not saved: a run that was stopped is driven again from its journal.
    """

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """`size` drafts for each query. The same state, queries and seed give the same drafts."""
        ...

    def learn(self, groups: Sequence[TrialGroup], seed: int) -> Plan[None]:
        """Take in what came of the drafts."""
        ...

    def design(self) -> Design:
        """What it would use now."""
        ...
