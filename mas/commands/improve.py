"""`edgewise improve --by graph`."""

from collections.abc import Collection

from edgewise.mas.api import is_two_level, prepare
from edgewise.mas.training.report import render_result
from edgewise.mas.two_level import report as two_level_report
from edgewise.toolkit.cli.output import ImproveCommand, ImproveOutput
from edgewise.toolkit.run.launch import PreparedRun
from edgewise.toolkit.run.runner import Result


class ImproveGraph(ImproveCommand):
    """Search for agent graphs, or learn lessons for a planner and its sub-agents (`search=two_level`)."""

    def prepare(self) -> PreparedRun:
        """Prepare the search."""
        return prepare(self.task, self.settings)

    def render(self, result: Result) -> ImproveOutput:
        """Return the evaluation, the graphs or lessons, and the costs."""
        render = two_level_report.render_result if is_two_level(self.task, self.settings) else render_result
        return ImproveOutput(render(result), result.to_json(), result.improved)

    def check_options(self, lib: str | None, allowed: Collection[str] = ()) -> None:
        """Raise ConfigError for an option that belongs to another way; learning at two levels has a distiller."""
        super().check_options(lib, ("distiller",) if is_two_level(self.task, self.settings) else allowed)
