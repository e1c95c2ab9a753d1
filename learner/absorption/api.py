"""
`absorb` and its async twin: a library of lessons into weights, from Python.

The model answers training rows with the lessons in its prompt, and its weights learn those answers that the reward
speaks for without them (context distillation, arXiv 2209.15189). `learner.absorption.loop` does it.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgewise.learner.absorption.loop import learn
from edgewise.learner.absorption.spec import AbsorbSpec
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.forecast import check_limits
from edgewise.toolkit.run.runner import Result, make_blocking, execute_run
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import OnEvent, ignore_event


async def aabsorb(
    task: Task,
    library: str | Path,
    *,
    model: str | None = None,
    limits: Limits | None = None,
    run: str | Path | None = None,
    on_event: OnEvent = ignore_event,
    **settings: Any,
) -> Result:
    """
    Teach a model's weights what a library says, and measure them beside it on held-out rows.

    `library` is an artefact, a run, a store or a file, as on the command line; `settings` are the fields of
    `AbsorbConfig`. `run` is a directory, taken up again if it exists. The artefact is that of `train`; its
    weights.json says under "kept" how much of the library's gain is left without it. Raises the errors of
    `toolkit.errors`.
    """
    bounds = asdict(limits) if limits else {}
    job = AbsorbSpec.from_library(task, str(library), {"model": model, **bounds, **settings})
    check_limits(job.config, job.forecast)
    path = Path(run) if run else directory.new_run_path(task.name)
    return await carried_out(job, path, on_event)


async def carried_out(job: AbsorbSpec, path: Path, on_event: OnEvent) -> Result:
    """The job, done in a run directory."""
    return await execute_run(
        job.task, job.config, lambda *_: learn(job, path), path, job="absorb", on_event=on_event
    )


absorb = make_blocking(aabsorb)
