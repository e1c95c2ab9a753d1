"""Learning by graph: agent graphs designed by reinforcement learning (MasHost, arXiv 2506.08507), run by LangGraph."""

from typing import TYPE_CHECKING

from edgewise.toolkit.util.lazy import make_resolver

if TYPE_CHECKING:
    from edgewise.mas.api import adesign, aevaluate, design, evaluate
    from edgewise.mas.deploy.agent_graph import AgentGraph
    from edgewise.mas.graph.graph import Graph, Loop, Node, single
    from edgewise.mas.graph.roles import Role, catalogue
    from edgewise.mas.runtime.context import emit_reward

_MODULES = {
    "design": "api",
    "adesign": "api",
    "evaluate": "api",
    "aevaluate": "api",
    "Graph": "graph.graph",
    "Loop": "graph.graph",
    "Node": "graph.graph",
    "single": "graph.graph",
    "Role": "graph.roles",
    "catalogue": "graph.roles",
    "emit_reward": "runtime.context",
    "AgentGraph": "deploy.agent_graph",
}
__all__ = [
    "AgentGraph",
    "Graph",
    "Loop",
    "Node",
    "Role",
    "adesign",
    "aevaluate",
    "catalogue",
    "design",
    "emit_reward",
    "evaluate",
    "single",
]

__getattr__ = make_resolver(__name__, _MODULES)
