"""`train` and its async twin `atrain`: train weights from Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgewise.learner.forecast import forecast
from edgewise.learner.hardware.process_group import join_process_group
from edgewise.learner.spec import WeightsSpec
from edgewise.learner.training.distributed_engine import follow, lead
from edgewise.learner.training.engine import Engine
from edgewise.learner.training.loop import learn
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.run.launch import PreparedRun, merge_keywords
from edgewise.toolkit.run.runner import Result, make_blocking
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import OnEvent, ignore_event


def prepare(spec: WeightsSpec, make: Callable[..., Engine] = Engine) -> PreparedRun:
    """Prepare a training run; `make` builds the engine, on one process or on several."""
    # The path holds checkpoints: training resumes from weights, not from a journal.
    return PreparedRun(spec.task, spec.config, forecast(spec), lambda path: learn(spec, path, make))


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
    Train a model's weights on a task by reinforcement learning and evaluate them on held-out rows.

    `settings` are fields of `WeightsConfig` and changes of the method (epochs=2, loss="plain"); they win over the task
    file. `run` is a directory; an existing run is resumed. If a launcher starts several processes, all of them train
    together, process 0 alone writes, and each returns the same. Raises the errors of `toolkit.errors`.
    """
    # Every process reads the task and checks it, so that all of them refuse the same mistakes.
    spec = WeightsSpec.from_settings(task, merge_keywords(model, limits, settings))
    prepare(spec).check_limits()
    group = join_process_group()
    if group.rank:
        return follow(group).get_result()
    with lead(group) as leader:
        leader.result = await prepare(spec, leader.make_engine).execute(run, on_event=on_event)
        return leader.result


train = make_blocking(atrain)
