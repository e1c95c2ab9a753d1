"""Differences between two libraries, lesson by lesson."""

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
        """Return the change as text: "+" added, "-" removed, "~" reworded, "*" a setting."""
        match self:
            case Change(_, "lesson", None, lesson):
                return [f"+ {lesson.id}  {lesson.text}"]
            case Change(_, "lesson", lesson, None):
                return [f"- {lesson.id}  {lesson.text}"]
            case Change(subject, "text", before, after):
                return [f"~ {subject}  {before}", f"  {'becomes':>{len(subject)}}  {after}"]
            case Change("", "order", _, _):
                return ["* the order of the lessons"]
            case Change(subject, what, before, after):
                values = f"{_render_value(before)} becomes {_render_value(after)}"
                return [f"* {subject or 'library'}  {what}: {values}"]
        raise AssertionError(self)


def diff(before: Library, after: Library) -> tuple[Change, ...]:
    """Return all changes from one library to another; none exactly where they are equal."""
    settings = ((name, getattr(before, name), getattr(after, name)) for name in ("place", "labelled"))
    changes = [Change(LIBRARY, name, old, new) for name, old, new in settings if old != new]

    # Removed lessons, then lessons of the new library in its order: added ones whole, others by their fields.
    old, new = ({x.id: x for x in library.lessons} for library in (before, after))
    changes += [Change(id, "lesson", lesson, None) for id, lesson in old.items() if id not in new]
    for id, lesson in new.items():
        if id not in old:
            changes.append(Change(id, "lesson", None, lesson))
            continue
        pairs = ((field.name, getattr(old[id], field.name), getattr(lesson, field.name)) for field in fields(Lesson))
        changes += [Change(id, name, a, b) for name, a, b in pairs if a != b]

    # Additions and removals move nothing: the order is compared on what both have.
    common_before, common_after = [id for id in old if id in new], [id for id in new if id in old]
    if common_before != common_after:
        changes.append(Change(LIBRARY, "order", tuple(common_before), tuple(common_after)))
    return tuple(changes)


def summarize(changes: tuple[Change, ...]) -> str:
    """Return the size of a change in a few signs: +1 -2 ~3 *1, or "no change"."""
    signs = [line[0] for change in changes for line in change.lines()[:1]]
    counts = {sign: signs.count(sign) for sign in "+-~*"}
    return " ".join(f"{sign}{count}" for sign, count in counts.items() if count) or "no change"


def count_lessons(library: Library) -> str:
    """Return how many lessons there are, in words."""
    return f"{len(library)} lesson{'' if len(library) == 1 else 's'}"


def _render_value(value: Any) -> str:
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
