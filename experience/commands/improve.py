"""What the commands of `edgewise` do when it is about words; `toolkit.cli.app` resolves these names."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgewise.experience.commands import weights_arm
from edgewise.experience.config import ExperienceConfig
from edgewise.experience.forecast import forecast
from edgewise.experience.library.library import Library
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.store import checkout
from edgewise.experience.store.reference import lacks_settings, shared_settings, load_library, parse_reference
from edgewise.experience.training.loop import Runs, evaluate, learn
from edgewise.toolkit.cli.models import pull_missing
from edgewise.toolkit.cli.output import ImproveOutput, Output, render_costs, given_price
from edgewise.toolkit.cli.progress import announce, show_progress
from edgewise.toolkit.errors import ConfigError, LibraryError
from edgewise.toolkit.model.router import check_model
from edgewise.toolkit.report import run_files, run_report
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.config import parse_settings, resolve_config
from edgewise.toolkit.run.forecast import check_limits
from edgewise.toolkit.run.runner import Result, RunOutcome, execute_run
from edgewise.toolkit.task.task import Task, describe
from edgewise.toolkit.types import Plan


class ImproveExperience:
    """One task and its settings, ready for `plan`, `improve` and `evaluate`."""

    def __init__(self, task: Path, options: Mapping[str, Any], settings: Sequence[str], price: str | None):
        self.task = Task.read(task)
        self._named = {**parse_settings(settings), **{k: v for k, v in options.items() if v is not None}}
        self._named |= given_price(price)
        self._config()

    def _config(self, artifacts: Sequence[Artifact] = ()) -> ExperienceConfig:
        """
        What the artefacts share, then the task's file, then the command line.

        Trained weights come after the file: they are compared with the model that they were trained from, and asked
        as they were trained.
        """
        weights = [each for each in artifacts if weights_arm.holds(each)]
        bases = dict.fromkeys(each.model for each in weights)
        if len(bases) > 1 and "model" not in self._named:
            raise ConfigError(
                f"These weights were trained from different models ({', '.join(bases)}): say with --model which of "
                "them is the unchanged one."
            )
        given = (shared_settings(artifacts), self.task.settings, shared_settings(weights), self._named)
        return resolve_config(ExperienceConfig, *given)

    def plan(self, lib: str | None = None) -> Output:
        """The task and what a run would take; asks no model."""
        job = ExperienceSpec(self.task, self._config(), checkout.resolve_start(lib).library)
        for model in filter(None, job.config.models):
            check_model(model)
        found = forecast(job)
        check_limits(job.config, found)
        return Output([describe(self.task), "", *found.lines()], asdict(found))

    def improve(self, run: Path | None, replay: Path | None, lib: str | None = None) -> ImproveOutput:
        """
        Learn and measure; the result has `improved` beside its lines and data.

        `lib` names a library to start from; what is learnt goes back to it, where it is a store.
        """
        path = run or directory.new_run_path(self.task.name)
        began = checkout.resolve_start(lib, replay if replay and replay.is_dir() else path)
        job = ExperienceSpec(self.task, self._config(), began.library, began.parents)
        found = forecast(job)
        check_limits(job.config, found)
        announce(found.lines())
        if lib:
            checkout.save_start(began, path)
        if not replay:
            pull_missing(*job.config.models)
        learning = execute_run(
            self.task, job.config, lambda *_: learn(job), path, on_event=show_progress(), replay=replay
        )
        result = asyncio.run(learning)
        lines = _result_lines(result)
        try:
            committed = checkout.commit_to_store(lib, began, result) if lib else ""
        except LibraryError:
            announce(lines)
            raise
        return ImproveOutput([*lines, *filter(None, [committed])], result.to_json(), result.improved)

    def evaluate(
        self, artifacts: Sequence[str], run: Path | None, others: Mapping[str, Runs] | None = None
    ) -> Output:
        """
        Run the unchanged model and each artefact, or library (see `experience.store.reference`), on the same rows and samples.

        With the model and the settings that the artefacts were measured with, where nothing else is said. `others` are
        how to run those artefacts that hold neither library nor weights, by path.
        """
        measured = {path: Artifact.load(path) for path in artifacts if not lacks_settings(path)}
        job = ExperienceSpec(self.task, self._config([*measured.values()]))
        trainings = {
            path: weights_arm.runs(each) for path, each in measured.items() if weights_arm.holds(each)
        }
        ways = {**trainings, **(others or {})}
        libraries: dict[str, Library | Runs] = {"unchanged": Library()}
        alone = []
        for path in artifacts:
            name = _name(path, libraries)
            libraries[name] = ways.get(path) or load_library(parse_reference(path)).library
            if path in measured and measured[path].model_in_use != measured[path].model:
                alone.append(name)
        pull_missing(job.config.model, job.config.judge, job.config.embedder)

        def arms(*_: Any) -> Plan[RunOutcome]:
            return RunOutcome((yield from evaluate(job, libraries, alone)), {}, {})

        result = asyncio.run(execute_run(self.task, job.config, arms, run, job="evaluate", on_event=show_progress()))
        return Output([*result.evidence.lines(), *render_costs(result)], result.to_json())


def _result_lines(result: Result) -> list[str]:
    library = Library.from_json(result.artifact.library)
    lessons = [f"  [{label}] {x.text}" for label, x in library.labels().items()]
    return [
        *result.evidence.lines(),
        "",
        run_report.summarize(run_files.read(result.path)),
        "",
        f"{len(library)} lessons" + (":" if lessons else ": nothing beat the unchanged model"),
        *lessons,
        "",
        *render_costs(result),
        f"artefact: {result.path / 'artifact'}",
        f"report:   {result.path / 'report.html'}",
    ]


def _name(given: str, taken: Mapping[str, Any]) -> str:
    """The name of an arm; of a database, without what may be a password."""
    path = Path(parse_reference(given).location.rpartition("@")[2])
    name = path.resolve().parent.name if path.name == "artifact" else path.stem
    name += "".join(re.findall(r"[#@]\w+$", given)) if lacks_settings(given) else ""
    return name if name not in taken else f"{name}-{len(taken)}"
