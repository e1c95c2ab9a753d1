"""`edgewise improve --by weights`."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from edgewise.learner.api import prepare
from edgewise.learner.hardware.process_group import (
    RANK_VARIABLES,
    ProcessGroup,
    join_process_group,
    read_launcher_variable,
)
from edgewise.learner.monitoring.report import render_result
from edgewise.learner.spec import WeightsSpec
from edgewise.learner.training.distributed_engine import follow, lead
from edgewise.learner.training.engine import Engine
from edgewise.toolkit.cli.output import ImproveCommand, ImproveOutput, Output, check_models
from edgewise.toolkit.cli.progress import announce
from edgewise.toolkit.errors import ConfigError, LostProcess
from edgewise.toolkit.run.launch import PreparedRun
from edgewise.toolkit.run.runner import Result


class ImproveWeights(ImproveCommand):
    """
    Train weights.

    Of several processes only the first reads the task and prints; the others follow it and leave by SystemExit.
    """

    foreign_options: ClassVar = {**ImproveCommand.foreign_options, "gate": "lessons and graphs"}
    _make: Callable[..., Engine] = Engine

    def prepare(self) -> PreparedRun:
        """Prepare the training run."""
        spec = WeightsSpec.from_settings(self.task, self.settings)
        check_models(spec.config)
        return prepare(spec, self._make)

    def plan(self, lib: str | None = None) -> Output:
        """Return the task and the forecast of the run; loads no model."""
        if read_launcher_variable(RANK_VARIABLES) > 0:
            raise SystemExit
        return super().plan(lib)

    def improve(self, run: Path | None, replay: Path | None = None, lib: str | None = None) -> ImproveOutput:
        """Train with all processes that a launcher started, and return what is printed."""
        # Followers have no settings of their own: the leader sends them work.
        group = join_process_group()
        if group.rank:
            raise SystemExit(follow_leader(group))
        with lead(group) as leader:
            if replay:
                raise ConfigError("--replay answers from a journal; weights are trained, not asked: leave it out.")
            # With several processes the leader's engine runs every update on all of them.
            self._make = leader.make_engine
            return super().improve(run, lib=lib)

    def render(self, result: Result) -> ImproveOutput:
        """Return the evaluation, the method and the costs."""
        return ImproveOutput(render_result(result), result.to_json(), result.improved)


def follow_leader(group: ProcessGroup) -> int:
    """Follow process 0, which prints everything while it can; return the exit code."""
    try:
        follow(group)
    except LostProcess as error:
        announce([f"edgewise: process {group.rank}: {error}"])
        return error.exit_code
    return 0
