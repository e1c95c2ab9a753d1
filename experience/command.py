"""What the commands of `edgewise` do when it is about words; `toolkit.cli` resolves these names."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experience.config import ExperienceConfig
from experience.forecast import check_limits, forecast
from experience.library import Library
from experience.loop import evaluate, learn
from toolkit import finished, report
from toolkit.artifact import Artifact
from toolkit.client import check
from toolkit.config import parse_settings, resolve
from toolkit.errors import ArtifactError
from toolkit.models import fetch
from toolkit.prices import ANY, Price
from toolkit.progress import announce, watcher
from toolkit.run import Outcome, Result, carry_out
from toolkit.task import Task, describe
from toolkit.types import Plan

IN_USE = {"temperature": "eval_temperature", "top_p": "eval_top_p", "max_tokens": "max_tokens"}
"""Settings that an artefact keeps, and what they are called while learning."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Something to print: for people as lines, for programs as data."""

    text: Sequence[str]
    data: Any

    def lines(self) -> Sequence[str]:
        """For people."""
        return self.text

    def to_json(self) -> Any:
        """For programs."""
        return self.data


class Words:
    """One task and its settings, ready for `plan`, `improve` and `evaluate`."""

    def __init__(self, task: Path, options: Mapping[str, Any], settings: Sequence[str], price: str | None):
        self.task = Task.read(task)
        prices = {"prices": {ANY: _numbers(Price.parse(price))}} if price else {}
        self._given = (self.task.settings, parse_settings(settings), {**options, **prices})
        self._config()

    def _config(self, **defaults: Any) -> ExperienceConfig:
        return resolve(ExperienceConfig, defaults, *self._given)

    def plan(self) -> Shown:
        """The task and what a run would take; asks no model."""
        config = self._config()
        for model in filter(None, config.models):
            check(model)
        found = forecast(self.task, config)
        check_limits(config, found)
        return Shown([describe(self.task), "", *found.lines()], asdict(found))

    def improve(self, run: Path | None, replay: Path | None) -> "Finished":
        """Learn and measure; the result has `improved` beside its lines and data."""
        config = self._config()
        found = forecast(self.task, config)
        check_limits(config, found)
        announce(found.lines())
        if not replay:
            fetch(*config.models)
        result = asyncio.run(carry_out(self.task, config, learn, run, watch=watcher(), replay=replay))
        return Finished(_result_lines(result), result.to_json(), result.improved)

    def evaluate(self, artifacts: Sequence[Path], run: Path | None) -> Shown:
        """
        Run the unchanged model and each artefact on the same rows and samples.

        With the model and the settings that the artefacts were measured with, where nothing else is said.
        """
        loaded = {path: Artifact.load(path) for path in artifacts}
        libraries = {"unchanged": Library()}
        for path, artifact in loaded.items():
            libraries[_name(path, libraries)] = _library_of(artifact, path)
        config = self._config(**_in_common(list(loaded.values())))
        fetch(config.model, config.judge)

        def arms(task: Task, config: ExperienceConfig) -> Plan[Outcome]:
            return Outcome((yield from evaluate(task, config, libraries)), {}, {})

        result = asyncio.run(carry_out(self.task, config, arms, run, job="evaluate", watch=watcher()))
        return Shown([*result.evidence.lines(), *_cost_lines(result)], result.to_json())


@dataclass(frozen=True, slots=True)
class Finished(Shown):
    """What `improve` prints, and whether it found something worth keeping."""

    improved: bool = False


def shown(path: Path) -> Shown:
    """The lessons of an artefact or of a library file."""
    library = _library(path)
    rows = [
        f"{label}  {x.id}  {x.kind:7}  step {x.born}  from {len(x.sources)} rows  {x.text}"
        for label, x in library.labels().items()
    ]
    head = f"{len(library)} lessons, version {library.version}, place {library.place!r}"
    return Shown([head, *rows], library.to_json())


def flat(path: Path) -> dict[str, str]:
    """The lessons of an artefact or of a library file as {"G0": text, ...}."""
    return _library(path).flat()


def _library(path: Path) -> Library:
    if path.is_file() and path.suffix == ".json":
        try:
            return Library.from_json(json.loads(path.read_text()))
        except ValueError as error:
            raise ArtifactError(f"{path} is not JSON: {error}.") from error
    return _library_of(Artifact.load(path), path)


def _library_of(artifact: Artifact, path: Path) -> Library:
    if artifact.library is None:
        raise ArtifactError(f"{path} holds no library; this version knows nothing else.")
    return Library.from_json(artifact.library)


def _in_common(artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """The model and the settings of use that all artefacts share; what they differ in is left to the defaults."""
    settings = [
        {"model": a.model, **{IN_USE[k]: v for k, v in a.settings.items() if k in IN_USE}} for a in artifacts
    ]
    first = settings[0]
    return {key: value for key, value in first.items() if all(s.get(key) == value for s in settings)}


def _result_lines(result: Result) -> list[str]:
    library = Library.from_json(result.artifact.library)
    lessons = [f"  [{label}] {x.text}" for label, x in library.labels().items()]
    return [
        *result.evidence.lines(),
        "",
        report.finding(finished.read(result.path)),
        "",
        f"{len(library)} lessons" + (":" if lessons else ": nothing beat the unchanged model"),
        *lessons,
        "",
        *_cost_lines(result),
        f"artefact: {result.path / 'artifact'}",
        f"report:   {result.path / 'report.html'}",
    ]


def _cost_lines(result: Result) -> list[str]:
    parts = {"learning": result.costs["learning"], "measuring": result.costs["measuring"]}
    return [f"{name}: {_cost(book)}" for name, book in parts.items() if book["calls"]] + [
        f"time: {result.seconds / 60:.1f} minutes"
    ]


def _cost(book: Mapping[str, Any]) -> str:
    price = "price unknown" if book["usd"] is None else f"${book['usd']:.4f}"
    given = f"{book['input']:,} tokens in ({book['cached']:,} cached), {book['output']:,} out"
    return f"{book['calls']:,} calls, {given}, {price}"


def _name(path: Path, taken: Mapping[str, Any]) -> str:
    name = path.resolve().parent.name if path.name == "artifact" else path.stem
    return name if name not in taken else f"{name}-{len(taken)}"


def _numbers(price: Price) -> tuple[float, ...]:
    return (price.input, price.output) if price.cached is None else (price.input, price.output, price.cached)
