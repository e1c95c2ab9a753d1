"""`train` and its async twin: learning in weights from Python."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgewise.learner.config import WeightsConfig
from edgewise.learner.forecast import forecast
from edgewise.learner.hardware.process_group import join_process_group
from edgewise.learner.spec import WeightsSpec, merge_layers
from edgewise.learner.training.distributed_engine import follow, leading
from edgewise.learner.training.loop import learn
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.run.forecast import check_limits
from edgewise.toolkit.run.runner import Result, make_blocking, execute_run
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import OnEvent, ignore_event


async def atrain(
    task: Task,
    *,
    model: str | None = None,
    limits: Limits | None = None,
    run: str | Path | None = None,
    on_event: OnEvent = ignore_event,
    **settings: Any,
) -> Result:
    """
    Train a model's weights on a task by reinforcement learning and measure them on held-out rows.

    `settings` are the fields of `WeightsConfig`, and what changes the method (epochs=2, loss="plain"). `run` is a
    directory, taken up again if it exists. Started as several processes, all of them train together, process 0 alone
    writes, and each returns the same. Raises the errors of `toolkit.errors`.
    """
    bounds = asdict(limits) if limits else {}
    given = {"model": model, **bounds, **settings}
    layers = merge_layers(WeightsConfig.select_known(task.settings), task.weights, given)
    job = WeightsSpec(task, resolve_config(WeightsConfig, layers))
    check_limits(job.config, forecast(job))
    together = join_process_group()
    if together.rank:
        return follow(together).outcome()
    path = Path(run) if run else directory.new_run_path(task.name)
    with leading(together) as lead:
        lead.result = await execute_run(
            task, job.config, lambda *_: learn(job, path, lead.make), path, on_event=on_event
        )
        return lead.result


train = make_blocking(atrain)
