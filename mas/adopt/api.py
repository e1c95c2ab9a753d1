"""`adopt`: learn lessons for the nodes of a program."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.spec import ExperienceSpec
from edgewise.mas.adopt.answerer import PROGRAM
from edgewise.mas.adopt.gateway import Gateway, NodeOf, node_of
from edgewise.mas.adopt.loop import learn
from edgewise.mas.adopt.programs import Called, Processes, Program
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.run.driver import Drive
from edgewise.toolkit.run.runner import Result, RunOutcome, execute_run
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import OnEvent, ignore_event
from edgewise.toolkit.types import AsyncHost, Plan
from edgewise.toolkit.util.import_by_name import load_object

RUN_SECONDS = 300.0
"""The most that one run of the program may take."""


def adopt(
    task: Task,
    program: str | Callable[[str, str], Awaitable[str]],
    *,
    model: str,
    processes: int = 4,
    node_of: NodeOf | str = node_of,
    limits: Limits | None = None,
    run: str | Path | None = None,
    on_event: OnEvent = ignore_event,
    run_seconds: float = RUN_SECONDS,
    **settings: Any,
) -> Result:
    """
    Learn lessons for the nodes of a program on a task's rows, and measure them on its test rows.

    `program` is "module:function", which takes a question and gives an answer and is run in `processes` of its own, or
    an async function of the question and the base URL that its openai clients must use. `model` names the server that
    the program's calls go to (openai/NAME, http://host/v1#NAME); which of its models is asked is the program's choice.
    `node_of` names the node that made a call: a function of a module, or "module:function", so that `edgewise serve`
    finds it again. `settings` are fields of `ExperienceConfig`. The artefact holds nodes.json. Raises the errors of
    `toolkit.errors`.
    """
    which, spec = _told_apart(node_of)
    bounds = asdict(limits) if limits else {}
    config = resolve_config(ExperienceConfig, task.settings, {"model": model, **bounds, **settings})
    job = ExperienceSpec(task, config)

    def way(*_: Any) -> Plan[RunOutcome]:
        made = Processes(program, processes) if isinstance(program, str) else Called(program)
        return (yield AsyncHost(partial(_hosted, job, made, which, spec, run_seconds)))

    where = Path(run) if run else None
    return asyncio.run(execute_run(task, config, way, where, job="adopt", on_event=on_event))


async def _hosted(
    job: ExperienceSpec, program: Program, which: NodeOf, spec: str, seconds: float, drive: Drive
) -> RunOutcome:
    gateway = Gateway(program, drive, job.config.model, job.config.max_tokens, seconds, which)
    async with gateway.open():
        found = await drive(learn(job, gateway))
    more = {PROGRAM: {"node_of": spec}} if spec else {}
    return replace(found, files={**found.files, **more}, start={**found.start, **more})


def _told_apart(by: NodeOf | str) -> tuple[NodeOf, str]:
    """The function, and how it is found again ("" for `node_of`). Raises ConfigError where it can't be, TaskError."""
    if by is node_of:
        return node_of, ""
    if isinstance(by, str):
        return load_object(by, Path.cwd()), by
    place, name = getattr(by, "__module__", ""), getattr(by, "__qualname__", "")
    if (
        place == "__main__"
        or not name.isidentifier()
        or getattr(sys.modules.get(place), name, None) is not by
    ):
        raise ConfigError(
            "node_of must be a function of a module, as `edgewise serve` has to find it again: put it into a file of "
            'its own, and give it as "module:function".'
        )
    return by, f"{place}:{name}"
