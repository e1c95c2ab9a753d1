"""
Improve a language model by experience, graph or weights from the same rows, reward and budget.

    import edgewise

    task = edgewise.Task.read("my/task.toml")
    result = edgewise.improve(task, model="openai/gpt-4o-mini", limits=edgewise.Limits(usd=5))

`improve` learns lessons for the prompt, `design` searches for a graph of agents, `train` trains weights; each has an async
twin (`aimprove`, `adesign`, `atrain`), and so have `evaluate`, `compare`, `absorb` and `adopt`. A name is imported when it
is first used.
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

# The module of each public name. Modules of a package are imported below its `__init__`: that of `learner` sets the
# OpenMP variables before torch loads.
_MODULES = {
    "AgentGraph": "mas.deploy.agent_graph",
    "Artifact": "toolkit.run.artifact",
    "EdgewiseError": "toolkit.errors",
    "Event": "toolkit.tracking.events",
    "Example": "toolkit.types",
    "Graph": "mas.graph.graph",
    "Group": "toolkit.types",
    "Lesson": "experience.library.library",
    "Library": "experience.library.library",
    "Limits": "toolkit.budget.ledger",
    "METHODS": "learner.methods.published",
    "Message": "toolkit.types",
    "Method": "learner.methods.method",
    "Node": "mas.graph.graph",
    "OnEvent": "toolkit.tracking.events",
    "Request": "toolkit.types",
    "Result": "toolkit.run.runner",
    "Role": "mas.graph.roles",
    "Rollout": "toolkit.types",
    "Score": "toolkit.types",
    "ScriptedClient": "toolkit.model.scripted",
    "Task": "toolkit.task.task",
    "aabsorb": "learner.absorption.api",
    "aadopt": "mas.adopt.api",
    "absorb": "learner.absorption.api",
    "acompare": "learner.comparison.runner",
    "adesign": "mas.api",
    "adopt": "mas.adopt.api",
    "aevaluate": "mas.api",
    "aimprove": "experience.api",
    "atrain": "learner.api",
    "compare": "learner.comparison.runner",
    "design": "mas.api",
    "emit_reward": "mas.runtime.context",
    "evaluate": "mas.api",
    "improve": "experience.api",
    "train": "learner.api",
}
__all__ = [
    "METHODS",
    "AgentGraph",
    "Artifact",
    "EdgewiseError",
    "Event",
    "Example",
    "Graph",
    "Group",
    "Lesson",
    "Library",
    "Limits",
    "Message",
    "Method",
    "Node",
    "OnEvent",
    "Request",
    "Result",
    "Role",
    "Rollout",
    "Score",
    "ScriptedClient",
    "Task",
    "aabsorb",
    "aadopt",
    "absorb",
    "acompare",
    "adesign",
    "adopt",
    "aevaluate",
    "aimprove",
    "atrain",
    "compare",
    "design",
    "emit_reward",
    "evaluate",
    "improve",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
