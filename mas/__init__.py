"""Learning in wiring: agent graphs designed by reinforcement learning (MasHost, arXiv 2506.08507), run by LangGraph."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mas.api import adesign, design
    from mas.graph import Graph, Loop, Node, single
    from mas.roles import Role, catalogue
    from mas.run import emit_reward
    from mas.use import AgentGraph

_WHERE = {
    "design": "mas.api",
    "adesign": "mas.api",
    "Graph": "mas.graph",
    "Loop": "mas.graph",
    "Node": "mas.graph",
    "single": "mas.graph",
    "Role": "mas.roles",
    "catalogue": "mas.roles",
    "emit_reward": "mas.run",
    "AgentGraph": "mas.use",
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


def __getattr__(name: str) -> Any:
    # Names are resolved when first used: importing the package costs next to nothing.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
