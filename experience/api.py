"""`improve` and its async twin `aimprove`: learn lessons from Python."""

from pathlib import Path
from typing import Any

from edgewise.experience.launch import prepare
from edgewise.experience.library.library import Library
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.run.launch import merge_keywords
from edgewise.toolkit.run.runner import Result, make_blocking
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import OnEvent, ignore_event


async def aimprove(
    task: Task,
    *,
    model: str | None = None,
    library: Library | None = None,
    limits: Limits | None = None,
    run: str | Path | None = None,
    replay: str | Path | None = None,
    on_event: OnEvent = ignore_event,
    **settings: Any,
) -> Result:
    """
    Learn an experience library for a task and evaluate it on held-out rows.

    `library` is the start, an empty one by default. `settings` are fields of `ExperienceConfig`; they win over the task
    file. `run` is a directory; an existing run is resumed. `replay` is a run whose journal answers every call. Raises
    the errors of `toolkit.errors`.
    """
    prepared = prepare(task, merge_keywords(model, limits, settings), library)
    return await prepared.execute(run, replay=replay, on_event=on_event)


improve = make_blocking(aimprove)
