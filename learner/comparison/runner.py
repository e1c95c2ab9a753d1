"""
Several methods on one task, with the same seeds, rows, model and share of the limits, one run after the other.

    DIR/METHOD/seed-N/    one run of `learner.train`, without checkpoints once it has ended
    DIR/compare.json      the results of all runs
    DIR/report.html       the same for people
"""

import gc
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgewise.learner.comparison import report
from edgewise.learner.comparison.lineup import FAILURE_FILE, Lineup, PlannedRun, build_lineup
from edgewise.learner.comparison.results import ComparisonResult, FailedRun, read_results
from edgewise.learner.hardware.process_group import join_process_group
from edgewise.learner.monitoring.budget_stop import BudgetStop
from edgewise.learner.training.distributed_engine import Leader, follow, lead
from edgewise.learner.training.loop import CHECKPOINTS, PUSHED, learn
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.errors import EdgewiseError, Hopeless, JournalError, LimitReached
from edgewise.toolkit.evaluation.statistics import mean
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.launch import PreparedRun, merge_keywords
from edgewise.toolkit.run.runner import make_blocking
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import Event, OnEvent, StageStarted, ignore_event


async def run_comparison(lineup: Lineup, leader: Leader, on_event: OnEvent = ignore_event) -> ComparisonResult:
    """
    Execute the runs that are left; tables and report are written anew after each.

    A run trains until its steps are done, or until its share of the limits leaves no more than the evaluation needs. A
    run that fails becomes a line of the result, and the others go on. Raises what would end every run: Interrupted,
    ProviderDown, LostProcess, and errors of the journal.
    """
    # Written first: a comparison whose runs are all done still renews its tables.
    directory.ensure_directory(lineup.path)
    failures: dict[Path, FailedRun] = {}
    result = write_results(lineup, failures)
    for number, run in enumerate(lineup.runs, 1):
        if run.is_pending:
            # The mean of finished runs is a good guess: all have the same rows and steps.
            stage = f"run {number} of {len(lineup.runs)}: {run.name}"
            if seconds := [past.seconds for past in result.runs if past.ended]:
                stage += f"; about {mean(seconds) * len(lineup.pending_runs) / 60:.0f} minutes to go"
            on_event(StageStarted(stage))
            if failure := await execute_one(run, leader, on_event, lineup.path):
                failures[run.path] = failure
            # The model of one run must leave the memory before the next one loads its own.
            gc.collect()
            result = write_results(lineup, failures)
        if run.is_finished:
            for name in (CHECKPOINTS, PUSHED):
                shutil.rmtree(run.path / name, ignore_errors=True)
    return result


async def execute_one(run: PlannedRun, leader: Leader, on_event: OnEvent, root: Path) -> FailedRun | None:
    """Execute one run; return how it ended if that was not with an evaluation."""
    # Each run has its own budget stop: the limits of a run are its share.
    spec, saving = run.spec, BudgetStop(run.spec)

    def observe(event: Event) -> None:
        saving.on_event(event)
        on_event(event)

    # The lineup has checked the limits of all runs before the first one began.
    prepared = PreparedRun(spec.task, spec.config, None, lambda path: learn(spec, path, leader.make_engine, saving))
    try:
        await prepared.execute(run.path, on_event=observe)
    except EdgewiseError as error:
        # Ctrl-C, a full disk or a provider that is down would end the next run as well.
        is_final = isinstance(error, JournalError) or error.exit_code != EdgewiseError.exit_code
        if is_final and not isinstance(error, LimitReached):
            error.__notes__ = [f"What was learnt is kept: go on with --run {root}"]
            raise
        if isinstance(error, Hopeless):
            directory.write_json(run.path / FAILURE_FILE, {"why": str(error)})
        # Not the error itself: its traceback would keep the model in memory.
        return FailedRun(str(error), error.exit_code)
    return None


def write_results(lineup: Lineup, failures: Mapping[Path, FailedRun]) -> ComparisonResult:
    """Write compare.json and report.html of the runs so far, and return their result."""
    result = read_results(lineup, failures)
    directory.write_json(lineup.path / "compare.json", result.to_json())
    report.write_report(result)
    return result


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
) -> ComparisonResult:
    """
    Train a model with several methods and several seeds each, and evaluate all of them on the same held-out rows.

    `methods` are names, each with its changed settings in brackets: "grpo, dapo(loss.high=0.3)"; the first is the
    baseline. `limits` are for all runs together. `run` is a directory; an existing comparison is resumed, and more
    methods or seeds may be added. `settings` are those of `train`. Raises the errors of `toolkit.errors`.
    """
    lineup = build_lineup(task, methods, seeds, merge_keywords(model, limits, settings), run)
    group = join_process_group()
    if group.rank:
        return follow(group).get_result()
    with lead(group) as leader:
        leader.result = await run_comparison(lineup, leader, on_event)
        return leader.result


compare = make_blocking(acompare)
