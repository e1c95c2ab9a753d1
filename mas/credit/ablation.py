"""
What agents and edges are worth, measured: a graph runs with and without them on the same query, sample and seeds.

The difference in worth (quality less cost, see `mas.credit.reward`) is the counterfactual credit of what was left out. One
difference of two answers is mostly noise, so differences are pooled over queries and over all agents of a role, and
few of them are drawn towards what is known of the role (`mas.credit.evidence`). Runs are few too: those are made that
say most (`chosen`), and a smaller graph that ran anyway is not run again.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgewise.mas.credit.evidence import Case, Delta, Edge, Evidence, Key, Part, kind_of
from edgewise.mas.graph.graph import Graph
from edgewise.toolkit.errors import RewardError
from edgewise.toolkit.types import Example, Plan
from edgewise.toolkit.util.seeds import derive_seed

RunGraph = Callable[[Graph, Example, int], Plan[float]]
"""Runs a graph on a query for a sample index and gives its worth; equal arguments give equal seeds."""


@dataclass(frozen=True, slots=True)
class Credit:
    """Credit of the nodes and edges of one graph, in reward; those that were not measured are not in it."""

    nodes: Mapping[str, float] = field(default_factory=dict)
    edges: Mapping[Edge, float] = field(default_factory=dict)

    @classmethod
    def from_parts(cls, parts: Mapping[Part, float]) -> "Credit":
        """Nodes and edges apart."""
        nodes = {part: value for part, value in parts.items() if isinstance(part, str)}
        return cls(nodes, {part: value for part, value in parts.items() if not isinstance(part, str)})


def add_emitted_rewards(credit: Mapping[str, float], emitted: Mapping[str, float]) -> dict[str, float]:
    """
    Node credits with what a run emitted for each node (`mas.runtime.graph_run.emit_reward`, `GraphRun.rewards`).

    A node that was not measured has what was emitted as its credit. Raises RewardError for what is no finite number.
    """
    for node, value in emitted.items():
        if not math.isfinite(value):
            raise RewardError(f"emit_reward was given {value!r} for {node!r}; it takes finite numbers")
    return {**credit, **{node: credit.get(node, 0.0) + value for node, value in emitted.items()}}


# ---- leaving out -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ablation:
    """A smaller graph to compare a case with, and the parts whose absence makes it."""

    case: Case
    smaller: Case
    parts: tuple[Part, ...]


def list_ablated_graphs(graph: Graph) -> list[tuple[Graph, tuple[Part, ...]]]:
    """
    Every graph that is one part short, once, and the parts whose absence makes it.

    A node with one hearer and its only edge leave the same behind. A part that cannot be left out (an exit that
    hears several, a single agent) is in none.
    """
    left: list[tuple[Part, Graph | None]] = [(node.name, graph.without_node(node.name)) for node in graph.nodes]
    left += [(edge, graph.without_edge(edge)) for edge in sorted(graph.edges)]
    parts: dict[str, list[Part]] = defaultdict(list)
    graphs = {each.version: each for _, each in left if each is not None}
    for part, each in left:
        if each is not None:
            parts[each.version].append(part)
    return [(graphs[version], tuple(parts[version])) for version in sorted(graphs)]


def list_ablations(cases: Iterable[Case]) -> list[Ablation]:
    """All that can be left out of cases, each once, in an order of their own."""
    distinct = {case.key: case for case in cases}
    shorter = {case.graph.version: case.graph for case in distinct.values()}
    known = {version: list_ablated_graphs(graph) for version, graph in shorter.items()}
    return [
        Ablation(distinct[key], replace(distinct[key], graph=graph), parts)
        for key in sorted(distinct)
        for graph, parts in known[key[0]]
    ]


def measure_credit(run: RunGraph, graph: Graph, example: Example, samples: int = 1) -> Plan[Credit]:
    """The mean credit of every part of a graph on one query, as measured: nothing is drawn towards anything."""
    cases = [Case(graph, example, sample) for sample in range(samples)]
    evidence = yield from measure_ablations(run, cases)
    return Credit.from_parts(evidence.raw_means(graph))


def measure_ablations(
    run: RunGraph,
    cases: Iterable[Case],
    *,
    most: int | None = None,
    seed: int = 0,
    known: Evidence | None = None,
    done: Mapping[Key, float] | None = None,
) -> Plan[Evidence]:
    """
    What is known after leaving parts out of these cases, with at most `most` runs (None: as many as there are).

    `done` are runs that were made already, with their worth; they cost nothing. The order of the cases is no matter.
    """
    known, done = known or Evidence(), done or {}
    picked = choose_ablations(cases, most, seed, known, done)
    needed = {case.key: case for each in picked for case in (each.case, each.smaller) if case.key not in done}
    keys = sorted(needed)
    found = yield [run(needed[key].graph, needed[key].example, needed[key].sample) for key in keys]
    worths = {**done, **dict(zip(keys, found, strict=True))}
    return known.with_deltas(
        Delta(each.case, part, worths[each.case.key] - worths[each.smaller.key])
        for each in picked
        for part in each.parts
    )


def choose_ablations(
    cases: Iterable[Case], most: int | None, seed: int, known: Evidence, done: Mapping[Key, float]
) -> list[Ablation]:
    """
    What to leave out: all that costs no run, then what tells most for a run, while the runs last.

    What it tells is the sum of error variances over its parts, of the part in its graph and of its kind, each the
    variance of differences over one more than their number. Of equals the seed decides.
    """
    waiting = list_ablations(cases)
    siblings: dict[Key, list[int]] = defaultdict(list)
    for place, each in enumerate(waiting):
        siblings[each.case.key].append(place)
    ties = [derive_seed(seed, *each.case.key, each.smaller.graph.version) for each in waiting]
    paid, picked, doubt = set(done), {}, ErrorVariance(known)
    limit = math.inf if most is None else len(done) + most

    def entry(place: int) -> tuple[float, int, int]:
        each = waiting[place]
        cost = _cost(each, paid)
        return (-doubt(each) / cost if cost else -math.inf, ties[place], place)

    queue = [entry(place) for place in range(len(waiting))]
    heapq.heapify(queue)
    while queue:
        *before, place = heapq.heappop(queue)
        each, now = waiting[place], entry(place)
        if place in picked or len(paid) + _cost(each, paid) > limit:
            continue
        if now > (*before, place):
            # Doubt shrinks as others are picked, so it waits for its turn anew.
            heapq.heappush(queue, now)
            continue
        new = each.case.key not in paid
        paid |= {each.case.key, each.smaller.key}
        picked[place] = each
        doubt.note(each)
        for other in siblings[each.case.key] if new else ():
            # The whole graph has run now, so the others of its parts cost less.
            heapq.heappush(queue, entry(other))
    return list(picked.values())


def _cost(each: Ablation, paid: set[Key]) -> int:
    return len({each.case.key, each.smaller.key} - paid)


class ErrorVariance:
    """How little is known of what a leaving would measure; it counts those that have been picked."""

    def __init__(self, known: Evidence):
        self._variances = known.variances
        self._usual = known.variance
        self._counts: dict[Any, int] = dict(known.counts)

    def __call__(self, each: Ablation) -> float:
        """The sum of error variances over its parts."""
        return math.fsum(self._of(each.case.graph, part) for part in each.parts)

    def _of(self, graph: Graph, part: Part) -> float:
        kind_ = kind_of(graph, part)
        alike, own = self._counts.get(kind_, 0), self._counts.get((graph.version, part), 0)
        return self._variances.get(kind_, self._usual) * (1 / (alike + 1) + 1 / (own + 1))

    def note(self, each: Ablation) -> None:
        """Count one that was picked."""
        graph = each.case.graph
        for part in each.parts:
            for key in (kind_of(graph, part), (graph.version, part)):
                self._counts[key] = self._counts.get(key, 0) + 1


# ---- in a search -----------------------------------------------------------------------------------
