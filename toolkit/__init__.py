"""What the three ways of improving share: tasks, rewards, models, the ledger and the journal, runs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.artifact import Artifact
    from toolkit.ledger import Limits
    from toolkit.run import Result
    from toolkit.scripted import Scripted
    from toolkit.task import Task
    from toolkit.types import Example, Group, Message, Rollout, Score

_WHERE = {
    "Artifact": "artifact",
    "Example": "types",
    "Group": "types",
    "Limits": "ledger",
    "Message": "types",
    "Result": "run",
    "Rollout": "types",
    "Score": "types",
    "Scripted": "scripted",
    "Task": "task",
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
    "Scripted",
    "Task",
]


def __getattr__(name: str) -> Any:
    # Names are resolved when first used: importing the package costs next to nothing.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"toolkit.{_WHERE[name]}"), name)
