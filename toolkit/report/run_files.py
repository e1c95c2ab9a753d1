"""The files of a finished run as values: result.json, rollouts.jsonl, config.toml, and helpers for those of one way."""

import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.evaluation.comparison import Evaluation
from edgewise.toolkit.types import Message, Score
from edgewise.toolkit.util.validation import describe_error

T = TypeVar("T")
_adapter = cache(TypeAdapter)  # making one takes milliseconds, and a run has thousands of lines


class CostTotals(BaseModel, frozen=True):
    """Calls, tokens and dollars; `usd` is None for unknown prices, `estimated` counts calls without a usage."""

    calls: int
    input: int = 0
    cached: int = 0
    output: int = 0
    usd: float | None
    estimated: int = 0


class Costs(BaseModel, frozen=True):
    """The totals of the ledger, and the same by two of its axes."""

    total: CostTotals
    measuring: CostTotals
    role: dict[str, CostTotals]
    step: dict[str, CostTotals]


class StoredResult(BaseModel, frozen=True):
    """The content of result.json; `artifact` maps the artefact's files to their content."""

    task: str
    improved: bool
    evidence: Evaluation
    costs: Costs
    artifact: dict[str, Any]
    seconds: float


class StoredRollout(BaseModel, frozen=True):
    """A line of rollouts.jsonl; `library` is the version of the library, graph or weights that it ran under."""

    example: str
    library: str
    messages: tuple[Message, ...]
    error: str = ""
    score: Score | None = None

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the model's first reply."""
        replies = (i for i, message in enumerate(self.messages) if message.role == "assistant")
        return self.messages[: next(replies, None)]

    @property
    def answer(self) -> str:
        """The last reply, "" without one."""
        last = self.messages[-1] if self.messages else None
        return last.content if last and last.role == "assistant" else ""


class StepStatistics(BaseModel, frozen=True):
    """
    Statistics of a step's groups; the optional ones only where weights are trained.

    `length` is the mean number of tokens of a reply, `entropy` and `kl` (of the update) are in nats a token. Where
    lessons are absorbed, `kept` counts the answers that the update uses, and `loss` is in nats a token.
    """

    runs: int
    mean_reward: float
    mixed: float
    length: float | None = None
    entropy: float | None = None
    kl: float | None = None
    kept: int | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run whose result is written; the reports of each way read further files of `path`."""

    path: Path
    result: StoredResult
    settings: dict[str, Any]  # config.toml
    # Rollouts of rows that changed, by (example, arm), in sample order.
    answers: dict[tuple[str, str], list[StoredRollout]]

    @property
    def is_comparison(self) -> bool:
        """Whether artefacts were only measured: the run's own artefact holds nothing but the evidence."""
        has_steps = any(self.path.glob("steps/*/step.json"))
        return not has_steps and self.result.artifact.keys() <= {"evidence.json"}


def read_run(path: Path) -> FinishedRun:
    """Read a run directory. Raises ArtifactError where it is not finished or a file is damaged."""
    file = path / "result.json"
    if not file.is_file():
        raise ArtifactError(
            f"{path} has no result.json: it is no run directory, or the run did not finish; run it again."
        )
    result = validate(StoredResult, _read_json(file, _restore_infinities), file)
    if not result.evidence.results:
        raise ArtifactError(f"{file} holds no measurement; run it again.")

    # Settings only decorate the report: a run without its config is still one.
    config = path / "config.toml"
    try:
        settings = tomllib.loads(_read_text(config)) if config.exists() else {}
    except tomllib.TOMLDecodeError as error:
        raise ArtifactError(f"{config} is damaged ({error}).") from error
    return FinishedRun(path, result, settings, _read_answers(path, result.evidence))


def read_file(kind: type[T], file: Path) -> T:
    """Read a JSON file as a dataclass, a model or a dict. Raises ArtifactError if it is damaged."""
    return validate(kind, _read_json(file), file)


def read_steps(kind: type[T], path: Path) -> list[T]:
    """Read all steps/NNN/step.json of a run, in order. Raises ArtifactError if one is damaged."""
    # Names have three digits or more: 999 stands before 1000.
    files = sorted(path.glob("steps/*/step.json"), key=lambda file: (len(file.parent.name), file.parent.name))
    return [read_file(kind, file) for file in files]


def validate(kind: type[T], data: Any, file: Path) -> T:
    """Validate plain data of a file as a dataclass, a model or a dict. Raises ArtifactError if it does not fit."""
    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        raise damaged_file(file, describe_error(error)) from error


def damaged_file(file: Path, reason: object) -> ArtifactError:
    """Return the error about a file of a run that can't be read."""
    return ArtifactError(f"{file} is damaged ({reason}); run it again with the same --run.")


def _read_json(file: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    def reject_constant(name: str) -> float:
        raise ValueError(f"it holds {name}, which is no JSON")

    try:
        # Python would read NaN and Infinity as numbers.
        return json.loads(_read_text(file), object_hook=object_hook, parse_constant=reject_constant)
    except ValueError as error:
        raise damaged_file(file, error) from error


def _restore_infinities(data: dict[str, Any]) -> dict[str, Any]:
    """Restore the ends of an interval that are infinite, which `Evaluation.to_json` writes as null."""
    if data.keys() >= {"estimate", "low", "high"}:
        ends = {"low": -math.inf, "high": math.inf}
        data |= {key: end for key, end in ends.items() if data[key] is None}
    return data


def _read_answers(path: Path, evidence: Evaluation) -> dict[tuple[str, str], list[StoredRollout]]:
    """Return the measured rollouts of rows that changed, by example and arm."""
    differences = [arm.against for arm in evidence.results if arm.against]
    examples = {id for difference in differences for id in (*difference.better, *difference.worse)}
    by_version: dict[tuple[str, str], list[StoredRollout]] = {}
    file = path / "rollouts.jsonl"
    if not examples or not file.exists():
        return {}
    try:
        # Line by line: the file holds all rollouts of learning too, and may be large.
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                data = json.loads(line)
                if data["example"] in examples:
                    rollout = validate(StoredRollout, data, file)
                    by_version.setdefault((rollout.example, rollout.library), []).append(rollout)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged_file(file, error) from error

    # A line names the version, not the arm; two arms may have the same one. Learning may have sampled the same example
    # under the same version: the rollouts of the measurement come last.
    return {
        (example, arm.name): rollouts[-evidence.samples :]
        for (example, version), rollouts in by_version.items()
        for arm in evidence.results
        if arm.version == version
    }


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise damaged_file(file, error) from error
