"""
What follows what when a graph runs, its loops included: pure, so that LangGraph and the runner agree.

A node of a loop's body runs once in each round, all others in round 0. A node hears the standing word of those
before it: the last that had something to say. In later rounds the loop's target also hears the loop's source.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from edgewise.mas.graph.graph import Graph, Loop
from edgewise.mas.runtime.node import NodeOutput

Said = Mapping[str, Sequence[NodeOutput]]
"""Outcomes by node, one for each round that it ran, in order."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A graph with its loops by the source and by the target, and the loop of each node of a body."""

    graph: Graph
    by_source: Mapping[str, Loop]
    by_target: Mapping[str, Loop]
    body: Mapping[str, Loop]

    def hears(self, name: str, round_: int) -> tuple[str, ...]:
        """Who is heard by a node in a round."""
        loop = self.by_target.get(name)
        return self.graph.before[name] + ((loop.source,) if loop and round_ else ())

    def heard(self, name: str, round_: int, said: Said) -> list[NodeOutput]:
        """What a node hears in a round."""
        return [standing(said[other]) for other in self.hears(name, round_)]

    def back(self, name: str, said: Said) -> str | None:
        """The target that is run again after `name`; None if the run goes on."""
        loop = self.by_source.get(name)
        if loop is None or len(said[name]) > loop.rounds or said[name][-1].accepts:
            return None
        return loop.target

    def next(self, name: str, said: Said) -> Iterator[tuple[str, int]]:
        """The nodes, each with its round, that can start because `name` has just ended."""
        if target := self.back(name, said):
            yield target, len(said[name])
            return
        for other in self.graph.after[name]:
            if other in self.body and other not in self.by_target:
                round_ = len(said[name]) - 1
                if all(len(said.get(x, ())) > round_ for x in self.graph.before[other]):
                    yield other, round_
            elif all(self._over(x, said) for x in self.graph.before[other]):
                yield other, 0

    def _over(self, name: str, said: Said) -> bool:
        """Whether a node has ended, with all the rounds of its loop."""
        return name in said and self.back(name, said) is None


@lru_cache(maxsize=512)
def flow(graph: Graph) -> Flow:
    """The flow of a graph."""
    return Flow(
        graph,
        {loop.source: loop for loop in graph.loops},
        {loop.target: loop for loop in graph.loops},
        {name: loop for loop in graph.loops for name in graph.body(loop)},
    )


def standing(outcomes: Sequence[NodeOutput]) -> NodeOutput:
    """What a node said last, if it said anything; a later round that failed does not unsay it."""
    last = outcomes[-1]
    return last if last.heard else next((each for each in reversed(outcomes) if each.heard), last)


def most_runs(graph: Graph) -> int:
    """The most times that nodes can run in one run of the graph."""
    return len(graph) + sum(loop.rounds * len(graph.body(loop)) for loop in graph.loops)
