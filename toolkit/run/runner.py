"""
A run from start to result: the directory, the ledger, the client and the plan, put together.

A run that was stopped is taken up by running it again: its plan is driven from the start, and every call
whose reply is in the journal is answered from there, so that nothing is paid twice or comes out differently.
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
RunPlan = Callable[[Task, Any], Plan["RunOutcome"]]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """
    What a way of improving ends with: the measurement and the files of the artefact.

    `start` are the files of the unchanged start, which the artefact keeps where the change did not measure better;
    `parents` names what that start was. `folders` hold weights, which the artefact takes with `files`.
    """

    evaluation: Evaluation
    files: Mapping[str, Any]
    start: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """
    What `improve` returns.

    `evidence`: the measurement before and after on held-out rows. `artifact`: what can be saved, evaluated
    and used. `costs`: the ledger's books. `improved`: whether there is a change, and it measured better.
    """

    task: str
    evidence: Evaluation
    artifact: Artifact
    costs: Mapping[str, Any]
    improved: bool
    path: Path
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The content of result.json: one plain object."""
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
    way: RunPlan,
    path: Path | None = None,
    *,
    job: str = "improve",
    on_event: OnEvent = ignore_event,
    replay: Path | None = None,
) -> Result:
    """
    Carry out one way of improving in a run directory (a fresh one under runs/ by default).

    `job` is what the run does; a directory keeps to one. `replay` names a run, or its journal, that answers every
    call; no model is asked then. Raises the errors of `toolkit.errors`; whatever they are, what was paid for stays
    in the journal, and the error has a note that says where.
    """
    if not replay:
        for model in filter(None, config.models):
            check_model(model)
    path = directory.ensure_directory(path or directory.new_run_path(task.name))
    with _books(path, config, replay) as (journal, ledger), _kept(path, journal), directory.raise_disk_full():
        with directory.open_run(path, config, task.fingerprint, job) as files:
            on_event(RunOpened(path, ledger))

            router = Router()

            def seen(note: Event) -> None:
                _booked(ledger, note, path)
                if isinstance(note, ModelReleased):
                    router.release(note.model)
                files.on_event(note)
                on_event(note)

            brake = Cancellation()
            client = (
                JournalClient(None, journal) if replay else _connected(router, config, journal, ledger, brake)
            )
            try:
                outcome = await _interruptible(Driver(client, seen, brake), way(task, config), on_event)
            finally:
                await client.aclose()
                on_event(RunClosed())
        result = _result(task, config, outcome, _costs(ledger), path, ledger.elapsed)
        directory.write_json(path / "result.json", result.to_json())
        run_report.write_report(path)
        result.artifact.save(path / "artifact")
    return result


def make_blocking(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """The twin of an async function for callers without an event loop: same arguments, same result, same errors."""

    @functools.wraps(function)
    def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        return asyncio.run(function(*args, **kwargs))

    # `aimprove` and `improve`: the twin goes by its own name in tracebacks and help.
    twin.__name__ = twin.__qualname__ = function.__name__.removeprefix("a")
    return twin


def _booked(ledger: Ledger, note: Event, path: Path) -> None:
    """What a run's notes say of calls that no client made."""
    match note:
        case CallsShared(calls, usage):
            ledger.add_shared(calls, usage)
        case CallsPlanned(requests):
            ledger.check_room(requests)
        case CallsSampled(found):
            for each in found:
                ledger.add_local_calls(each)
            directory.write_json(path / directory.SAMPLED, ledger.local_calls_json())


@contextlib.contextmanager
def _kept(path: Path, journal: Journal) -> Iterator[None]:
    """Whatever ended the run: say where the replies are that it paid for."""
    try:
        yield
    except EdgewiseError as error:
        if len(journal) and not journal.readonly and not isinstance(error, AllFailed | ConfigError):
            error.add_note(f"Nothing is paid twice: resume with --run {shlex.quote(str(path))}")
        raise


@contextlib.contextmanager
def _books(path: Path, config: Config, replay: Path | None) -> Iterator[tuple[Journal, Ledger]]:
    """The run's journal, or the one it replays, and a ledger that knows what was already paid for."""
    source = replay or path / directory.JOURNAL
    source = source / directory.JOURNAL if source.is_dir() else source
    with Journal(source, readonly=replay is not None) as journal:
        ledger = Ledger(config.limits, config.price_list, elapsed=journal.elapsed)
        ledger.restore(journal)
        if (sampled := path / directory.SAMPLED).exists() and not replay:
            ledger.restore_local_calls(directory.read_json(sampled))
        yield journal, ledger


def read_costs(path: Path, config: Config) -> dict[str, Any]:
    """What the run in a directory used so far, ended or not: `costs` as in result.json, and wall time in `seconds`."""
    with _books(path, config, None) as (_, ledger):
        return {"costs": _costs(ledger), "seconds": ledger.elapsed}


def _connected(
    router: Router, config: Config, journal: Journal, ledger: Ledger, brake: Cancellation
) -> Client:
    return middleware.stack_middleware(
        CancellableClient(router, brake),
        journal,
        ledger,
        concurrency=config.concurrency,
        timeout=config.timeout,
        attempts=config.attempts,
    )


async def _interruptible(driver: Driver, plan: Plan[RunOutcome], on_event: OnEvent) -> RunOutcome:
    """The first Ctrl-C lets calls under way finish; the second drops them."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def press() -> None:
        if driver.cancellation.is_cancelled and task:
            task.cancel()
        else:
            on_event(RunStopping())
        driver.cancellation.cancel(Interrupted("Stopped."))

    # Only the main thread may handle signals, and not on every system.
    with contextlib.ExitStack() as handlers:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, press)
                handlers.callback(loop.remove_signal_handler, number)
        try:
            return await driver.run(plan)
        except asyncio.CancelledError:
            driver.cancellation.check()
            raise


def _result(
    task: Task, config: Config, outcome: RunOutcome, costs: Mapping[str, Any], path: Path, seconds: float
) -> Result:
    gain = outcome.evaluation.results[1].against  # the first is the start, others are placebos
    improved = outcome.files != outcome.start and gain is not None and gain.mean.estimate > 0
    kept = outcome.files if improved else outcome.start
    files = {**kept, "evidence.json": outcome.evaluation.to_json()}
    folders = outcome.folders if improved else {}
    artifact = Artifact(task.fingerprint, config.model, files, config.deployment_settings(), outcome.parents, folders)
    return Result(task.name, outcome.evaluation, artifact, costs, improved, path, seconds)


def _costs(ledger: Ledger) -> dict[str, Any]:
    """
    The books as plain data.

    In all, of learning (steps from 1), of measuring (step 0), of calls that runs of a group shared, by each axis.
    """
    by_step = ledger.tabulate("step")
    learning = sum((book for (step,), book in by_step.items() if step != 0), UsageTotals())
    return {
        "total": _book_json(ledger.total),
        "learning": _book_json(learning),
        "measuring": _book_json(by_step.get((0,), UsageTotals())),
        "shared": _book_json(ledger.shared),
        **{
            axis: {str(key): _book_json(book) for (key,), book in ledger.tabulate(axis).items()}
            for axis in ("role", "step", "example", "model")
        },
    }


def _book_json(book: UsageTotals) -> dict[str, Any]:
    return {
        "calls": book.calls,
        "input": book.input,
        "cached": book.cached,
        "output": book.output,
        "usd": book.usd,
        "estimated": book.estimated,
    }
