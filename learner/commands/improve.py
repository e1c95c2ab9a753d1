"""What the commands of `edgewise` do when it is about weights; `toolkit.cli.app` resolves these names."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from edgewise.learner.config import WeightsConfig
from edgewise.learner.forecast import forecast
from edgewise.learner.hardware.process_group import (
    RANK_VARIABLES,
    ProcessGroup,
    join_process_group,
    read_launcher_variable,
)
from edgewise.learner.monitoring.report import result_lines
from edgewise.learner.spec import WeightsSpec, merge_layers
from edgewise.learner.training.distributed_engine import Leader, follow, leading
from edgewise.toolkit.cli.models import pull_missing
from edgewise.toolkit.cli.output import ImproveOutput, Output, given_price
from edgewise.toolkit.cli.progress import announce, show_progress
from edgewise.toolkit.errors import ConfigError, LostProcess
from edgewise.toolkit.model.router import check_model
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.config import parse_settings, resolve_config
from edgewise.toolkit.run.forecast import check_limits
from edgewise.toolkit.run.runner import execute_run
from edgewise.toolkit.task.task import Task, describe


class ImproveWeights:
    """
    One task and its settings, ready for `plan` and `improve`.

    Of several processes only the first reads them and prints; the others follow it, and leave by SystemExit.
    """

    def __init__(self, task: Path, options: Mapping[str, Any], settings: Sequence[str], price: str | None):
        self._job = partial(_job, task, options, settings, price)

    @cached_property
    def job(self) -> WeightsSpec:
        """The task and its settings, once they are read."""
        return self._job()

    def plan(self, lib: str | None = None) -> Output:
        """The task and what a run would take; loads no model."""
        if read_launcher_variable(RANK_VARIABLES) > 0:
            raise SystemExit
        _no_library(lib)
        check_models(self.job.config)
        found = forecast(self.job)
        check_limits(self.job.config, found)
        return Output([describe(self.job.task), "", *found.lines()], asdict(found))

    def improve(self, run: Path | None, replay: Path | None, lib: str | None = None) -> ImproveOutput:
        """Train and measure; the result has `improved` beside its lines and data."""
        together = join_process_group()
        if together.rank:
            raise SystemExit(follow_leader(together))
        with leading(together) as lead:
            return self._improve(run, replay, lib, lead)

    def _improve(self, run: Path | None, replay: Path | None, lib: str | None, lead: Leader) -> ImproveOutput:
        from edgewise.learner.training.loop import learn

        _no_library(lib)
        if replay:
            raise ConfigError(
                "--replay answers from a journal; weights are trained, not asked: leave it out."
            )
        job = self.job
        check_models(job.config)
        path = run or directory.new_run_path(job.task.name)
        found = forecast(job)
        check_limits(job.config, found)
        announce(found.lines())
        pull_missing(job.config.model, *job.config.models)
        training = execute_run(
            job.task, job.config, lambda *_: learn(job, path, lead.make), path, on_event=show_progress()
        )
        result = asyncio.run(training)
        return ImproveOutput(result_lines(result), result.to_json(), result.improved)


def _job(task: Path, options: Mapping[str, Any], settings: Sequence[str], price: str | None) -> WeightsSpec:
    read = Task.read(task)
    options = {key: value for key, value in options.items() if value is not None}
    foreign = sorted(set(options) & {"distiller", "proposer", "placebo", "gate"})
    if foreign:
        raise ConfigError(f"--{foreign[0]} is about lessons or graphs; --by weights has no {foreign[0]}.")
    known = WeightsConfig.select_known(read.settings)
    given = (known, read.weights, parse_settings(settings), options, given_price(price))
    return WeightsSpec(read, resolve_config(WeightsConfig, merge_layers(*given)))


def check_models(config: WeightsConfig) -> None:
    """Raise what `toolkit.model.router.check` raises for any model of a run."""
    for model in filter(None, (config.model, *config.models)):
        check_model(model)


def follow_leader(together: ProcessGroup) -> int:
    """Follow process 0, which says what there is to say while it can; the exit code."""
    try:
        follow(together)
    except LostProcess as error:
        announce([f"edgewise: process {together.rank}: {error}"])
        return error.exit_code
    return 0


def _no_library(lib: str | None) -> None:
    if lib:
        raise ConfigError("--library is about lessons; it goes with --by experience.")
