"""
Several methods on one task, with the same seeds, rows, model and share of the limits, one run after the other.

    DIR/METHOD/seed-N/    a run of `learner.train` like any other, without checkpoints once it has ended
    DIR/compare.json      what came of all of them
    DIR/report.html       the same for people
"""

import gc
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from edgewise.learner.comparison import report
from edgewise.learner.comparison.lineup import FAILED, Lineup, Planned, lineup
from edgewise.learner.comparison.results import Compared, End, compared
from edgewise.learner.hardware.process_group import join_process_group
from edgewise.learner.monitoring.budget_stop import Saving
from edgewise.learner.monitoring.collapse import mean
from edgewise.learner.training.distributed_engine import Leader, follow, leading
from edgewise.learner.training.loop import CHECKPOINTS, PUSHED, learn
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.errors import EdgewiseError, Hopeless, JournalError, LimitReached
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.runner import make_blocking, execute_run
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import Event, OnEvent, StageStarted, ignore_event


async def run_comparison(plan: Lineup, lead: Leader, on_event: OnEvent = ignore_event) -> Compared:
    """
    Carry out the runs that are left; tables and report are written anew after each.

    A run learns until its steps are done, or its share of the limits leaves no more than measuring takes. One that
    fails, or reaches its share all the same, is a line of the result, and the others go on. Raises what would end every
    run: Interrupted, ProviderDown, LostProcess, and errors of the journal.
    """
    directory.ensure_directory(plan.path)
    ends: dict[Path, End] = {}
    found = _written(plan, ends)
    for number, run in enumerate(plan.runs, 1):
        if run.left:
            on_event(StageStarted(f"run {number} of {len(plan.runs)}: {run.name}{_to_go(plan, found)}"))
            if end := await _carried_out(run, lead, on_event, plan.path):
                ends[run.path] = end
            found = _written(plan, ends)
        if run.ended:
            for name in (CHECKPOINTS, PUSHED):
                shutil.rmtree(run.path / name, ignore_errors=True)
    return found


def _to_go(plan: Lineup, found: Compared) -> str:
    """How long it may still take, by the runs that ended."""
    if not (past := [run.seconds for run in found.runs if run.ended]):
        return ""
    return f"; about {mean(past) * len(plan.left) / 60:.0f} minutes to go"


async def _carried_out(run: Planned, lead: Leader, on_event: OnEvent, whole: Path) -> End | None:
    """Carry out one run; how it ended, if not with a measurement."""
    job, end, saving = run.job, None, Saving(run.job)

    def observe(event: Event) -> None:
        saving.on_event(event)
        on_event(event)

    try:
        way = partial(learn, job, run.path, lead.make, saving)
        await execute_run(job.task, job.config, lambda *_: way(), run.path, on_event=observe)
    except EdgewiseError as error:
        if _ends_all(error):
            error.__notes__ = [f"What was learnt is kept: go on with --run {whole}"]
            raise
        if isinstance(error, Hopeless):
            directory.write_json(run.path / FAILED, {"why": str(error)})
        # Not the error itself, whose traceback would keep the model in memory.
        end = End(str(error), error.exit_code)
    gc.collect()
    return end


def _ends_all(error: EdgewiseError) -> bool:
    """Whether the next run would end by it as well: Ctrl-C, a full disk, a provider that is down."""
    if isinstance(error, LimitReached):
        return False
    return isinstance(error, JournalError) or error.exit_code != EdgewiseError.exit_code


def _written(plan: Lineup, ends: Mapping[Path, End]) -> Compared:
    found = compared(plan, ends)
    directory.write_json(plan.path / "compare.json", found.to_json())
    report.write(found)
    return found


async def acompare(
    task: Task,
    methods: str | Sequence[str],
    *,
    seeds: int = 3,
    model: str | None = None,
    limits: Limits | None = None,
    run: str | Path | None = None,
    on_event: OnEvent = ignore_event,
    **settings: Any,
) -> Compared:
    """
    Train a model by several methods, with several seeds each, and measure all of them on the same held-out rows.

    `methods` are names, each with what is changed of it in brackets: "grpo, dapo(loss.high=0.3)"; the others are
    compared with the first. `limits` are for all runs together. `run` is a directory, taken up again if it exists; more
    methods or seeds may be added to it. `settings` are those of `train`. Raises the errors of `toolkit.errors`.
    """
    bounds = asdict(limits) if limits else {}
    plan = lineup(task, methods, seeds, {"model": model, **bounds, **settings}, run)
    together = join_process_group()
    if together.rank:
        return follow(together).outcome()
    with leading(together) as lead:
        lead.result = await run_comparison(plan, lead, on_event)
        return lead.result


compare = make_blocking(acompare)
