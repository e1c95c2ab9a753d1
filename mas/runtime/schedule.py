"""
Order of a graph run, loops included. Pure functions, so that LangGraph and the runner decide alike.

    a ──► b ──► c ──► d        loop c -> b, 2 rounds
          ▲     │
          └─────┘              a(0)  b(0) c(0)  b(1) c(1)  b(2) c(2)  d(0)

A node of a loop's body runs once in each round, all others in round 0. A node receives the latest text of each
predecessor; from round 1 on, the loop's target also receives that of the loop's source. A round is the last one when
the source's verdict accepts, or when the loop has run `rounds` times after round 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from edgewise.mas.graph.graph import Graph, Loop
from edgewise.mas.runtime.node import NodeOutput

OutputsByNode = Mapping[str, Sequence[NodeOutput]]
"""Outcomes by node, one for each round that it ran, in order."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A graph with its loops by source and by target, and the loop of each node of a body."""

    graph: Graph
    by_source: Mapping[str, Loop]
    by_target: Mapping[str, Loop]
    loop_of: Mapping[str, Loop]

    def sources(self, name: str, round_: int) -> tuple[str, ...]:
        """Return the nodes whose output a node receives in a round."""
        loop = self.by_target.get(name)
        return self.graph.predecessors[name] + ((loop.source,) if loop and round_ else ())

    def inputs(self, name: str, round_: int, outcomes: OutputsByNode) -> list[NodeOutput]:
        """Return the outputs that a node receives in a round."""
        return [latest_output(outcomes[other]) for other in self.sources(name, round_)]

    def next_target(self, name: str, outcomes: OutputsByNode) -> str | None:
        """Return the loop's target if it runs again after `name`, None if the run goes on."""
        # Round 0 counts as a run too, so a loop of one round has run twice when it is over.
        loop = self.by_source.get(name)
        if loop is None or len(outcomes[name]) > loop.rounds or outcomes[name][-1].accepts:
            return None
        return loop.target

    def ready_nodes(self, name: str, outcomes: OutputsByNode) -> Iterator[tuple[str, int]]:
        """Yield the nodes, each with its round, that can start because `name` has just ended."""
        if target := self.next_target(name, outcomes):
            yield target, len(outcomes[name])
            return

        for other in self.graph.successors[name]:
            predecessors = self.graph.predecessors[other]
            if other in self.loop_of and other not in self.by_target:
                # Inside a body all predecessors belong to it, and must have run in the same round.
                round_ = len(outcomes[name]) - 1
                if all(len(outcomes.get(before, ())) > round_ for before in predecessors):
                    yield other, round_
            elif all(before in outcomes and self.next_target(before, outcomes) is None for before in predecessors):
                # Everywhere else a predecessor that ends a loop counts only once the loop is over.
                yield other, 0


@lru_cache(maxsize=512)
def build_schedule(graph: Graph) -> Schedule:
    """Return the schedule of a graph."""
    return Schedule(
        graph,
        {loop.source: loop for loop in graph.loops},
        {loop.target: loop for loop in graph.loops},
        {name: loop for loop in graph.loops for name in graph.loop_body(loop)},
    )


def latest_output(outcomes: Sequence[NodeOutput]) -> NodeOutput:
    """Return the last outcome with a text, else the last: a later round that failed does not withdraw a text."""
    return next((outcome for outcome in reversed(outcomes) if outcome.has_text), outcomes[-1])


def max_node_runs(graph: Graph) -> int:
    """Return how many times nodes can run in one run of the graph."""
    return len(graph) + sum(loop.rounds * len(graph.loop_body(loop)) for loop in graph.loops)
