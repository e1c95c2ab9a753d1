"""
Operations on a library: Add, Modify, Delete, Keep, each either applied or reported with the reason why not.

Nothing is lost on the way: a Delete needs no text, an unknown id is reported and never turned into an Add, one
object in place of a list is a list of one.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from edgewise.experience.guard.guard import Guard
from edgewise.experience.library.library import Kind, Lesson, Library, make_lesson
from edgewise.experience.library.similarity import is_near_duplicate

Action = Literal["add", "modify", "delete", "keep"]
SYNONYMS = {"update": "modify", "merge": "modify", "remove": "delete", "none": "keep"}
ACTION_KEYS = ("action", "operation", "option", "op")


class Operation(BaseModel):
    """One change that a model proposes; `id` is a label (G0) of the library it was shown, or a stable id."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    action: Action = Field(validation_alias=AliasChoices(*ACTION_KEYS))
    id: str | None = None
    text: str = Field("", validation_alias=AliasChoices("text", "content", "experience", "lesson"))
    kind: Kind | None = None
    sources: tuple[str, ...] = ()
    rollouts: tuple[str, ...] = ()

    @field_validator("action", mode="before")
    @classmethod
    def _synonym(cls, value: Any) -> Any:
        word = str(value).strip().lower()
        return SYNONYMS.get(word, word)

    @field_validator("id", mode="before")
    @classmethod
    def _bare_id(cls, value: Any) -> Any:
        return str(value).strip().strip("[].") or None if value is not None else None

    @field_validator("kind", mode="before")
    @classmethod
    def _known_kind(cls, value: Any) -> Any:
        return value if value in get_args(Kind) else None

    @field_validator("text", mode="before")
    @classmethod
    def _no_null(cls, value: Any) -> Any:
        return " ".join(str(value or "").split())


@dataclass(frozen=True, slots=True)
class OperationOutcome:
    """What became of one operation; `reason` says why where it was not applied as it stood."""

    operation: Operation
    applied: bool
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data for the step's record."""
        return {**self.operation.model_dump(), "applied": self.applied, "reason": self.reason}


class OperationError(ValueError):
    """A reply holds no list of operations; the message says what is wrong, for a second try."""


def parse(text: str) -> tuple[Operation, ...]:
    """
    Read operations from a reply: a JSON array, or one object, anywhere in it.

    Raises NotOperations where there is none, or where one of them breaks the schema.
    """
    data = _first_json(text)
    if isinstance(data, dict):
        lists = [] if data.keys() & set(ACTION_KEYS) else [v for v in data.values() if isinstance(v, list)]
        data = lists[0] if lists else [data]
    try:
        return tuple(Operation.model_validate(item) for item in data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "an operation"
        raise OperationError(f"{where}: {first['msg']}") from error


def _first_json(text: str) -> Any:
    """The first JSON array or object in a text that may have words or a code fence around it."""
    decoder = json.JSONDecoder(strict=False)
    for start in (match.start() for match in re.finditer(r"[\[{]", text)):
        try:
            return decoder.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            continue
    raise OperationError("there is no JSON array in the reply")


def apply(
    library: Library,
    operations: Sequence[Operation],
    *,
    born: int,
    words: int = 32,
    guard: Guard | None = None,
) -> tuple[Library, tuple[OperationOutcome, ...]]:
    """
    Apply operations in order and say what became of each.

    `born` is the step that new lessons are marked with, `words` the longest a lesson may be. A deletion wins
    over any other operation on the same lesson; a locked lesson is left as it is. `guard` blocks or redacts
    new wording before it enters.
    """
    labels = library.labels()
    known = {**{x.id: x.id for x in library.lessons}, **{label: x.id for label, x in labels.items()}}
    locked = {x.id for x in library.lessons if x.locked}
    gone = {known[op.id] for op in operations if op.action == "delete" and op.id in known} - locked
    lessons = {x.id: x for x in library.lessons}

    def word(text: str) -> _Worded:
        return _worded(text, words, guard)

    outcomes = [_apply_one(lessons, known, gone, op, born, word) for op in operations]
    kept = tuple(x for x in lessons.values() if x.id not in gone)
    return replace(library, lessons=kept), tuple(outcomes)


def _apply_one(
    lessons: dict[str, Lesson],
    known: dict[str, str],
    gone: set[str],
    op: Operation,
    born: int,
    word: Callable[[str], "_Worded"],
) -> OperationOutcome:
    if op.action == "add":
        return _add(lessons, gone, op, born, word)
    target = known.get(op.id or "")
    if target is None:
        return OperationOutcome(op, False, f"there is no lesson {op.id!r}")
    if op.action != "keep" and lessons[target].locked:
        return OperationOutcome(op, False, "the lesson is locked")
    if op.action == "modify" and target in gone:
        return OperationOutcome(op, False, "deleted by another operation of the same step")
    if op.action == "modify" and not op.text:
        return OperationOutcome(op, False, "no new text")
    if op.action == "modify":
        old, worded = lessons[target], word(op.text)
        if worded.blocked:
            return OperationOutcome(op, False, worded.note)
        # What was measured belongs to the wording.
        effect = old.effect if worded.text == old.text else None
        new = replace(old, text=worded.text, kind=op.kind or old.kind, effect=effect)
        lessons[target] = _joined(new, op.sources, op.rollouts)
        return OperationOutcome(op, True, worded.note)
    return OperationOutcome(op, True)


def _add(
    lessons: dict[str, Lesson], gone: set[str], op: Operation, born: int, word: Callable[[str], "_Worded"]
) -> OperationOutcome:
    worded = word(op.text)
    if worded.blocked or not worded.text:
        return OperationOutcome(op, False, worded.note or "no text")
    new = _joined(make_lesson(worded.text, op.kind or "content", born), op.sources, op.rollouts)
    twin = next((x for x in lessons.values() if x.id not in gone and is_near_duplicate(x.text, new.text)), None)
    if twin:
        lessons[twin.id] = _joined(twin, new.sources, new.rollouts)
        return OperationOutcome(op, False, f"joined with {twin.id}, which says the same")
    if new.id in gone:
        return OperationOutcome(op, False, "deleted by another operation of the same step")
    # A lesson that has been reworded since keeps its id, so this one needs another.
    while new.id in lessons:
        new = replace(new, id=make_lesson(f"{new.id} {new.text}").id)
    lessons[new.id] = new
    return OperationOutcome(op, True, worded.note)


def record_removal(lesson: Lesson, lessons: int, tokens: int) -> OperationOutcome:
    """The outcome of a lesson that the library had no room for."""
    worth = f"its effect is {lesson.effect.estimate:+.3f}" if lesson.effect else "its effect is not measured"
    reason = f"no room within {lessons} lessons and {tokens:,} tokens; {worth}"
    return OperationOutcome(Operation(action="delete", id=lesson.id, text=lesson.text), True, reason)


@dataclass(frozen=True, slots=True)
class _Worded:
    """New wording as it may enter, and what was done to it."""

    text: str
    note: str = ""
    blocked: bool = False


def _worded(text: str, words: int, guard: Guard | None) -> _Worded:
    text, cut = shorten(text, words)
    if guard is None:
        return _Worded(text, cut)
    checked = guard.check(text)
    notes = [cut, checked.reason] if checked.findings else [cut]
    return _Worded(checked.text, "; ".join(filter(None, notes)), checked.is_blocked)


def _joined(lesson: Lesson, sources: Sequence[str], rollouts: Sequence[str]) -> Lesson:
    """The lesson with more of the examples and runs that it was drawn from."""
    return replace(
        lesson,
        sources=tuple(sorted({*lesson.sources, *sources})),
        rollouts=tuple(sorted({*lesson.rollouts, *rollouts})),
    )


def shorten(text: str, words: int) -> tuple[str, str]:
    """The text within `words` words, cut at a sentence's end where one fits, and a note if it was cut."""
    split = text.split()
    if len(split) <= words:
        return " ".join(split), ""
    cut = " ".join(split[:words])
    end = max(cut.rfind(mark) for mark in (". ", "; ", "! "))
    return (cut[: end + 1] if end > len(cut) // 2 else cut), f"cut from {len(split)} to {words} words"


def as_json(outcomes: Sequence[OperationOutcome]) -> list[dict[str, Any]]:
    """Outcomes as plain data."""
    return [outcome.to_json() for outcome in outcomes]
