"""
What is known of the worth of agents and edges: measured differences, pooled over queries and over roles.

`mas.credit.ablation` measures them. One difference of two answers is mostly noise, so a guess at the worth of a part draws what
was measured of it towards what is known of its role, the more so the fewer its differences are.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgewise.mas.graph.graph import Graph
from edgewise.toolkit.evaluation import statistics
from edgewise.toolkit.types import Example

Edge = tuple[str, str]
Part = str | Edge
"""What is left out of a graph: a node by its name, or an edge."""

Kind = tuple[str, ...]
"""What parts of different graphs have in common: the role of a node, or the roles that an edge goes from and to."""

Key = tuple[str, str, int]
"""One run: the graph's version, the query's id, the sample."""

DEFAULT_STRENGTH = 4.0
"""How many differences what is known of a role counts as, while the data cannot tell."""
MAX_STRENGTH = 100.0
"""The most it counts as, however alike agents of a role seem."""


@dataclass(frozen=True, slots=True)
class Case:
    """A graph on a query, for one sample index."""

    graph: Graph
    example: Example
    sample: int = 0

    @property
    def key(self) -> Key:
        """Names its run."""
        return (self.graph.version, self.example.id, self.sample)


def kind_of(graph: Graph, part: Part) -> Kind:
    """The role of a node, or the roles at both ends of an edge."""
    names = (part,) if isinstance(part, str) else part
    return tuple(graph[name].role for name in names)


@dataclass(frozen=True, slots=True)
class Delta:
    """One difference: the worth of a case less its worth without the part."""

    case: Case
    part: Part
    value: float

    @property
    def key(self) -> tuple[Key, tuple[str, ...]]:
        """Names what was measured; the same is not measured twice."""
        return self.case.key, (self.part,) if isinstance(self.part, str) else self.part


@dataclass(frozen=True, slots=True)
class CreditEstimate:
    """
    The mean of measured differences, one per query, with its 95 % interval over queries and their number.

    Nothing measured is a mean of 0 with an infinite interval.
    """

    mean: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    count: int = 0


@dataclass(frozen=True)
class Evidence:
    """All differences so far, in an order of their own."""

    deltas: tuple[Delta, ...] = ()

    def with_deltas(self, more: Iterable[Delta]) -> "Evidence":
        """With more of them; what was known stays as it was."""
        every = {delta.key: delta for delta in (*more, *self.deltas)}
        return Evidence(tuple(every[key] for key in sorted(every)))

    def measured_parts(self, graph: Graph) -> tuple[Part, ...]:
        """The parts of a graph that were measured."""
        every: tuple[Part, ...] = (*(node.name for node in graph.nodes), *sorted(graph.edges))
        return tuple(part for part in every if (graph.version, part) in self._parts)

    def raw_estimate(self, graph: Graph, part: Part) -> CreditEstimate:
        """A part of one graph over its queries, as measured."""
        return _estimate(self._parts.get((graph.version, part), {}).values())

    def raw_means(self, graph: Graph) -> dict[Part, float]:
        """The mean difference of every part of a graph that was measured."""
        return {part: _mean([*self._parts[graph.version, part].values()]) for part in self.measured_parts(graph)}

    @cached_property
    def kind_estimates(self) -> dict[Kind, CreditEstimate]:
        """Roles, and pairs of roles, over all graphs, as measured."""
        return {each: _estimate(found.values()) for each, found in sorted(self._by_query.items())}

    def shrunk_credit(self, graph: Graph, part: Part) -> float:
        """
        The best guess at a part's credit: what was measured of it, drawn towards what is known of its kind.

        Its kind is drawn towards all parts of its sort (nodes or edges), those towards 0. How strongly follows from
        how much queries differ within a part and parts within a kind (one-way random effects by the method of
        moments; empirical Bayes, Efron and Morris 1975). So one unlucky answer condemns no role, and a part that was
        not measured has the guess for its kind.
        """
        kind_ = kind_of(graph, part)
        own = [*self._parts.get((graph.version, part), {}).values()]
        return _drawn(own, self._kind_guess(kind_), self._strengths[len(kind_)][0])

    def _kind_guess(self, kind_: Kind) -> float:
        sort = len(kind_)
        own = [x for found in self._of_kind.get(kind_, {}).values() for x in found]
        return _drawn(own, self._sort_guess[sort], self._strengths[sort][1])

    # The differences, sorted in the ways that are asked for; samples of one query count as one, by their mean.

    @cached_property
    def _parts(self) -> dict[tuple[str, Part], dict[str, float]]:
        """(graph, part) -> query -> mean difference."""
        found: dict[tuple[str, Part], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for delta in self.deltas:
            found[delta.case.graph.version, delta.part][delta.case.example.id].append(delta.value)
        return {key: {query: _mean(xs) for query, xs in queries.items()} for key, queries in found.items()}

    @cached_property
    def _kind(self) -> dict[tuple[str, Part], Kind]:
        return {(d.case.graph.version, d.part): kind_of(d.case.graph, d.part) for d in self.deltas}

    @cached_property
    def _of_kind(self) -> dict[Kind, dict[tuple[str, Part], list[float]]]:
        """Kind -> (graph, part) -> mean difference of each query."""
        found: dict[Kind, dict[tuple[str, Part], list[float]]] = defaultdict(dict)
        for key, queries in self._parts.items():
            found[self._kind[key]][key] = [*queries.values()]
        return dict(found)

    @cached_property
    def _by_query(self) -> dict[Kind, dict[str, float]]:
        """Kind -> query -> mean difference."""
        found: dict[Kind, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for key, queries in self._parts.items():
            for query, value in queries.items():
                found[self._kind[key]][query].append(value)
        return {each: {query: _mean(xs) for query, xs in queries.items()} for each, queries in found.items()}

    @cached_property
    def _sort_guess(self) -> dict[int, float]:
        """1 (nodes) and 2 (edges) -> the guess for all of them."""
        found = {1: [], 2: []}
        for each, parts in self._of_kind.items():
            found[len(each)] += [x for values in parts.values() for x in values]
        return {sort: _drawn(values, 0.0, DEFAULT_STRENGTH) for sort, values in found.items()}

    @cached_property
    def _strengths(self) -> dict[int, tuple[float, float]]:
        """1 and 2 -> how many differences the guess for the kind, and that for the sort, count as."""
        found = {}
        for sort in (1, 2):
            kinds = [parts for each, parts in self._of_kind.items() if len(each) == sort]
            whole = [[x for values in parts.values() for x in values] for parts in kinds]
            found[sort] = (prior_strength([[*parts.values()] for parts in kinds]), prior_strength([whole]))
        return found

    @property
    def counts(self) -> dict[Any, int]:
        """How many differences there are, by (graph, part) and by kind."""
        by_kind = {each: sum(map(len, parts.values())) for each, parts in self._of_kind.items()}
        return {**{key: len(queries) for key, queries in self._parts.items()}, **by_kind}

    @cached_property
    def variance(self) -> float:
        """The variance of differences about the mean of their kind; 1 where nothing is known."""
        squares = [(x - _mean(xs)) ** 2 for xs in self._flat.values() for x in xs]
        freedom = len(squares) - len(self._flat)
        return math.fsum(squares) / freedom if freedom > 0 and any(squares) else 1.0

    @cached_property
    def variances(self) -> dict[Kind, float]:
        """The same for each kind, where two differences have `variance`."""
        return {
            each: (2 * self.variance + math.fsum((x - _mean(xs)) ** 2 for x in xs)) / (len(xs) + 1)
            for each, xs in self._flat.items()
        }

    @cached_property
    def _flat(self) -> dict[Kind, list[float]]:
        return {each: [x for xs in parts.values() for x in xs] for each, parts in self._of_kind.items()}


def prior_strength(families: Sequence[Sequence[Sequence[float]]]) -> float:
    """
    How many members the mean of a family counts as, beside a group's own: variance within groups / between them.

    By the method of moments for groups of unequal sizes, within families; `USUAL` where no group has two members or
    no family two groups, 0 where members of a group do not differ.
    """
    groups = [group for family in families for group in family]
    members, freedom = sum(map(len, groups)), len(groups) - len(families)
    if members <= len(groups) or freedom <= 0:
        return DEFAULT_STRENGTH
    within = math.fsum((x - _mean(g)) ** 2 for g in groups for x in g) / (members - len(groups))
    if within <= 1e-18:
        return 0.0
    spread = size = 0.0
    for family in families:
        whole = [x for group in family for x in group]
        centre = _mean(whole)
        spread += math.fsum(len(g) * (_mean(g) - centre) ** 2 for g in family)
        size += len(whole) - math.fsum(len(g) ** 2 for g in family) / len(whole)
    between = (spread - freedom * within) / size
    return min(MAX_STRENGTH, within / between) if between > 0 else MAX_STRENGTH


def _drawn(values: Sequence[float], towards: float, strength: float) -> float:
    """The mean of values, with `towards` as so many more of them."""
    if not values:
        return towards
    return (math.fsum(values) + strength * towards) / (len(values) + strength)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _estimate(values: Iterable[float]) -> CreditEstimate:
    values = sorted(values)
    if not values:
        return CreditEstimate()
    found = statistics.bootstrap_interval(values)
    return CreditEstimate(found.estimate, found.low, found.high, len(values))
