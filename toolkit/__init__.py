"""Parts that the three ways of improving share: tasks, rewards, models, budget and journal, runs, server, commands."""

from typing import TYPE_CHECKING

from edgewise.toolkit.util.lazy import make_resolver

if TYPE_CHECKING:
    from edgewise.toolkit.budget.ledger import Limits
    from edgewise.toolkit.model.scripted import ScriptedClient
    from edgewise.toolkit.run.artifact import Artifact
    from edgewise.toolkit.run.runner import Result
    from edgewise.toolkit.task.task import Task
    from edgewise.toolkit.types import Example, Group, Message, Rollout, Score

_MODULES = {
    "Artifact": "run.artifact",
    "Example": "types",
    "Group": "types",
    "Limits": "budget.ledger",
    "Message": "types",
    "Result": "run.runner",
    "Rollout": "types",
    "Score": "types",
    "ScriptedClient": "model.scripted",
    "Task": "task.task",
}
__all__ = [
    "Artifact",
    "Example",
    "Group",
    "Limits",
    "Message",
    "Result",
    "Rollout",
    "Score",
    "ScriptedClient",
    "Task",
]

__getattr__ = make_resolver(__name__, _MODULES)
