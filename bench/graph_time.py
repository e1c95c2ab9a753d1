"""
Wall time of graph runs against their critical paths, in real seconds with simulated latencies.

The graphs are random (tests/support/mas/naive.py): fan-out, joins at unequal depths, N shapes, loops; each call takes
0.1 to 1 s, by what is asked. The critical path is the longest chain of calls that have to wait for each other, worked
out by an interpreter that runs one node after the other. Eight runs at a time share the event loop; graphs are
compiled before, as a graph is compiled once for all its runs. For comparison: the same runs started by LangGraph
alone, which goes level by level.
"""

import asyncio
import random
import statistics
import sys
import time
from dataclasses import replace

from common import quick, report

from edgewise.mas.graph.graph import Graph
from edgewise.mas.runtime.graph_run import run_graph
from edgewise.mas.runtime.langgraph_compiler import compile_plain
from edgewise.toolkit.run.driver import Driver
from edgewise.toolkit.types import Request
from tests.support.mas.naive import EXAMPLE, client, fraction, interpret_graph, random_graph, team

TEAM = team()
AT_ONCE = 8
BAR = 1.1


def takes(request: Request) -> float:
    """Seconds of a call."""
    return 0.1 + 0.9 * fraction([message.content for message in request.messages])


def graphs(count: int) -> list[Graph]:
    """Random graphs in which something is asked, and nothing hangs."""
    found, number = [], 0
    while len(found) < count:
        graph = random_graph(random.Random(number))
        nodes = tuple(n.model_copy(update={"model": "quick", "tools": None}) for n in graph.nodes)
        if any(node.role != "vote" for node in nodes):
            found.append(replace(graph, nodes=nodes))
        number += 1
    return found


async def timed(graph: Graph, places: asyncio.Semaphore, eager: bool) -> float:
    """Wall seconds of one run."""
    async with places:
        start = time.perf_counter()
        await Driver(client(takes)).run(run_graph(graph, TEAM, EXAMPLE, sample=0, seed=0, eager=eager))
        return time.perf_counter() - start


async def measured(chosen: list[Graph], eager: bool) -> list[float]:
    """Wall seconds of all runs."""
    places = asyncio.Semaphore(AT_ONCE)
    for graph in chosen:
        compile_plain(graph)
    return await asyncio.gather(*(timed(graph, places, eager) for graph in chosen))


def main() -> int:
    """Measure, print, judge."""
    chosen = graphs(24 if quick() else 120)
    paths = [interpret_graph(graph, TEAM, takes)[1] for graph in chosen]
    walls = asyncio.run(measured(chosen, eager=True))
    by_level = asyncio.run(measured(chosen, eager=False))
    ratios = [wall / path for wall, path in zip(walls, paths, strict=True) if path]
    levels = [wall / path for wall, path in zip(by_level, paths, strict=True) if path]
    figures = {
        "graphs": len(ratios),
        "median": round(statistics.median(ratios), 3),
        "worst": round(max(ratios), 3),
        "overhead_ms": round(1e3 * statistics.median(w - p for w, p in zip(walls, paths, strict=True)), 1),
        "critical_path_s": round(statistics.mean(paths), 2),
        "level_by_level_median": round(statistics.median(levels), 3),
        "level_by_level_worst": round(max(levels), 3),
    }
    return report("graph_time", figures, f"wall time <= {BAR} x critical path, every run", max(ratios) <= BAR)


if __name__ == "__main__":
    sys.exit(main())
