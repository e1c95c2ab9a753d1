"""`edgewise improve --by experience`."""

from pathlib import Path
from typing import ClassVar

from edgewise.experience.launch import prepare
from edgewise.experience.library.library import Library
from edgewise.experience.store import checkout
from edgewise.experience.store.checkout import RunStart
from edgewise.toolkit.cli.output import ImproveCommand, ImproveOutput, Output, render_costs, start_run
from edgewise.toolkit.cli.progress import announce
from edgewise.toolkit.errors import LibraryError
from edgewise.toolkit.report import run_files, run_report
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.launch import PreparedRun
from edgewise.toolkit.run.runner import Result


class ImproveExperience(ImproveCommand):
    """Learn lessons; with --library the run starts from a library and commits to it, if it is a store."""

    foreign_options: ClassVar = {}
    _start = RunStart()

    def prepare(self) -> PreparedRun:
        """Prepare the run from its start."""
        return prepare(self.task, self.settings, self._start.library, self._start.parents)

    def plan(self, lib: str | None = None) -> Output:
        """Return the task and the forecast of the run; calls no model."""
        self._start = checkout.resolve_start(lib)
        return super().plan()

    def improve(self, run: Path | None, replay: Path | None = None, lib: str | None = None) -> ImproveOutput:
        """Run, commit the lessons to the store that `lib` names, and return what is printed."""
        # A run that is resumed or replayed begins with the lessons that it began with the first time.
        path = run or directory.new_run_path(self.task.name)
        self._start = checkout.resolve_start(lib, replay if replay and replay.is_dir() else path)
        prepared = self.prepare()
        if lib:
            prepared.check_limits()
            checkout.save_start(self._start, path)

        output = self.render(result := start_run(prepared, path, replay))
        if not lib:
            return output
        try:
            commit = checkout.commit_to_store(lib, self._start, result)
        except LibraryError:
            # The run is paid and finished: its result is shown even if the store refuses it.
            announce(output.text)
            raise
        return ImproveOutput([*output.text, *filter(None, [commit])], output.data, output.improved)

    def render(self, result: Result) -> ImproveOutput:
        """Return the evaluation, the lessons and the costs."""
        # The lessons of the artefact: those of the start, if nothing better was found.
        library = Library.from_json(result.artifact.library)
        lessons = [f"  [{label}] {lesson.text}" for label, lesson in library.labels().items()]
        lines = [
            *result.evidence.lines(),
            "",
            run_report.summarize(run_files.read_run(result.path)),
            "",
            f"{len(library)} lessons" + (":" if lessons else ": nothing beat the unchanged model"),
            *lessons,
            "",
            *render_costs(result),
            f"artefact: {result.path / 'artifact'}",
            f"report:   {result.path / 'report.html'}",
        ]
        return ImproveOutput(lines, result.to_json(), result.improved)
