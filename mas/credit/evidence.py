"""
Evidence on the worth of nodes and edges: measured differences, pooled over queries and over roles.

`mas.credit.ablation` measures the differences. One difference of two answers is mostly noise, so the estimate for a
part is shrunk towards what is known of its role, the more so the fewer differences the part has.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgewise.mas.graph.graph import Graph
from edgewise.toolkit.evaluation.statistics import mean
from edgewise.toolkit.types import Example

Edge = tuple[str, str]
# A part that an ablation leaves out of a graph: a node by its name, or an edge.
Part = str | Edge

# What parts of different graphs have in common: the role of a node, or the roles at both ends of an edge.
Kind = tuple[str, ...]

# Key of one run: the graph's version, the query's id, the sample.
Key = tuple[str, str, int]

# Number of differences that a prior mean counts as, where the data cannot tell.
DEFAULT_STRENGTH = 4.0
# Upper bound of that number, however alike the agents of a role seem.
MAX_STRENGTH = 100.0


@dataclass(frozen=True, slots=True)
class Case:
    """A graph on a query, for one sample index."""

    graph: Graph
    example: Example
    sample: int = 0

    @property
    def key(self) -> Key:
        """Key of its run."""
        return (self.graph.version, self.example.id, self.sample)


def kind_of(graph: Graph, part: Part) -> Kind:
    """Return the role of a node, or the roles at both ends of an edge."""
    names = (part,) if isinstance(part, str) else part
    return tuple(graph[name].role for name in names)


@dataclass(frozen=True, slots=True)
class Delta:
    """One difference: the net quality of a case less its net quality without the part."""

    case: Case
    part: Part
    value: float

    @property
    def key(self) -> tuple[Key, tuple[str, ...]]:
        """Key of the measurement; of two deltas with equal keys only one counts."""
        return self.case.key, (self.part,) if isinstance(self.part, str) else self.part


@dataclass(frozen=True)
class Evidence:
    """All differences so far, sorted by their keys."""

    deltas: tuple[Delta, ...] = ()

    def with_deltas(self, more: Iterable[Delta]) -> "Evidence":
        """Return the evidence with more differences; of equal keys the older one stays."""
        by_key = {delta.key: delta for delta in (*more, *self.deltas)}
        return Evidence(tuple(by_key[key] for key in sorted(by_key)))

    # ---- estimates ---------------------------------------------------------------------------------

    def measured_parts(self, graph: Graph) -> tuple[Part, ...]:
        """Return the parts of a graph that have a difference: nodes in their order, then edges sorted."""
        parts: tuple[Part, ...] = (*(node.name for node in graph.nodes), *sorted(graph.edges))
        return tuple(part for part in parts if (graph.version, part) in self._by_part)

    def raw_means(self, graph: Graph) -> dict[Part, float]:
        """Return the mean difference of every measured part of a graph, without shrinkage."""
        return {part: mean([*self._by_part[graph.version, part].values()]) for part in self.measured_parts(graph)}

    def shrunk_credit(self, graph: Graph, part: Part) -> float:
        """
        Estimate a part's credit: its own differences, shrunk towards its kind.

        Empirical Bayes over three levels (Efron and Morris 1975): a part is shrunk towards its kind, a kind towards
        all parts of its sort (nodes or edges), a sort towards 0. So one unlucky answer condemns no role, and a part
        without a difference gets the estimate of its kind.
        """
        kind = kind_of(graph, part)
        strengths, sort_mean = self._priors[len(kind)]
        kind_mean = _shrink(self._by_kind.get(kind, ()), sort_mean, strengths[1])
        own = self._by_part.get((graph.version, part), {}).values()
        return _shrink(own, kind_mean, strengths[0])

    @cached_property
    def _priors(self) -> dict[int, tuple[tuple[float, float], float]]:
        """
        For nodes (1) and edges (2): the strengths of two priors, and the mean of the sort.

        The first strength is that of a kind's mean for its parts, the second that of the sort's mean for its kinds.
        """
        priors = {}
        for sort in (1, 2):
            kinds = [kind for kind in self._groups if len(kind) == sort]
            pooled = [self._by_kind[kind] for kind in kinds]
            strengths = prior_strength([self._groups[kind] for kind in kinds]), prior_strength([pooled])
            priors[sort] = strengths, _shrink([x for xs in pooled for x in xs], 0.0, DEFAULT_STRENGTH)
        return priors

    # ---- counts and variances, for the choice of ablations -----------------------------------------

    @property
    def counts(self) -> dict[Any, int]:
        """Number of differences of each (graph version, part) and of each kind."""
        return {key: len(values) for table in (self._by_part, self._by_kind) for key, values in table.items()}

    @cached_property
    def variance(self) -> float:
        """Variance of differences about the mean of their kind, pooled over kinds; 1 where it is unknown."""
        # N values about the means of K kinds have N - K degrees of freedom.
        squares = [(x - mean(xs)) ** 2 for xs in self._by_kind.values() for x in xs]
        freedom = len(squares) - len(self._by_kind)
        return math.fsum(squares) / freedom if freedom > 0 and any(squares) else 1.0

    @cached_property
    def variances(self) -> dict[Kind, float]:
        """Variance of the differences of each kind, shrunk towards the pooled variance."""
        # sum of squares / (n - 1) with two more degrees of freedom that have the pooled variance, so that a kind of
        # one difference has a variance as well.
        return {
            kind: (2 * self.variance + math.fsum((x - mean(xs)) ** 2 for x in xs)) / (len(xs) + 1)
            for kind, xs in self._by_kind.items()
        }

    # ---- groupings; samples of one query count as one difference, by their mean --------------------

    @cached_property
    def _by_part(self) -> dict[tuple[str, Part], dict[str, float]]:
        """(graph version, part) -> query -> mean difference."""
        values: dict[tuple[str, Part], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for delta in self.deltas:
            values[delta.case.graph.version, delta.part][delta.case.example.id].append(delta.value)
        return {part: {query: mean(xs) for query, xs in queries.items()} for part, queries in values.items()}

    @cached_property
    def _groups(self) -> dict[Kind, list[list[float]]]:
        """Kind -> for each part, the mean differences of its queries."""
        kinds = {(d.case.graph.version, d.part): kind_of(d.case.graph, d.part) for d in self.deltas}
        groups: dict[Kind, list[list[float]]] = defaultdict(list)
        for part, queries in self._by_part.items():
            groups[kinds[part]].append([*queries.values()])
        return dict(groups)

    @cached_property
    def _by_kind(self) -> dict[Kind, list[float]]:
        """Kind -> the mean differences of all its parts and queries."""
        return {kind: [x for xs in groups for x in xs] for kind, groups in self._groups.items()}


def prior_strength(families: Sequence[Sequence[Sequence[float]]]) -> float:
    """
    Estimate how many values the mean of a family counts as, beside the values of a group in it.

    `families` holds families of groups of values. Returns `DEFAULT_STRENGTH` where no group has two values or no
    family two groups, 0 where the values of each group are equal, and at most `MAX_STRENGTH`.
    """
    # One-way random effects: value = mean of family f + effect of group g + error, with variances `between` and
    # `within`. The best linear predictor of a group's mean is (sum of its n values + k mean_f) / (n + k) with
    # k = within / between. Both variances come from the method of moments for N values in G groups of unequal sizes
    # n_g in F families (Searle, Casella and McCulloch 1992, section 3.6):
    #   sum_g sum_i (x_gi - mean_g)^2        has the expectation  (N - G) within
    #   sum_f sum_g n_g (mean_g - mean_f)^2  has the expectation  (G - F) within + size between
    # with size = sum_f (N_f - sum_g n_g^2 / N_f).
    groups = [group for family in families for group in family]
    total, freedom = sum(map(len, groups)), len(groups) - len(families)
    if total <= len(groups) or freedom <= 0:
        return DEFAULT_STRENGTH
    within = math.fsum((x - mean(g)) ** 2 for g in groups for x in g) / (total - len(groups))
    if within <= 1e-18:
        return 0.0

    squares = size = 0.0
    for family in families:
        values = [x for group in family for x in group]
        centre = mean(values)
        squares += math.fsum(len(g) * (mean(g) - centre) ** 2 for g in family)
        size += len(values) - math.fsum(len(g) ** 2 for g in family) / len(values)
    between = (squares - freedom * within) / size
    return min(MAX_STRENGTH, within / between) if between > 0 else MAX_STRENGTH


def _shrink(values: Iterable[float], prior_mean: float, strength: float) -> float:
    """Return the mean of values, with `prior_mean` as `strength` more of them."""
    values = list(values)
    if not values:
        return prior_mean
    return (math.fsum(values) + strength * prior_mean) / (len(values) + strength)
