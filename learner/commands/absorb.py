"""`edgewise absorb`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from edgewise.learner.absorption.api import prepare
from edgewise.learner.absorption.spec import AbsorbSpec
from edgewise.learner.hardware.process_group import SIZE_VARIABLES, read_launcher_variable
from edgewise.learner.monitoring.report import render_result
from edgewise.learner.monitoring.retention import measure_retention
from edgewise.toolkit.cli.output import ImproveCommand, ImproveOutput, check_models
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.run.launch import PreparedRun
from edgewise.toolkit.run.runner import Result


class AbsorbCommand(ImproveCommand):
    """Distil the lessons of a library into weights."""

    foreign_options: ClassVar = {}

    def __init__(
        self, task: Path, library: str, options: Mapping[str, Any], settings: Sequence[str], price: str | None
    ):
        # The loop of `absorb` has no distributed engine.
        if read_launcher_variable(SIZE_VARIABLES) > 1:
            raise ConfigError("absorb runs in one process: start it without a launcher.")
        super().__init__(task, options, settings, price)
        self._library = library

    def prepare(self) -> PreparedRun:
        """Prepare the run."""
        spec = AbsorbSpec.from_library(self.task, self._library, self.settings)
        check_models(spec.config)
        return prepare(spec)

    def render(self, result: Result) -> ImproveOutput:
        """Return the evaluation, the share of the lessons' gain that the weights retain, and the costs."""
        lines, retention = render_result(result), measure_retention(result.evidence)
        # The last two lines name the artefact and the report.
        lines = [*lines[:-2], str(retention), *lines[-2:]]
        return ImproveOutput(lines, {**result.to_json(), "kept": retention.to_json()}, result.improved)
