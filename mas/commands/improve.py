"""`edgewise improve --by graph`."""

from edgewise.mas.api import prepare
from edgewise.mas.training.report import render_result
from edgewise.toolkit.cli.output import ImproveCommand, ImproveOutput
from edgewise.toolkit.run.launch import PreparedRun
from edgewise.toolkit.run.runner import Result


class ImproveGraph(ImproveCommand):
    """Search for agent graphs."""

    def prepare(self) -> PreparedRun:
        """Prepare the search."""
        return prepare(self.task, self.settings)

    def render(self, result: Result) -> ImproveOutput:
        """Return the evaluation, the graphs and the costs."""
        return ImproveOutput(render_result(result), result.to_json(), result.improved)
