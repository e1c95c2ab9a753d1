"""`adopt` and its async twin `aadopt`: learn lessons for the nodes of a program from Python."""

import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.spec import ExperienceSpec
from edgewise.mas.adopt.answerer import PROGRAM
from edgewise.mas.adopt.gateway import Gateway, NodeOf, node_of
from edgewise.mas.adopt.loop import learn
from edgewise.mas.adopt.programs import AsyncProgram, ProcessPool
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.run.driver import Drive
from edgewise.toolkit.run.launch import PreparedRun, merge_keywords
from edgewise.toolkit.run.runner import Result, RunOutcome, make_blocking
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import OnEvent, ignore_event
from edgewise.toolkit.types import AsyncHost, Plan
from edgewise.toolkit.util.import_by_name import load_object

RUN_SECONDS = 300.0
"""Time limit of one run of the program."""


async def aadopt(
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
    Learn lessons for the nodes of a program on a task's training rows, and evaluate them on its test rows.

    `program` is "module:function", a function from question to answer that runs in `processes` processes, or an async
    function of the question and the base URL that its openai clients must use. `model` names the server that receives
    the program's calls (openai/NAME, http://host/v1#NAME); the program chooses among its models. `node_of` returns the
    name of the node that made a call: a function of a module, or "module:function", so that `edgewise serve` finds it
    again. `settings` are fields of `ExperienceConfig`. The artefact has nodes.json. Raises the errors of
    `toolkit.errors`.
    """
    # First, since it is the mistake that only shows when the artefact is served.
    name_node, reference = resolve_node_of(node_of)
    config = resolve_config(ExperienceConfig, task.settings, merge_keywords(model, limits, settings))
    spec = ExperienceSpec(task, config)

    async def host(drive: Drive) -> RunOutcome:
        # Processes start when the run does, not where the run directory or a limit is refused.
        runner = ProcessPool(program, processes) if isinstance(program, str) else AsyncProgram(program)
        gateway = Gateway(runner, drive, config.model, config.max_tokens, run_seconds, name_node)
        async with gateway.open():
            outcome = await drive(learn(spec, gateway))
        extra = {PROGRAM: {"node_of": reference}} if reference else {}
        return replace(outcome, files={**outcome.files, **extra}, start={**outcome.start, **extra})

    # The program calls models on its own, so the plan hands the driver to it.
    def plan(_: Path) -> Plan[RunOutcome]:
        return (yield AsyncHost(host))

    return await PreparedRun(task, config, None, plan, "adopt").execute(run, on_event=on_event)


adopt = make_blocking(aadopt)


def resolve_node_of(by: NodeOf | str) -> tuple[NodeOf, str]:
    """
    Return the function and the reference that `edgewise serve` finds it by, "" for the default.

    Raises ConfigError for a function that can't be found again, TaskError for a reference that can't be imported.
    """
    if by is node_of:
        return node_of, ""
    if isinstance(by, str):
        return load_object(by, Path.cwd()), by
    module, name = getattr(by, "__module__", ""), getattr(by, "__qualname__", "")
    # A lambda, a local function or one of a script has no name that another process could import.
    is_importable = name.isidentifier() and getattr(sys.modules.get(module), name, None) is by
    if module == "__main__" or not is_importable:
        raise ConfigError(
            "node_of must be a function of a module, as `edgewise serve` has to find it again: put it into a file of "
            'its own, and give it as "module:function".'
        )
    return by, f"{module}:{name}"
