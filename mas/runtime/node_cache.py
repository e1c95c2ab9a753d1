"""
Nodes that are run once for several graphs of a group.

A node's content hash covers all that shapes its output but the outputs that it receives. Equal nodes of different
graphs draw with equal seeds; where they also receive the same, they are the same run, which the cache makes once.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from functools import lru_cache
from typing import Any

from edgewise.mas.graph.graph import Graph
from edgewise.mas.runtime.node import NodeOutput, Team
from edgewise.mas.runtime.node_limits import Meter

CacheEntry = tuple[NodeOutput, Meter]
"""Output of a node, and its calls."""


@lru_cache(maxsize=512)
def hash_nodes(graph: Graph, team: Team) -> dict[str, str]:
    """
    Return the content hash of each node: of its role and options, and of the hashes of its predecessors.

    Nodes of one graph that are equal differ by their number among them, in the order of `graph.order`: three solvers
    draw differently, and the first of them equals the first solver of any other graph. Raises GraphError for an
    unknown role or a missing tool.
    """
    # Here, so that an unknown role or a missing tool is an error before anything is paid.
    team.check(graph)
    sampling = team.sampling
    hashes: dict[str, str] = {}
    times: Counter[str] = Counter()
    for name in graph.order:
        node = graph[name]
        tools = [[x.tool.name, x.tool.description, dict(x.tool.parameters)] for x in team.resolve_tools(node)]
        # Seeds derive from this hash, and journals of old runs hold calls by their seeds: the list must stay as it is.
        content = [
            team.roles[node.role].model_dump(mode="json", exclude={"name", "does"}),
            node.model or team.model,
            node.prompt,
            tools,
            list(node.lessons),
            [sampling.temperature, sampling.top_p, sampling.max_tokens, list(sampling.stop)],
            team.turns,
            team.calling,
        ]
        own = hash_json([content, [hashes[other] for other in graph.predecessors[name]]])
        hashes[name] = hash_json([own, times[own]])
        times[own] += 1
    return hashes


def hash_json(data: Any) -> str:
    """Return a hash of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


class NodeCache:
    """
    Outputs of a group's nodes by their content, those under way included. For one event loop.

    Equal keys mean equal role, model, prompt, lessons, sampling, seed, query and inputs, so outputs are the same with
    and without the cache. Which of two equal nodes runs depends on which is ready first.
    """

    def __init__(self) -> None:
        self._done: dict[Hashable, CacheEntry] = {}
        self._running: dict[Hashable, asyncio.Future[None]] = {}

    async def get_or_run(self, key: Hashable, run: Callable[[], Awaitable[CacheEntry]]) -> tuple[CacheEntry, bool]:
        """Return an entry, and whether it was reused; run it here if no equal node has run."""
        # A loop, because the run waited for may leave nothing behind: then the next that waits runs for itself.
        while key in self._running:
            await asyncio.shield(self._running[key])
        if key in self._done:
            return self._done[key], True

        running = self._running[key] = asyncio.get_running_loop().create_future()
        try:
            entry = await run()
            output, meter = entry
            # Limits and time belong to one graph run: what they stopped there may go on in another.
            if not meter.stopped and output.status != "timeout":
                self._done[key] = entry
            return entry, False
        finally:
            del self._running[key]
            running.set_result(None)
