"""What differs between two libraries, lesson by lesson."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from edgewise.experience.library.library import Effect, Lesson, Library

LIBRARY = ""
"""The subject of a change of the library itself."""


@dataclass(frozen=True, slots=True)
class Change:
    """
    One difference: `before` and `after` are values of the field `what` of the lesson with the id `subject`.

    `what` is "lesson" for one that was added (before is None) or removed (after is None). Changes of the library
    itself have the subject "" and are about place, labelled, or the order of the lessons (ids).
    """

    subject: str
    what: str
    before: Any
    after: Any

    def lines(self) -> list[str]:
        """For people: "+" added, "-" removed, "~" reworded, "*" a setting."""
        match self:
            case Change(_, "lesson", None, lesson):
                return [f"+ {_lesson(lesson)}"]
            case Change(_, "lesson", lesson, None):
                return [f"- {_lesson(lesson)}"]
            case Change(subject, "text", before, after):
                return [f"~ {subject}  {before}", f"  {'becomes':>{len(subject)}}  {after}"]
            case Change("", "order", _, _):
                return ["* the order of the lessons"]
            case Change(subject, what, before, after):
                return [f"* {subject or 'library'}  {what}: {_value(before)} becomes {_value(after)}"]
        raise AssertionError(self)


def diff(before: Library, after: Library) -> tuple[Change, ...]:
    """All changes from one library to another; none exactly where they are equal."""
    return tuple(_changes(before, after))


def summarize(changes: tuple[Change, ...]) -> str:
    """The size of a change in a few signs: +1 -2 ~3 *1, or "no change"."""
    signs = [line[0] for change in changes for line in change.lines()[:1]]
    counts = {sign: signs.count(sign) for sign in "+-~*"}
    return " ".join(f"{sign}{count}" for sign, count in counts.items() if count) or "no change"


def count_lessons(library: Library) -> str:
    """How many lessons there are, in words."""
    return f"{len(library)} lesson{'' if len(library) == 1 else 's'}"


def _changes(before: Library, after: Library) -> Iterator[Change]:
    for name in ("place", "labelled"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield Change(LIBRARY, name, old, new)
    old, new = ({x.id: x for x in library.lessons} for library in (before, after))
    yield from (Change(id, "lesson", x, None) for id, x in old.items() if id not in new)
    for id, lesson in new.items():
        if id not in old:
            yield Change(id, "lesson", None, lesson)
            continue
        pairs = ((f.name, getattr(old[id], f.name), getattr(lesson, f.name)) for f in fields(Lesson))
        yield from (Change(id, name, a, b) for name, a, b in pairs if a != b)
    stayed, now = [id for id in old if id in new], [id for id in new if id in old]
    if stayed != now:
        yield Change(LIBRARY, "order", tuple(stayed), tuple(now))


def _lesson(lesson: Lesson) -> str:
    return f"{lesson.id}  {lesson.text}"


def _value(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case tuple():
            return str(len(value))
        case Effect(estimate, low, high):
            return f"{estimate:+.2f} ({low:+.2f} to {high:+.2f})"
    return str(value)
