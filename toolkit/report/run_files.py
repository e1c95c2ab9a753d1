"""A finished run as its files tell it: the shapes of result.json, steps/NNN/step.json and rollouts.jsonl."""

import json
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgewise.toolkit.errors import ArtifactError


class Data(BaseModel):
    """What is read from a run; numbers are finite, keys that are not named here are left alone."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Interval(Data):
    """An estimate with its 95 % interval; an end that is None is infinite."""

    estimate: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


class Difference(Data):
    """An arm against the first: mean paired difference, ids of rows that got better and worse."""

    baseline: str
    mean: Interval
    better: list[str]
    worse: list[str]


class Tokens(Data):
    """Tokens of an arm or a rollout."""

    input: int = 0
    cached: int = 0
    output: int = 0


class Arm(Data):
    """One way of answering and how good it was; `version` is the library it ran under, `passes` pass@k by k."""

    name: str
    version: str
    mean: Interval
    passes: dict[str, float]
    rollouts: int
    failed: int
    usage: Tokens
    unreported: int = 0
    against: Difference | None = None


class Row(Data):
    """The rewards of one example in one arm."""

    example: str
    arm: str
    rewards: list[float]


class Evidence(Data):
    """The measurement: `results` in the order of the arms, `rows` for each example and arm."""

    examples: int
    samples: int
    results: list[Arm]
    rows: list[Row]


class Book(Tokens):
    """What was booked; `usd` is None where a price is unknown, `estimated` counts calls without a usage."""

    calls: int
    usd: float | None
    estimated: int = 0


class Costs(Data):
    """The books, in all and by two of the axes."""

    total: Book
    measuring: Book
    role: dict[str, Book]
    step: dict[str, Book]


class Effect(Data):
    """What a lesson was measured to be worth; see `experience.library.library`."""

    estimate: float
    low: float
    high: float
    uses: int


class Lesson(Data):
    """A lesson of the final library."""

    text: str
    kind: str
    born: int
    sources: list[str]
    effect: Effect | None = None


class Dropped(Data):
    """A lesson that measurably did harm; `kept` where it stayed because it is locked."""

    lesson: Lesson
    reason: str
    kept: bool = False


class Effects(Data):
    """effects.json."""

    dropped: list[Dropped] = []


class Library(Data):
    """The final library."""

    lessons: list[Lesson]


class Result(Data):
    """result.json. `artifact` is the content of the artefact's files."""

    task: str
    improved: bool
    evidence: Evidence
    costs: Costs
    artifact: dict[str, Any]
    seconds: float


class Operation(Data):
    """What became of one operation on the library."""

    action: str
    id: str | None = None
    text: str | None = None
    applied: bool
    reason: str = ""


class Gate(Data):
    """How the best candidate did against the current library on `rows` validation rows, and why it stayed or went."""

    winner: str
    difference: float
    rows: int
    p: float = 1.0
    level: float = 0.0
    worse: list[str] = []
    means: dict[str, float]


class Studied(Data):
    """One group of a step; `skipped` says why no lesson was drawn from it."""

    skipped: str = ""


class Numbers(Data):
    """
    Statistics of a step's groups.

    Where weights are trained: mean tokens of a reply, nats a token, and how far the update moved (nats a token). Where
    lessons are absorbed: how many answers were learnt from, and their loss (nats a token).
    """

    runs: int
    mean_reward: float
    mixed: float
    length: float | None = None
    entropy: float | None = None
    kl: float | None = None
    kept: int | None = None
    loss: float | None = None


class Step(Data):
    """steps/NNN/step.json; `went` says where training of weights went back to, and why."""

    step: int
    epoch: int
    incomplete: str = ""
    statistics: Numbers
    groups: list[Studied] = []
    operations: list[Operation] = []
    gate: Gate | None = None
    dropped: list[Dropped] = []
    went: str = ""


class Message(Data):
    """One message of a rollout."""

    role: str
    content: str


class Score(Data):
    """The grade of a rollout."""

    value: float
    feedback: str = ""


class Line(Data):
    """One line of rollouts.jsonl."""

    example: str
    library: str
    messages: list[Message]
    error: str = ""
    score: Score | None = None

    @property
    def prompt(self) -> list[Message]:
        """What the model was given before it first spoke."""
        spoken = (i for i, message in enumerate(self.messages) if message.role == "assistant")
        return self.messages[: next(spoken, None)]

    @property
    def answer(self) -> str:
        """The last thing the model said."""
        last = self.messages[-1] if self.messages else None
        return last.content if last and last.role == "assistant" else ""


Answers = dict[tuple[str, str], list[Line]]


@dataclass(frozen=True, slots=True)
class Finished:
    """
    All that the report needs.

    `library` is None where nothing was learned in words, `wiring` (the content of wiring.json) where nothing was in
    wiring, `weights` (weights.json) where nothing was in weights. `dropped` are the lessons that measurably did harm,
    at any time. `answers` holds the rollouts of rows that changed, by (example, arm), in sample order.
    """

    result: Result
    library: Library | None
    steps: list[Step]
    dropped: list[Dropped]
    answers: Answers
    settings: dict[str, Any]
    wiring: dict[str, Any] | None = None
    weights: dict[str, Any] | None = None


M = TypeVar("M", bound=Data)


def read(path: Path) -> Finished:
    """Read a run directory. Raises ArtifactError where it is not finished or a file is damaged."""
    if not (path / "result.json").is_file():
        raise ArtifactError(
            f"{path} has no result.json: it is no run directory, or the run did not finish; run it again."
        )
    result = _parsed(Result, path / "result.json")
    if not result.evidence.results:
        raise ArtifactError(f"{path / 'result.json'} holds no measurement; run it again.")
    words = result.artifact.get("library.json")
    library = None if words is None else _checked(Library, words, path / "result.json")
    steps = sorted((_parsed(Step, x) for x in path.glob("steps/*/step.json")), key=lambda each: each.step)
    return Finished(
        result,
        library,
        steps,
        _dropped(path, steps),
        _answers(path, result.evidence),
        _settings(path),
        _object(path / "wiring.json"),
        _object(path / "weights.json"),
    )


def _object(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        return dict(json.loads(_text(file)))
    except (TypeError, ValueError) as error:
        raise _damaged(file, error) from error


def _dropped(path: Path, steps: list[Step]) -> list[Dropped]:
    file = path / "effects.json"
    last = _parsed(Effects, file).dropped if file.exists() else []
    found = [*(each for step in steps for each in step.dropped), *last]
    # A locked lesson stays, and is found harmful again and again: the last figure counts.
    return list({(each.lesson.text, each.kept): each for each in found}.values())


def _settings(path: Path) -> dict[str, Any]:
    file = path / "config.toml"
    try:
        return tomllib.loads(_text(file)) if file.exists() else {}
    except tomllib.TOMLDecodeError as error:
        raise ArtifactError(f"{file} is damaged ({error}).") from error


def _answers(path: Path, evidence: Evidence) -> Answers:
    """
    The measured rollouts of rows that changed.

    A line names the library it ran under, not the arm; two arms may have the same one. What an example was
    measured with comes last.
    """
    differences = [arm.against for arm in evidence.results if arm.against]
    wanted = {id for found in differences for id in (*found.better, *found.worse)}
    lines: dict[tuple[str, str], list[Line]] = {}
    for line in _lines(path / "rollouts.jsonl", wanted):
        lines.setdefault((line.example, line.library), []).append(line)
    return {
        (example, arm.name): found[-evidence.samples :]
        for (example, library), found in lines.items()
        for arm in evidence.results
        if arm.version == library
    }


def _lines(file: Path, examples: Collection[str]) -> Iterator[Line]:
    if not examples or not file.exists():
        return
    try:
        with file.open(encoding="utf-8") as lines:
            for text in lines:
                data = json.loads(text)
                if data["example"] in examples:
                    yield _checked(Line, data, file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file, error) from error


def _parsed(kind: type[M], file: Path) -> M:
    try:
        data = json.loads(_text(file))
    except ValueError as error:
        raise _damaged(file, error) from error
    return _checked(kind, data, file)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(file, error) from error


def _checked(kind: type[M], data: Any, file: Path) -> M:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(file, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _damaged(file: Path, reason: object) -> ArtifactError:
    return ArtifactError(f"{file} is damaged ({reason}); run it again with the same --run.")
