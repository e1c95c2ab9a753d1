"""Learning in wiring: agent graphs designed by reinforcement learning (MasHost, arXiv 2506.08507), run by LangGraph."""

from typing import TYPE_CHECKING

from edgewise.toolkit.util.lazy import resolver

if TYPE_CHECKING:
    from mas.api import adesign, design
    from mas.graph import Graph, Loop, Node, single
    from mas.roles import Role, catalogue
    from mas.run import emit_reward
    from mas.use import AgentGraph

_WHERE = {
    "design": "api",
    "adesign": "api",
    "Graph": "graph",
    "Loop": "graph",
    "Node": "graph",
    "single": "graph",
    "Role": "roles",
    "catalogue": "roles",
    "emit_reward": "run",
    "AgentGraph": "use",
}
__all__ = [
    "AgentGraph",
    "Graph",
    "Loop",
    "Node",
    "Role",
    "adesign",
    "catalogue",
    "design",
    "emit_reward",
    "single",
]

__getattr__ = resolver(__name__, _WHERE)
