"""
Credit of nodes and edges by ablation: a graph runs with and without them on the same query, sample and seeds.

The difference in net quality (quality less cost, see `mas.credit.reward`) is the counterfactual credit of the part
that is left out. One difference of two answers is mostly noise, so differences are pooled over queries and over all
agents of a role, and shrunk (`mas.credit.evidence`). Runs are few too: `choose_ablations` picks the most informative
ones, and a smaller graph that ran anyway is not run again.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgewise.mas.credit.evidence import Case, Delta, Edge, Evidence, Key, Part, kind_of
from edgewise.mas.graph.graph import Graph
from edgewise.toolkit.errors import RewardError
from edgewise.toolkit.types import Example, Plan
from edgewise.toolkit.util.seeds import derive_seed

# Runs a graph on a query for a sample index and returns its net quality; equal arguments give equal seeds.
RunGraph = Callable[[Graph, Example, int], Plan[float]]


def split_parts(credit: Mapping[Part, float]) -> tuple[dict[str, float], dict[Edge, float]]:
    """Split the credit of parts into that of nodes and that of edges."""
    nodes = {part: value for part, value in credit.items() if isinstance(part, str)}
    return nodes, {part: value for part, value in credit.items() if not isinstance(part, str)}


def add_emitted_rewards(credit: Mapping[str, float], emitted: Mapping[str, float]) -> dict[str, float]:
    """
    Return node credits plus the rewards that a run emitted for nodes (`mas.runtime.graph_run.emit_reward`).

    A node that was not measured has the emitted reward as its credit. Raises RewardError for a reward that is not
    finite.
    """
    for node, value in emitted.items():
        if not math.isfinite(value):
            raise RewardError(f"emit_reward was given {value!r} for {node!r}; it takes finite numbers")
    return {**credit, **{node: credit.get(node, 0.0) + value for node, value in emitted.items()}}


# ---- ablations -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ablation:
    """A case, the same case with a smaller graph, and the parts whose removal makes that graph."""

    case: Case
    smaller: Case
    parts: tuple[Part, ...]


def list_ablated_graphs(graph: Graph) -> list[tuple[Graph, tuple[Part, ...]]]:
    """
    Return every graph that is one part short, once, with the parts whose removal makes it.

    A node with one successor and its only edge leave the same graph behind. Parts that cannot be removed (an exit
    with several inputs, a single agent) are missing.
    """
    smaller: list[tuple[Part, Graph | None]] = [(n.name, graph.without_node(n.name)) for n in graph.nodes]
    smaller += [(edge, graph.without_edge(edge)) for edge in sorted(graph.edges)]
    graphs: dict[str, Graph] = {}
    parts: dict[str, list[Part]] = defaultdict(list)
    for part, rest in smaller:
        if rest is not None:
            graphs[rest.version] = rest
            parts[rest.version].append(part)
    return [(graphs[version], tuple(parts[version])) for version in sorted(graphs)]


def list_ablations(cases: Iterable[Case]) -> list[Ablation]:
    """Return all ablations of cases, each once, in an order that does not depend on that of the cases."""
    by_key = {case.key: case for case in cases}
    smaller = {case.graph.version: list_ablated_graphs(case.graph) for case in by_key.values()}
    return [
        Ablation(case, replace(case, graph=graph), parts)
        for _, case in sorted(by_key.items())
        for graph, parts in smaller[case.graph.version]
    ]


def measure_ablations(
    run: RunGraph,
    cases: Iterable[Case],
    *,
    max_runs: int | None = None,
    seed: int = 0,
    known: Evidence | None = None,
    done: Mapping[Key, float] | None = None,
) -> Plan[Evidence]:
    """
    Measure ablations of cases with at most `max_runs` runs (None: all of them), and add the differences to `known`.

    `done` holds the net quality of runs that were made already; they cost nothing. The order of the cases does not
    matter.
    """
    known, done = known or Evidence(), done or {}
    ablations = choose_ablations(cases, max_runs, seed, known, done)
    missing = {c.key: c for a in ablations for c in (a.case, a.smaller) if c.key not in done}
    keys = sorted(missing)
    results = yield [run(missing[key].graph, missing[key].example, missing[key].sample) for key in keys]
    quality = {**done, **dict(zip(keys, results, strict=True))}
    return known.with_deltas(
        Delta(ablation.case, part, quality[ablation.case.key] - quality[ablation.smaller.key])
        for ablation in ablations
        for part in ablation.parts
    )


# ---- the choice of ablations -----------------------------------------------------------------------


class ErrorVariance:
    """Expected error variance of an ablation, given the ablations already selected."""

    def __init__(self, known: Evidence):
        self._variances, self._pooled = known.variances, known.variance
        self._counts: dict[Any, int] = dict(known.counts)

    def estimate(self, ablation: Ablation) -> float:
        """
        Return the sum of error variances over the ablation's parts.

        A mean of n differences with variance v has the error variance v / n. A part has two such means, its kind's and
        its own; each counts one difference more than there are, so that what has none stays finite.
        """
        graph, variances = ablation.case.graph, []
        for part in ablation.parts:
            kind = kind_of(graph, part)
            of_kind, own = self._counts.get(kind, 0), self._counts.get((graph.version, part), 0)
            variances.append(self._variances.get(kind, self._pooled) * (1 / (of_kind + 1) + 1 / (own + 1)))
        return math.fsum(variances)

    def select(self, ablation: Ablation) -> None:
        """Count the differences of an ablation that was selected."""
        graph = ablation.case.graph
        for part in ablation.parts:
            for key in (kind_of(graph, part), (graph.version, part)):
                self._counts[key] = self._counts.get(key, 0) + 1


def choose_ablations(
    cases: Iterable[Case], max_runs: int | None, seed: int, known: Evidence, done: Mapping[Key, float]
) -> list[Ablation]:
    """
    Choose ablations greedily: all that cost no run, then those with the most error variance per run.

    The seed decides between equals. An ablation costs up to two runs, that of its case and that of its smaller graph;
    runs in `done` and runs that an earlier choice needs are free.
    """
    ablations, paid = list_ablations(cases), set(done)
    limit = math.inf if max_runs is None else len(done) + max_runs
    ties = [derive_seed(seed, *a.case.key, a.smaller.graph.version) for a in ablations]
    siblings: dict[Key, list[int]] = defaultdict(list)
    for index, ablation in enumerate(ablations):
        siblings[ablation.case.key].append(index)
    error_variance = ErrorVariance(known)

    def count_new_runs(ablation: Ablation) -> int:
        return len({ablation.case.key, ablation.smaller.key} - paid)

    def priority(index: int) -> tuple[float, int, int]:
        """Smallest first: minus the error variance per run, the tie, the index."""
        runs = count_new_runs(ablations[index])
        return (-error_variance.estimate(ablations[index]) / runs if runs else -math.inf, ties[index], index)

    # Lazy greedy (Minoux 1978): error variance only falls while others are chosen, so an entry on the heap is never
    # better than it says, and only the top one has to be computed again. The exception is a case whose whole graph
    # gets its run: then its other ablations become cheaper, and get a second, better entry.
    chosen: dict[int, Ablation] = {}
    queue = [priority(index) for index in range(len(ablations))]
    heapq.heapify(queue)
    while queue:
        entry = heapq.heappop(queue)
        index = entry[-1]
        ablation, current = ablations[index], priority(index)
        if index in chosen or len(paid) + count_new_runs(ablation) > limit:
            continue
        if current > entry:
            heapq.heappush(queue, current)
            continue
        is_new_case = ablation.case.key not in paid
        paid |= {ablation.case.key, ablation.smaller.key}
        chosen[index] = ablation
        error_variance.select(ablation)
        if is_new_case:
            for sibling in siblings[ablation.case.key]:
                heapq.heappush(queue, priority(sibling))
    return list(chosen.values())
