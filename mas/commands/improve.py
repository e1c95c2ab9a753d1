"""What the commands of `edgewise` do when it is about wiring; `toolkit.cli.app` resolves these names."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgewise.mas.config import GraphConfig
from edgewise.mas.forecast import forecast
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.loop import learn
from edgewise.mas.training.report import render_result
from edgewise.toolkit.cli.models import pull_missing
from edgewise.toolkit.cli.output import ImproveOutput, Output, given_price
from edgewise.toolkit.cli.progress import announce, show_progress
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.model.router import check_model
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.config import parse_settings, resolve_config
from edgewise.toolkit.run.forecast import check_limits
from edgewise.toolkit.run.runner import execute_run
from edgewise.toolkit.task.task import Task, describe


class ImproveGraph:
    """One task and its settings, ready for `plan` and `improve`."""

    def __init__(self, task: Path, options: Mapping[str, Any], settings: Sequence[str], price: str | None):
        self.task = Task.read(task)
        options = {key: value for key, value in options.items() if value is not None}
        foreign = sorted(set(options) & {"distiller", "proposer", "placebo"})
        if foreign:
            raise ConfigError(f"--{foreign[0]} is about lessons; it goes with --by experience.")
        known = GraphConfig.select_known(self.task.settings)
        given = (known, self.task.graph, parse_settings(settings), options, given_price(price))
        self.job = GraphSpec(self.task, resolve_config(GraphConfig, *given))

    def plan(self, lib: str | None = None) -> Output:
        """The task and what a run would take; asks no model."""
        _no_library(lib)
        for model in filter(None, self.job.config.models):
            check_model(model)
        found = forecast(self.job)
        check_limits(self.job.config, found)
        return Output([describe(self.task), "", *found.lines()], asdict(found))

    def improve(self, run: Path | None, replay: Path | None, lib: str | None = None) -> ImproveOutput:
        """Search, test and measure; the result has `improved` beside its lines and data."""
        _no_library(lib)
        path = run or directory.new_run_path(self.task.name)
        found = forecast(self.job)
        check_limits(self.job.config, found)
        announce(found.lines())
        if not replay:
            pull_missing(*self.job.config.models)
        searching = execute_run(
            self.task, self.job.config, lambda *_: learn(self.job), path, on_event=show_progress(), replay=replay
        )
        result = asyncio.run(searching)
        return ImproveOutput(render_result(result), result.to_json(), result.improved)


def _no_library(lib: str | None) -> None:
    if lib:
        raise ConfigError("--library is about lessons; it goes with --by experience.")
