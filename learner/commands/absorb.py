"""What `edgewise absorb` does; `toolkit.cli.app` resolves these names."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgewise.learner.absorption.api import carried_out
from edgewise.learner.absorption.spec import AbsorbSpec
from edgewise.learner.commands.improve import check_models
from edgewise.learner.hardware.process_group import SIZE_VARIABLES, read_launcher_variable
from edgewise.learner.monitoring.report import result_lines
from edgewise.learner.monitoring.retention import kept
from edgewise.toolkit.cli.models import pull_missing
from edgewise.toolkit.cli.output import ImproveOutput, Output, given_price
from edgewise.toolkit.cli.progress import announce, show_progress
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.config import parse_settings
from edgewise.toolkit.run.forecast import check_limits
from edgewise.toolkit.task.task import Task, describe


class AbsorbCommand:
    """One task, a library and their settings, ready for `plan` and `absorb`."""

    def __init__(
        self, task: Path, library: str, options: Mapping[str, Any], settings: Sequence[str], price: str | None
    ):
        if read_launcher_variable(SIZE_VARIABLES) > 1:
            raise ConfigError("absorb runs in one process: start it without a launcher.")
        named = {key: value for key, value in options.items() if value is not None}
        named = {**parse_settings(settings), **named, **given_price(price)}
        self.job = AbsorbSpec.from_library(Task.read(task), library, named)
        check_models(self.job.config)
        check_limits(self.job.config, self.job.forecast)

    def plan(self) -> Output:
        """The task and what a run would take; loads no model."""
        found = self.job.forecast
        return Output([describe(self.job.task), "", *found.lines()], asdict(found))

    def absorb(self, run: Path | None) -> ImproveOutput:
        """Learn and measure; the result has `improved` beside its lines and data."""
        job = self.job
        announce(job.forecast.lines())
        pull_missing(job.config.model, *job.config.models)
        path = run or directory.new_run_path(job.task.name)
        result = asyncio.run(carried_out(job, path, show_progress()))
        lines, found = result_lines(result), kept(result.evidence)
        return ImproveOutput(
            [*lines[:-2], str(found), *lines[-2:]],
            {**result.to_json(), "kept": found.to_json()},
            result.improved,
        )
