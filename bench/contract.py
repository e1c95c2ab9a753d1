"""
Compiled graphs against a naive interpreter: 1,000 random graphs, every one run in several ways.

The graphs have fan-out, joins at unequal depths, loops with verdicts, votes, and nodes whose model is slow, hangs, is
refused, says nothing, or calls a tool that breaks. The clock jumps over waiting, so that an hour takes no time. Each
run is compared with an interpreter that runs one node after the other (tests/support/mas/naive.py), and is made

- as in use; started by LangGraph only; one node at a time; in a group that shares, together with itself: the outcomes
  of all nodes in all rounds must be equal, and no task may be left; as in use it must take as long as its critical
  path, to the microsecond; the group must make no call twice
- with a limit on calls, then on tokens, drawn below and above what it needs: never one call or token more, no call
  left unused where a node was stopped, and an outcome for every node
"""

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from common import quick, report

from edgewise.mas.graph.graph import Graph
from edgewise.mas.runtime.context import GraphLimits
from edgewise.mas.runtime.graph_run import GraphRun, run_graph
from edgewise.mas.runtime.node_cache import NodeCache
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.run.driver import Driver
from edgewise.toolkit.types import Plan, Rollout
from tests.support.mas.naive import EXAMPLE, NODE_SECONDS, client, interpret_graph, jump, plain, random_graph, team

TEAM = team()


def run(graph: Graph, limits: dict[str, Any], **options: Any) -> tuple[GraphRun, float, ScriptedClient]:
    """A run, its seconds, and the client that answered it."""
    answering = client()
    plan = run_graph(
        graph, TEAM, EXAMPLE, sample=0, seed=0, limits=GraphLimits(node_seconds=NODE_SECONDS, **limits), **options
    )
    done, seconds = jump(Driver(answering).run(plan))
    return done, seconds, answering


def outcomes(graph: Graph, rng: random.Random) -> Iterator[tuple[str, bool]]:
    """Whether what came out is what the interpreter says, however it was run."""
    expected, critical = interpret_graph(graph, TEAM)
    wanted = plain(expected)
    done, seconds, used = run(graph, {})
    yield "outcomes", plain(done.outcomes) == wanted
    yield "critical path", abs(seconds - critical) < 1e-6
    yield "outcomes, by LangGraph's steps", plain(run(graph, {}, eager=False)[0].outcomes) == wanted
    yield "outcomes, one at a time", plain(run(graph, {"concurrency": 1})[0].outcomes) == wanted
    yield from shared(graph, wanted, len(used.requests))


def shared(graph: Graph, wanted: Any, calls: int) -> Iterator[tuple[str, bool]]:
    """
    Whether three equal runs of a group do the same, and pay once for all that is in no loop.

    What ran out of time is asked again by the next one, which may have begun later: those graphs are not counted.
    """
    group, answering = NodeCache(), client()

    def plans() -> Plan[list[GraphRun]]:
        limits = GraphLimits(node_seconds=NODE_SECONDS)
        one = {"sample": 0, "seed": 0, "limits": limits, "cache": group}
        return (yield [run_graph(graph, TEAM, EXAMPLE, **one) for _ in range(3)])

    runs, _ = jump(Driver(answering).run(plans()))
    yield "outcomes, shared", all(plain(each.outcomes) == wanted for each in runs)
    late = any(each.status == "timeout" for outcomes in runs[0].outcomes.values() for each in outcomes)
    yield "no call twice in a group", bool(graph.loops) or late or len(answering.requests) == calls


def limited(graph: Graph, rng: random.Random) -> Iterator[tuple[str, bool]]:
    """Whether limits hold, to the call and to the token."""
    _, _, used = run(graph, {})
    calls = rng.randint(1, len(used.requests) + 2)
    done, _, counted = run(graph, {"calls": calls})
    stopped = any(x.status == "limit" for rounds in done.outcomes.values() for x in rounds)
    yield "calls within the limit", len(counted.requests) <= calls
    yield "no call left unused", not stopped or len(counted.requests) == calls
    yield "an outcome for every node", all(done.outcomes.values())
    most = rng.randint(1, 3000 * len(graph))
    done, _, _ = run(graph, {"tokens": most})
    yield "tokens within the limit", sum(map(tokens, done.rollout.steps[0].subrollouts)) <= most


def tokens(rollout: Rollout) -> int:
    return rollout.usage.total


def held(graphs: int, checks: tuple[Callable[..., Iterator[tuple[str, bool]]], ...]) -> dict[str, Counter[bool]]:
    """How often each thing held."""
    found: dict[str, Counter[bool]] = {}
    for number in range(graphs):
        rng = random.Random(number)
        graph = random_graph(rng)
        for check in checks:
            for name, good in check(graph, rng):
                found.setdefault(name, Counter())[good] += 1
                if not good:
                    print(f"graph {number}: {name} does not hold", file=sys.stderr)
    return found


def main() -> int:
    """Run, print, judge."""
    graphs = 100 if quick() else 1000
    found = held(graphs, (outcomes, limited))
    sizes = [random_graph(random.Random(number)) for number in range(graphs)]
    figures = {
        "graphs": graphs,
        "nodes": sum(map(len, sizes)),
        "loops": sum(len(graph.loops) for graph in sizes),
        "broken": {name: count[False] for name, count in found.items()},
    }
    good = not any(count[False] for count in found.values())
    return report("contract", figures, "all hold; no run exceeds a limit by one call", good)


if __name__ == "__main__":
    sys.exit(main())
