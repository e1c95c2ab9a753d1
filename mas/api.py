"""`design` and its async twin: learning in wiring from Python."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgewise.mas.config import GraphConfig
from edgewise.mas.forecast import forecast
from edgewise.mas.graph.roles import Roles
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.loop import learn
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.run.forecast import check_limits
from edgewise.toolkit.run.runner import Result, make_blocking, execute_run
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import OnEvent, ignore_event


async def adesign(
    task: Task,
    *,
    model: str | None = None,
    own_roles: Roles | None = None,
    limits: Limits | None = None,
    run: str | Path | None = None,
    replay: str | Path | None = None,
    on_event: OnEvent = ignore_event,
    **settings: Any,
) -> Result:
    """
    Design agent graphs for a task by reinforcement learning and measure them on held-out rows.

    `own_roles` are roles of your own beside the catalogue's. `settings` are the fields of `GraphConfig`. `run` is a
    directory, taken up again if it exists. Raises the errors of `toolkit.errors`.
    """
    bounds = asdict(limits) if limits else {}
    given = {"model": model, **bounds, **settings}
    job = GraphSpec(
        task,
        resolve_config(GraphConfig, GraphConfig.select_known(task.settings), task.graph, given),
        dict(own_roles or {}),
    )
    check_limits(job.config, forecast(job))
    where, old = Path(run) if run else None, Path(replay) if replay else None
    return await execute_run(task, job.config, lambda *_: learn(job), where, on_event=on_event, replay=old)


design = make_blocking(adesign)
