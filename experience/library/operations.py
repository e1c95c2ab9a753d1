"""
Operations on a library: Add, Modify, Delete, Keep, each either applied or reported with the reason why not.

Nothing is lost on the way: a Delete needs no text, an unknown id is reported and never turned into an Add, one
object in place of a list is a list of one.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from edgewise.experience.guard.guard import Guard
from edgewise.experience.library.library import Kind, Lesson, Library, make_lesson
from edgewise.experience.library.similarity import is_near_duplicate
from edgewise.toolkit.util.validation import describe_error

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

    @field_validator("action", "id", "kind", "text", mode="before")
    @classmethod
    def normalize(cls, value: Any, info: ValidationInfo) -> Any:
        """Read the spellings that models use: "UPDATE", "[G0].", null for no text, a kind of their own."""
        match info.field_name:
            case "action":
                word = str(value).strip().lower()
                return SYNONYMS.get(word, word)
            case "id":
                return None if value is None else str(value).strip().strip("[].") or None
            case "kind":
                return value if value in get_args(Kind) else None
            case _:
                return " ".join(str(value or "").split())


@dataclass(frozen=True, slots=True)
class OperationOutcome:
    """The outcome of one operation; `reason` says why it was not applied, or not as it stood."""

    operation: Operation
    applied: bool
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data for the step's record."""
        return {**self.operation.model_dump(), "applied": self.applied, "reason": self.reason}


class OperationError(ValueError):
    """A reply holds no list of operations; the message says what is wrong, for a second try."""


def parse(text: str) -> tuple[Operation, ...]:
    """
    Read operations from a reply: a JSON array, or one object, anywhere in it.

    Raises OperationError where there is none, or where one of them breaks the schema.
    """
    # The first bracket from which JSON can be read, since words or a code fence may stand around it.
    decoder = json.JSONDecoder(strict=False)  # models put line breaks into strings
    for match in re.finditer(r"[\[{]", text):
        try:
            data = decoder.raw_decode(text, match.start())[0]
            break
        except (ValueError, RecursionError):  # a bracket of a sentence, or thousands of them
            continue
    else:
        raise OperationError("there is no JSON array in the reply")

    # {"operations": [...]} is a list, {"action": ...} one operation, whatever lists it has.
    if isinstance(data, dict):
        is_operation = data.keys() & set(ACTION_KEYS)
        lists = [] if is_operation else [value for value in data.values() if isinstance(value, list)]
        data = lists[0] if lists else [data]
    try:
        return tuple(Operation.model_validate(item) for item in data)
    except ValidationError as error:
        raise OperationError(describe_error(error, root="an operation")) from error


def apply(
    library: Library, operations: Sequence[Operation], *, born: int, words: int = 32, guard: Guard | None = None
) -> tuple[Library, tuple[OperationOutcome, ...]]:
    """
    Apply operations in order and return the library with the outcome of each.

    `born` is the step that new lessons are marked with, `words` the most a lesson may have. A deletion wins
    over any other operation on the same lesson; a locked lesson stays as it is. `guard` blocks or redacts
    new wording before it enters.
    """
    # Labels belong to the library that the model was shown, so they are resolved before anything changes.
    ids = {x.id: x.id for x in library.lessons} | {label: x.id for label, x in library.labels().items()}
    lessons = {x.id: x for x in library.lessons}

    # Deletions are collected first and carried out last: they win wherever they stand in the list.
    locked = {x.id for x in library.lessons if x.locked}
    deletions = {ids[op.id] for op in operations if op.action == "delete" and op.id in ids} - locked

    edit = _Edit(lessons, deletions, born, words, guard)
    outcomes = []
    for operation in operations:
        id = ids.get(operation.id or "")
        if operation.action == "add":
            outcome = edit.add(operation)
        elif id is None:
            outcome = OperationOutcome(operation, False, f"there is no lesson {operation.id!r}")
        elif operation.action != "keep" and lessons[id].locked:
            outcome = OperationOutcome(operation, False, "the lesson is locked")
        elif operation.action == "modify":
            outcome = edit.modify(operation, id)
        else:  # keep, or a deletion that is carried out below
            outcome = OperationOutcome(operation, True)
        outcomes.append(outcome)
    return library.with_lessons(x for x in lessons.values() if x.id not in deletions), tuple(outcomes)


@dataclass(frozen=True, slots=True)
class _Edit:
    """The lessons by id while operations are applied to them; `deletions` are the ids of those that go at the end."""

    lessons: dict[str, Lesson]
    deletions: set[str]
    born: int
    words: int
    guard: Guard | None

    def add(self, operation: Operation) -> OperationOutcome:
        """Add a new lesson, or its sources to a lesson that says the same."""
        text, note, is_blocked = self.check(operation.text)
        if is_blocked or not text:
            return OperationOutcome(operation, False, note or "no text")

        # Redaction may have made it equal to another, so the check comes before the search for duplicates.
        new = add_evidence(make_lesson(text, operation.kind or "content", self.born), operation)
        others = (x for x in self.lessons.values() if x.id not in self.deletions)
        same = next((x for x in others if is_near_duplicate(x.text, new.text)), None)
        if same:
            self.lessons[same.id] = add_evidence(same, operation)
            return OperationOutcome(operation, False, f"joined with {same.id}, which says the same")
        if new.id in self.deletions:
            return OperationOutcome(operation, False, "deleted by another operation of the same step")

        # A lesson that has been reworded since keeps the id of its first wording, so this one needs another.
        while new.id in self.lessons:
            new = replace(new, id=make_lesson(f"{new.id} {new.text}").id)
        self.lessons[new.id] = new
        return OperationOutcome(operation, True, note)

    def modify(self, operation: Operation, id: str) -> OperationOutcome:
        """Reword a lesson and add to its sources."""
        if id in self.deletions:
            return OperationOutcome(operation, False, "deleted by another operation of the same step")
        if not operation.text:
            return OperationOutcome(operation, False, "no new text")
        text, note, is_blocked = self.check(operation.text)
        if is_blocked:
            return OperationOutcome(operation, False, note)

        old = self.lessons[id]
        effect = old.effect if text == old.text else None  # a measurement belongs to its wording
        new = replace(old, text=text, kind=operation.kind or old.kind, effect=effect)
        self.lessons[id] = add_evidence(new, operation)
        return OperationOutcome(operation, True, note)

    def check(self, text: str) -> tuple[str, str, bool]:
        """Return new wording as it may enter, a note on what was done to it, and whether it is blocked."""
        text, note = shorten(text, self.words)
        if self.guard is None:
            return text, note, False
        result = self.guard.check(text)
        return result.text, "; ".join(filter(None, (note, result.reason))), result.is_blocked


def add_evidence(lesson: Lesson, operation: Operation) -> Lesson:
    """Return a lesson with the examples and rollouts of an operation added to its own."""
    return replace(
        lesson,
        sources=tuple(sorted({*lesson.sources, *operation.sources})),
        rollouts=tuple(sorted({*lesson.rollouts, *operation.rollouts})),
    )


def record_removal(lesson: Lesson, lessons: int, tokens: int) -> OperationOutcome:
    """Return the outcome of a lesson that the library had no room for within `lessons` and `tokens`."""
    worth = f"its effect is {lesson.effect.estimate:+.3f}" if lesson.effect else "its effect is not measured"
    reason = f"no room within {lessons} lessons and {tokens:,} tokens; {worth}"
    return OperationOutcome(Operation(action="delete", id=lesson.id, text=lesson.text), True, reason)


def shorten(text: str, words: int) -> tuple[str, str]:
    """Return a text within `words` words, cut at a sentence's end where one fits, and a note if it was cut."""
    split = text.split()
    if len(split) <= words:
        return " ".join(split), ""
    # A sentence's end in the first half would lose more than an unfinished sentence does.
    cut = " ".join(split[:words])
    end = max(cut.rfind(mark) for mark in (". ", "; ", "! "))
    return (cut[: end + 1] if end > len(cut) // 2 else cut), f"cut from {len(split)} to {words} words"


def as_json(outcomes: Sequence[OperationOutcome]) -> list[dict[str, Any]]:
    """Return outcomes as plain data."""
    return [outcome.to_json() for outcome in outcomes]
