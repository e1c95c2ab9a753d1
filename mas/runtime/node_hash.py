"""What a node is, as a hash: equal nodes of different graphs draw with equal seeds and are run once."""

import hashlib
import json
from collections import Counter
from functools import lru_cache
from typing import Any

from edgewise.mas.graph.graph import Graph, Node
from edgewise.mas.runtime.node import Team


@lru_cache(maxsize=512)
def keys(graph: Graph, team: Team) -> dict[str, str]:
    """
    The content key of each node: a hash of its role, of all that shapes what it says, and of the keys it hears.

    Of several that are equal in one graph each has its own, in the order of `graph.order`: three solvers differ, and
    the first of them equals the first solver of any other graph. Raises GraphError for a role or tool that
    does not exist.
    """
    team.check(graph)
    found: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for name in graph.order:
        own = _hash([_content(team, graph[name]), [found[other] for other in graph.before[name]]])
        found[name] = _hash([own, seen[own]])
        seen[own] += 1
    return found


def _content(team: Team, node: Node) -> list[Any]:
    """All that shapes what a node says, but for what it hears."""
    s, role = team.sampling, team.roles[node.role]
    tools = [[f.tool.name, f.tool.description, dict(f.tool.parameters)] for f in team.tools_of(node)]
    return [
        role.model_dump(mode="json", exclude={"name", "does"}),
        node.model or team.model,
        node.prompt,
        tools,
        list(node.lessons),
        [s.temperature, s.top_p, s.max_tokens, list(s.stop)],
        team.turns,
        team.calling,
    ]


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
