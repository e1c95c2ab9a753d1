"""
A run from start to result: the directory, the ledger, the client and the plan, put together.

A run that was stopped is taken up by running it again: its plan is driven from the start, and every call whose
reply is in the journal is answered from there, so that nothing is paid twice and nothing comes out differently.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import around, directory
from toolkit.artifact import Artifact
from toolkit.client import Router
from toolkit.collect import Driver
from toolkit.config import Config
from toolkit.directory import Directory, Watch
from toolkit.errors import Interrupted
from toolkit.evaluate import Evaluation
from toolkit.journal import Journal
from toolkit.ledger import Ledger, Limits
from toolkit.task import Task
from toolkit.types import Note, Plan

Way = Callable[[Task, Any], Plan["Outcome"]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a way of improving ends with: the measurement, the artefact's files, whether there is a change."""

    evaluation: Evaluation
    files: Mapping[str, Any]
    changed: bool


@dataclass(frozen=True, slots=True)
class Result:
    """
    What `improve` returns.

    `evidence`: the measurement before and after on held-out rows. `artifact`: what can be saved, evaluated and
    used. `costs`: the ledger's books. `improved`: whether there is a change, and it measured better.
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


async def carry_out(
    task: Task,
    config: Config,
    way: Way,
    path: Path | None = None,
    *,
    watch: Watch = lambda note: None,
    replay: Path | None = None,
) -> Result:
    """
    Carry out one way of improving in a run directory (a fresh one under runs/ by default).

    `replay` names a journal that answers every call; no model is asked then. Raises the errors of
    `toolkit.errors`; whatever they are, what was paid for stays in the journal.
    """
    started = time.monotonic()
    path = path or directory.fresh(task.name)
    with directory.opened(path, config, task.fingerprint) as files, _books(path, config, replay) as books:
        journal, ledger = books
        router = None if replay else Router()
        client = around.stack(
            router,
            journal,
            ledger,
            concurrency=config.concurrency,
            timeout=config.timeout,
            attempts=config.attempts,
        )
        watch(Note("open", (path, ledger)))
        driver = Driver(client, lambda note: (files.note(note), watch(note)))
        try:
            outcome = await _interruptible(driver, way(task, config))
        finally:
            await client.aclose()
        return _finish(task, config, outcome, ledger, files, time.monotonic() - started)
