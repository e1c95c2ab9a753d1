"""
Execution of one run: directory, ledger, journal, model client and plan, put together.

    plan ── Driver ── journal ── retries ── rate limit ── budget ── timeout ── Cancellation ── server
      │        │
      └─ events ── ledger, run directory, `on_event` of the caller

A run that was stopped is resumed by executing it again. The plan starts from the beginning, and every call whose reply
is in the journal is answered from there: nothing is paid twice, and nothing comes out differently.
"""

import asyncio
import contextlib
import functools
import shlex
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from edgewise.toolkit.budget.journal import Journal
from edgewise.toolkit.budget.ledger import Ledger, UsageTotals
from edgewise.toolkit.errors import AllFailed, ConfigError, EdgewiseError, Interrupted
from edgewise.toolkit.evaluation.comparison import Evaluation
from edgewise.toolkit.model import middleware
from edgewise.toolkit.model.client import Client
from edgewise.toolkit.model.middleware import JournalClient
from edgewise.toolkit.model.router import Router, check_model
from edgewise.toolkit.report import run_report
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.config import Config
from edgewise.toolkit.run.driver import CancellableClient, Cancellation, Driver
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import (
    CallsPlanned,
    CallsSampled,
    CallsShared,
    Event,
    ModelReleased,
    OnEvent,
    RunClosed,
    RunOpened,
    RunStopping,
    ignore_event,
)
from edgewise.toolkit.types import Plan

P = ParamSpec("P")
R = TypeVar("R")
RunPlan = Callable[[Path], Plan["RunOutcome"]]
"""The plan of a run, for the directory that it may write files of its own to."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """
    The value of a run's plan: the evaluation and the files of the artefact.

    `start` holds the files of the unchanged baseline. The artefact keeps those if the change did not score better;
    `parents` names the versions that the baseline came from. `folders` hold weights, and go with `files`.
    """

    evaluation: Evaluation
    files: Mapping[str, Any]
    start: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """
    The result of a run, as `improve`, `design`, `train`, `absorb`, `adopt` and `evaluate` return it.

    `evidence` is the evaluation before and after on held-out rows, `costs` the totals of the ledger. `improved` is True
    if there is a change and its mean reward is higher than the baseline's.
    """

    task: str
    evidence: Evaluation
    artifact: Artifact
    costs: Mapping[str, Any]
    improved: bool
    path: Path
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the content of result.json."""
        return {
            "task": self.task,
            "improved": self.improved,
            "evidence": self.evidence.to_json(),
            "costs": self.costs,
            "artifact": dict(self.artifact.files),
            "run": str(self.path),
            "seconds": round(self.seconds, 1),
        }


async def execute_run(
    task: Task,
    config: Config,
    plan: RunPlan,
    path: Path | None = None,
    *,
    command: str = "improve",
    on_event: OnEvent = ignore_event,
    replay: Path | None = None,
) -> Result:
    """
    Execute a plan in a run directory, by default a new one under runs/.

    `command` names what the run does; a directory keeps to one command. `replay` is a run, or its journal, that answers
    every call, so that no model is called. Raises the errors of `toolkit.errors`. Whichever it is, paid replies stay in
    the journal, and a note on the error says how to resume.
    """
    # Wrong model names are refused before a directory exists.
    if not replay:
        for model in filter(None, config.models):
            check_model(model)
    path = directory.ensure_directory(path or directory.new_run_path(task.name))

    with (
        open_accounts(path, config, replay) as (journal, ledger),
        note_how_to_resume(path, journal),
        directory.raise_disk_full(),
    ):
        with directory.open_run(path, config, task.fingerprint, command) as run_directory:
            on_event(RunOpened(path, ledger))
            router, cancellation = Router(), Cancellation()

            def observe(event: Event) -> None:
                record_usage(ledger, event, path)
                if isinstance(event, ModelReleased):
                    router.release(event.model)
                run_directory.on_event(event)
                # The caller's observer comes last: when it sees an event, the files have it.
                on_event(event)

            if replay:
                client: Client = JournalClient(None, journal)
            else:
                # Cancellation stands next to the server: a call may wait long for its turn, and must not start then.
                client = middleware.stack_middleware(
                    CancellableClient(router, cancellation),
                    journal,
                    ledger,
                    concurrency=config.concurrency,
                    timeout=config.timeout,
                    attempts=config.attempts,
                )
            try:
                driver = Driver(client, observe, cancellation)
                outcome = await run_interruptibly(driver, plan(path), on_event)
            finally:
                await client.aclose()
                on_event(RunClosed())

        # The manifest of the artefact is written last: a directory that has one is finished.
        result = build_result(task, config, outcome, ledger, path)
        directory.write_json(path / "result.json", result.to_json())
        run_report.write_report(path)
        result.artifact.save(path / "artifact")
    return result


def make_blocking(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """Return the twin of an async function for callers without an event loop: same arguments, result and errors."""

    @functools.wraps(function)
    def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        return asyncio.run(function(*args, **kwargs))

    # `aimprove` has the twin `improve`: tracebacks and help show that name.
    twin.__name__ = twin.__qualname__ = function.__name__.removeprefix("a")
    return twin


# ---- accounts --------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_accounts(path: Path, config: Config, replay: Path | None) -> Iterator[tuple[Journal, Ledger]]:
    """Open the run's journal, or the one to replay, and a ledger that includes everything paid so far."""
    # A journal has one writer, by a lock; a replay opens it read-only.
    source = replay or path / directory.JOURNAL
    source = source / directory.JOURNAL if source.is_dir() else source
    with Journal(source, readonly=replay is not None) as journal:
        # Limits hold for the run as a whole: calls and time of earlier attempts count.
        ledger = Ledger(config.limits, config.price_list, elapsed=journal.elapsed)
        ledger.restore(journal)
        # Calls of models in this process are in no journal; their totals lie in a file.
        if (sampled := path / directory.SAMPLED).exists() and not replay:
            ledger.restore_local_calls(directory.read_json(sampled))
        yield journal, ledger


def record_usage(ledger: Ledger, event: Event, path: Path) -> None:
    """Enter calls that no client made: those of models in this process, and those that runs of a group share."""
    match event:
        case CallsShared(calls, usage):
            ledger.add_shared(calls, usage)
        case CallsPlanned(requests):
            ledger.check_room(requests)
        case CallsSampled(usages):
            for usage in usages:
                ledger.add_local_calls(usage)
            directory.write_json(path / directory.SAMPLED, ledger.local_calls_json())


@contextlib.contextmanager
def note_how_to_resume(path: Path, journal: Journal) -> Iterator[None]:
    """Add the resume command to an error, because paid replies are in the journal."""
    try:
        yield
    except EdgewiseError as error:
        # These two would end a resumed run at the same place.
        if len(journal) and not journal.readonly and not isinstance(error, AllFailed | ConfigError):
            error.add_note(f"Nothing is paid twice: resume with --run {shlex.quote(str(path))}")
        raise


def read_costs(path: Path, config: Config) -> dict[str, Any]:
    """Return `costs` of the run in a directory so far, as in result.json, and its wall time in `seconds`."""
    with open_accounts(path, config, None) as (_, ledger):
        return {"costs": summarize_costs(ledger), "seconds": ledger.elapsed}


def summarize_costs(ledger: Ledger) -> dict[str, Any]:
    """Return the totals of learning (steps from 1), of measuring (step 0), of shared calls, and by each axis."""

    def to_json(totals: UsageTotals) -> dict[str, Any]:
        names = ("calls", "input", "cached", "output", "usd", "estimated")
        return {name: getattr(totals, name) for name in names}

    # Step 0 is measuring; learning starts with step 1.
    by_step = ledger.tabulate("step")
    learning = sum((totals for (step,), totals in by_step.items() if step != 0), UsageTotals())
    by_axis = {
        axis: {str(key): to_json(totals) for (key,), totals in ledger.tabulate(axis).items()}
        for axis in ("role", "step", "example", "model")
    }
    return {
        "total": to_json(ledger.total),
        "learning": to_json(learning),
        "measuring": to_json(by_step.get((0,), UsageTotals())),
        "shared": to_json(ledger.shared),
        **by_axis,
    }


# ---- the end ---------------------------------------------------------------------------------------


async def run_interruptibly(driver: Driver, plan: Plan[RunOutcome], on_event: OnEvent) -> RunOutcome:
    """Drive a plan; the first Ctrl-C lets running calls finish, because they are paid, and the second drops them."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt() -> None:
        if driver.cancellation.is_cancelled and task:
            task.cancel()
        else:
            on_event(RunStopping())
        driver.cancellation.cancel(Interrupted("Stopped."))

    # Only the main thread may handle signals, and Windows has no handlers of a loop.
    with contextlib.ExitStack() as handlers:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, interrupt)
                handlers.callback(loop.remove_signal_handler, number)
        try:
            return await driver.run(plan)
        except asyncio.CancelledError:
            # After a second Ctrl-C the task is cancelled; the user sees Interrupted. Another canceller sees its own.
            driver.cancellation.check()
            raise


def build_result(task: Task, config: Config, outcome: RunOutcome, ledger: Ledger, path: Path) -> Result:
    """Return the result with its artefact: the change if it scored better than the baseline, else the baseline."""
    # The first arm is the baseline, the second the change; further ones are placebos.
    gain = outcome.evaluation.results[1].against
    improved = outcome.files != outcome.start and gain is not None and gain.mean.estimate > 0
    artifact = Artifact(
        task.fingerprint,
        config.model,
        {**(outcome.files if improved else outcome.start), "evidence.json": outcome.evaluation.to_json()},
        config.deployment_settings(),
        outcome.parents,
        outcome.folders if improved else {},
    )
    costs = summarize_costs(ledger)
    return Result(task.name, outcome.evaluation, artifact, costs, improved, path, ledger.elapsed)
