"""
Improve a language model by experience, graph or weights from the same rows, reward and budget.

    import edgewise

    task = edgewise.Task.read("my/task.toml")
    result = edgewise.improve(task, model="openai/gpt-4o-mini", limits=edgewise.Limits(usd=5))

`improve` learns lessons for the prompt, `design` searches for a graph of agents, `train` trains weights. Each has an
async twin (`aimprove`, `adesign`, `atrain`), and so have `evaluate`, `compare`, `absorb` and `adopt`. A name is
imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgewise.experience.api import aimprove, improve
    from edgewise.experience.library.library import Lesson, Library
    from edgewise.learner.absorption.api import aabsorb, absorb
    from edgewise.learner.api import atrain, train
    from edgewise.learner.comparison.runner import acompare, compare
    from edgewise.learner.methods.method import Method
    from edgewise.learner.methods.published import METHODS
    from edgewise.mas.adopt.api import aadopt, adopt
    from edgewise.mas.api import adesign, aevaluate, design, evaluate
    from edgewise.mas.deploy.agent_graph import AgentGraph
    from edgewise.mas.graph.graph import Graph, Node
    from edgewise.mas.graph.roles import Role
    from edgewise.mas.runtime.context import emit_reward
    from edgewise.toolkit.budget.ledger import Limits
    from edgewise.toolkit.errors import EdgewiseError
    from edgewise.toolkit.model.scripted import ScriptedClient
    from edgewise.toolkit.run.artifact import Artifact
    from edgewise.toolkit.run.runner import Result
    from edgewise.toolkit.task.task import Task
    from edgewise.toolkit.tracking.events import Event, OnEvent
    from edgewise.toolkit.types import Example, Group, Message, Request, Rollout, Score

# Public names by the module that defines them. Importing a module runs the `__init__` of its package first: that of
# `learner` sets the OpenMP variables before torch loads.
_MODULES = {
    "experience.api": "aimprove improve",
    "experience.library.library": "Lesson Library",
    "learner.absorption.api": "aabsorb absorb",
    "learner.api": "atrain train",
    "learner.comparison.runner": "acompare compare",
    "learner.methods.method": "Method",
    "learner.methods.published": "METHODS",
    "mas.adopt.api": "aadopt adopt",
    "mas.api": "adesign aevaluate design evaluate",
    "mas.deploy.agent_graph": "AgentGraph",
    "mas.graph.graph": "Graph Node",
    "mas.graph.roles": "Role",
    "mas.runtime.context": "emit_reward",
    "toolkit.budget.ledger": "Limits",
    "toolkit.errors": "EdgewiseError",
    "toolkit.model.scripted": "ScriptedClient",
    "toolkit.run.artifact": "Artifact",
    "toolkit.run.runner": "Result",
    "toolkit.task.task": "Task",
    "toolkit.tracking.events": "Event OnEvent",
    "toolkit.types": "Example Group Message Request Rollout Score",
}
# fmt: off
__all__ = [
    "METHODS", "AgentGraph", "Artifact", "EdgewiseError", "Event", "Example", "Graph", "Group", "Lesson", "Library",
    "Limits", "Message", "Method", "Node", "OnEvent", "Request", "Result", "Role", "Rollout", "Score",
    "ScriptedClient", "Task", "aabsorb", "aadopt", "absorb", "acompare", "adesign", "adopt", "aevaluate", "aimprove",
    "atrain", "compare", "design", "emit_reward", "evaluate", "improve", "train",
]
# fmt: on


def __getattr__(name: str) -> Any:
    module = next((module for module, names in _MODULES.items() if name in names.split()), None)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Kept in the module, so that the next access is an ordinary one.
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
