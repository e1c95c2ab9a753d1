"""What the commands of `edgewise` do when it is about words; `toolkit.cli` resolves these names."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experience.config import ExperienceConfig
from experience.forecast import Forecast, check_limits, forecast
from experience.library import Library
from experience.loop import evaluate, learn
from toolkit.artifact import Artifact
from toolkit.config import parse_settings, resolve
from toolkit.errors import ArtifactError
from toolkit.prices import ANY, Price
from toolkit.progress import announce, watcher
from toolkit.run import Outcome, Result, carry_out
from toolkit.task import Task, describe
from toolkit.types import Plan


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
        self.config = resolve(
            ExperienceConfig, self.task.settings, parse_settings(settings), {**options, **prices}
        )

    def plan(self) -> Shown:
        """The task and what a run would take; asks no model."""
        found = self._forecast()
        return Shown([describe(self.task), "", *found.lines()], asdict(found))

    def improve(self, run: Path | None, replay: Path | None) -> Shown:
        """Learn and measure; the result has `improved` beside its lines and data."""
        announce(self._forecast().lines())
        result = asyncio.run(carry_out(self.task, self.config, learn, run, watch=watcher(), replay=replay))
        return Finished(_result_lines(result), result.to_json(), result.improved)

    def evaluate(self, artifacts: Sequence[Path], run: Path | None) -> Shown:
        """Run the unchanged model and each artefact on the same rows and samples."""
        libraries = {"unchanged": Library()}
        for path in artifacts:
            artifact = Artifact.load(path)
            if artifact.library is None:
                raise ArtifactError(f"{path} holds no library; this version evaluates libraries only.")
            libraries[_name(path, libraries)] = Library.from_json(artifact.library)

        def arms(task: Task, config: ExperienceConfig) -> Plan[Outcome]:
            return Outcome((yield from evaluate(task, config, libraries)), {}, False)

        result = asyncio.run(carry_out(self.task, self.config, arms, run, job="evaluate", watch=watcher()))
        return Shown([*result.evidence.lines(), *_cost_lines(result)], result.to_json())

    def _forecast(self) -> Forecast:
        found = forecast(self.task, self.config)
        check_limits(self.config, found)
        return found


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


def _library(path: Path) -> Library:
    if path.is_file() and path.suffix == ".json":
        try:
            return Library.from_json(json.loads(path.read_text()))
        except ValueError as error:
            raise ArtifactError(f"{path} is not JSON: {error}.") from error
    artifact = Artifact.load(path)
    if artifact.library is None:
        raise ArtifactError(f"{path} holds no library.")
    return Library.from_json(artifact.library)


def _result_lines(result: Result) -> list[str]:
    library = Library.from_json(result.artifact.library)
    lessons = [f"  [{label}] {x.text}" for label, x in library.labels().items()]
    return [
        *result.evidence.lines(),
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
