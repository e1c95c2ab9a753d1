"""What the three ways of improving share: tasks, rewards, models, the ledger and the journal, runs."""

from typing import TYPE_CHECKING

from toolkit.lazy import resolver

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

__getattr__ = resolver(__name__, _WHERE)
