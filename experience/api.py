"""`improve` and its async twin: learning in words from Python."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.forecast import forecast
from edgewise.experience.library.library import Library
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training.loop import learn
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.run.forecast import check_limits
from edgewise.toolkit.run.runner import Result, make_blocking, execute_run
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
    Learn an experience library for a task and measure it on held-out rows.

    `library` is what to start from, an empty one by default. `settings` are the fields of `ExperienceConfig`; those
    of the task file come first, these win. `run` is a directory, taken up again if it exists. Raises the errors of
    `toolkit.errors`.
    """
    bounds = asdict(limits) if limits else {}
    config = resolve_config(ExperienceConfig, task.settings, {"model": model, **bounds, **settings})
    job = ExperienceSpec(task, config, library)
    check_limits(config, forecast(job))
    where, old = Path(run) if run else None, Path(replay) if replay else None
    return await execute_run(task, config, lambda *_: learn(job), where, on_event=on_event, replay=old)


improve = make_blocking(aimprove)
