"""
Merge of libraries: three-way by the ids of the lessons, and the addition of lessons from elsewhere.

What only one side changed is taken from that side, field by field. What both sides changed in different ways is a
conflict for people to decide, except that a lesson which one side locked stays as that side has it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edgewise.experience.library.library import Effect, Lesson, Library, make_lesson
from edgewise.experience.library.similarity import DuplicateIndex, content_words

Side = Literal["ours", "theirs"]


@dataclass(frozen=True, slots=True)
class MergeConflict:
    """
    Two changes that contradict each other; a side that is None deleted the lesson.

    `subject` is the id of a lesson, or the name of a setting, whose values `ours` and `theirs` are then.
    """

    subject: str
    reason: str
    ours: Lesson | str | bool | None
    theirs: Lesson | str | bool | None

    def lines(self) -> list[str]:
        """Return the conflict as text: its subject, then a line for each side."""
        lines = [f"! {self.subject}: {self.reason}"]
        for name, value in (("ours", self.ours), ("theirs", self.theirs)):
            if isinstance(value, Lesson):
                text = f"{value.text} ({value.kind}{', locked' if value.locked else ''})"
            else:
                text = "deleted" if value is None else str(value)
            lines.append(f"    {name + ':':7} {text}")
        return lines


@dataclass(frozen=True, slots=True)
class JoinedLessons:
    """Two lessons that said the same: the one that stays, as it now is, and the one that went into it."""

    lesson: Lesson
    other: Lesson

    def line(self) -> str:
        """Return the pair as text."""
        return f"= {self.lesson.id}  {self.lesson.text}  (joined with {self.other.id}: {self.other.text})"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"kept": asdict(self.lesson), "other": asdict(self.other)}


@dataclass(frozen=True, slots=True)
class MergeResult:
    """
    The outcome of a merge. Where there are conflicts, `library` has our side of them; see `resolve_conflicts`.

    `notes` says what was decided without people.
    """

    library: Library
    conflicts: tuple[MergeConflict, ...] = ()
    joined: tuple[JoinedLessons, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AddResult:
    """
    The outcome of adding lessons to a library.

    `duplicates` are those that were there already, word for word or as a lesson that was reworded since.
    """

    library: Library
    added: tuple[Lesson, ...] = ()
    joined: tuple[JoinedLessons, ...] = ()
    duplicates: tuple[Lesson, ...] = ()


def merge(base: Library | None, ours: Library, theirs: Library) -> MergeResult:
    """
    Merge two libraries that were both made from `base` (None: they have nothing in common).

    Every lesson of either side that the other did not delete is in the result, or joined with one that is.
    """
    if base == ours or ours == theirs:
        return MergeResult(theirs)
    if base == theirs:
        return MergeResult(ours)

    # Each id by itself.
    old, mine, other = (_by_id(library) for library in (base or Library(), ours, theirs))
    lessons: dict[str, Lesson] = {}
    conflicts: list[MergeConflict] = []
    notes: list[str] = []
    for id in _order_ids(old, mine, other):
        lesson, conflict, note = _merge_lesson(old.get(id), mine.get(id), other.get(id))
        if lesson:
            lessons[id] = lesson
        if conflict:
            conflicts.append(conflict)
        if note:
            notes.append(note)

    # New lessons have different ids on the two sides even where both sides learned the same.
    joined = _join_added(
        [lesson for id, lesson in mine.items() if id not in old and id not in other],
        [lesson for id, lesson in other.items() if id not in old and id not in mine],
    )
    for pair in joined:
        lessons[pair.lesson.id] = pair.lesson
    for pair in joined:
        del lessons[pair.other.id]

    # The settings, by the same rule as lessons.
    library, setting_conflicts = ours.with_lessons(lessons.values()), list[MergeConflict]()
    for name in ("place", "labelled"):
        before, left, right = (getattr(library, name, None) for library in (base, ours, theirs))
        if right in (left, before):
            continue
        if left == before:
            library = replace(library, **{name: right})
        else:
            setting_conflicts.append(MergeConflict(name, "set differently on the two sides", left, right))
    return MergeResult(library, (*setting_conflicts, *conflicts), tuple(joined), tuple(notes))


def resolve_conflicts(merged: MergeResult, side: Side) -> Library:
    """Return the merged library with all conflicts decided for one side."""
    library = merged.library
    if side == "ours":  # which the merged library has already
        return library
    lessons = _by_id(library)
    for conflict in merged.conflicts:
        if isinstance(conflict.theirs, Lesson):
            lessons[conflict.subject] = conflict.theirs
        elif isinstance(conflict.ours, Lesson):
            del lessons[conflict.subject]
        else:
            library = replace(library, **{conflict.subject: conflict.theirs})
    return library.with_lessons(lessons.values())


def add_lessons(library: Library, lessons: Iterable[Lesson]) -> AddResult:
    """
    Add lessons from elsewhere to a library.

    One that says the same as a lesson of the library is joined with it: its sources go in, and its wording where
    that is locked or better measured. Otherwise the lessons that were there stay as they are.
    """
    result, index = _by_id(library), DuplicateIndex(library.lessons)
    joined: list[JoinedLessons] = []
    duplicates: list[Lesson] = []
    for new in lessons:
        # An id comes from a first wording, so another wording may have it there by chance of history.
        if new.id in result and result[new.id].text != new.text:
            new = replace(new, id=make_lesson(new.text).id)

        # Of one that is here by its id the sources go in; a wording that was changed here since stays as it is.
        same = result.get(new.id)
        near = next(iter(_find_joinable(index, new)), None)
        if same:
            duplicates.append(new)
            result[same.id] = _join(same, new) if same.text == new.text else same
        elif near:
            here = result[near.id]
            winner, loser = (new, here) if _rank(new) > _rank(here) else (here, new)
            result[near.id] = replace(_join(winner, loser), id=near.id)  # runs and labels know it by this id
            index.add(result[near.id])
            joined.append(JoinedLessons(result[near.id], new))
        else:
            result[new.id] = new
            index.add(new)
    old_ids = {x.id for x in library.lessons}
    added = tuple(lesson for id, lesson in result.items() if id not in old_ids)
    return AddResult(library.with_lessons(result.values()), added, tuple(joined), tuple(duplicates))


def _merge_lesson(
    base: Lesson | None, ours: Lesson | None, theirs: Lesson | None
) -> tuple[Lesson | None, MergeConflict | None, str]:
    """
    Return what becomes of one lesson (None: it goes), the conflict about it, and a note on what was decided.

        ours        theirs      result
        ----------  ----------  ------------------------------------------------------------------
        any         unchanged   ours; the same where both made the same change
        unchanged   any         theirs
        deleted     changed     changed where it is newly locked there; deleted where only the measurement, sources or
                                rollouts changed; else a conflict
        same words  same words  these words, other fields from both
        reworded    reworded    the newly locked one; the one that did change its words; else a conflict

    "Changed" and "deleted" hold the other way round too.
    """
    # At most one side has changed it.
    if ours == theirs or theirs == base:
        return ours, None, ""
    if ours == base:
        return theirs, None, ""

    # One side deleted the lesson. Both without it, or new on one side, are the cases above.
    if ours is None or theirs is None:
        survivor = ours or theirs
        assert base and survivor
        if survivor.locked and not base.locked:
            return (survivor, None, f"{survivor.id} is locked on one side and stays, though the other deleted it")
        if (_wording(survivor), survivor.always, survivor.locked) == (_wording(base), base.always, base.locked):
            return None, None, f"{survivor.id} was deleted on one side and goes; the other only measured it"
        reason = "changed on one side and deleted on the other"
        return ours, MergeConflict(base.id, reason, ours, theirs), ""

    # Both changed it, or both made it: fields that do not depend on the wording come from both.
    old_words, our_words, their_words = base and _wording(base), _wording(ours), _wording(theirs)
    if our_words == their_words:
        # The effect belongs to the wording: the new measurement, of two the one on more rollouts.
        effect = max(ours, theirs, key=_rank).effect
        if base and old_words == our_words and base.effect in (ours.effect, theirs.effect):
            effect = theirs.effect if base.effect == ours.effect else ours.effect
        return _combine(base, ours, theirs, effect), None, ""
    as_ours = _combine(base, ours, theirs, ours.effect)
    as_theirs = _combine(base, theirs, ours, theirs.effect)
    our_lock, their_lock = (side.locked and not (base and base.locked) for side in (ours, theirs))
    if our_lock != their_lock:
        winner = as_ours if our_lock else as_theirs
        return winner, None, f"{winner.id} is locked on one side and keeps its wording: {winner.text}"
    if old_words in (our_words, their_words):
        return as_theirs if old_words == our_words else as_ours, None, ""
    reason = "reworded differently on both sides" if base else "worded differently on the two sides"
    return as_ours, MergeConflict(ours.id, reason, as_ours, as_theirs), ""


def _combine(base: Lesson | None, wording: Lesson, other: Lesson, effect: Effect | None) -> Lesson:
    """
    Return the lesson with the wording of one side and all that does not depend on the wording from both.

    With base B and sides X and Y, a set becomes (X and Y) or ((X xor Y) less B): what both have, and what either
    has that is new; what one side took away stays away. A flag is such a set of at most one element.
    """
    old = base or replace(wording, sources=(), rollouts=(), locked=False, always=False)

    def unite(old: Sequence[str], one: Sequence[str], two: Sequence[str]) -> tuple[str, ...]:
        return tuple(sorted((set(one) & set(two)) | ((set(one) ^ set(two)) - set(old))))

    return replace(
        wording,
        born=min(wording.born, other.born),
        sources=unite(old.sources, wording.sources, other.sources),
        rollouts=unite(old.rollouts, wording.rollouts, other.rollouts),
        locked=(wording.locked and other.locked) or (wording.locked != other.locked and not old.locked),
        always=(wording.always and other.always) or (wording.always != other.always and not old.always),
        effect=effect,
    )


def _rank(lesson: Lesson) -> tuple[float, ...]:
    """Return how much a wording has for it: a lock, then rollouts of its measurement, then a narrow interval."""
    effect = lesson.effect
    if effect is None:
        return (lesson.locked,)
    # The last fields only break ties, so that both orders of the sides give the same winner.
    uses = effect.uses + effect.unused
    return lesson.locked, uses, effect.low - effect.high, effect.estimate, effect.low, effect.uses


def _wording(lesson: Lesson) -> tuple[str, str]:
    return lesson.text, lesson.kind


def _join_added(ours: Sequence[Lesson], theirs: Sequence[Lesson]) -> list[JoinedLessons]:
    """Join lessons that both sides added in like words: in pairs, greedily, the most alike first."""
    index = DuplicateIndex(theirs)
    pairs = [(mine, other) for mine in ours for other in _find_joinable(index, mine)]

    def distance(pair: tuple[Lesson, Lesson]) -> tuple[int, list[tuple[str, str]]]:
        # How many words differ; texts and ids give the same order whichever side comes first.
        first, second = (content_words(lesson.text) for lesson in pair)
        return len(first ^ second), sorted((lesson.text, lesson.id) for lesson in pair)

    free = {lesson.id for lesson in (*ours, *theirs)}
    joined = []
    for pair in sorted(pairs, key=distance):
        ids = {lesson.id for lesson in pair}
        if ids <= free:
            free -= ids
            winner, loser = sorted(pair, key=lambda x: (_rank(x), x.text, x.id), reverse=True)
            joined.append(JoinedLessons(_join(winner, loser), loser))
    return joined


def _find_joinable(index: DuplicateIndex, lesson: Lesson) -> list[Lesson]:
    """Return near-duplicates to join a lesson with. Two locked ones stay as people wrote them, unless equal."""
    return [x for x in index.find(lesson.text) if not (x.locked and lesson.locked) or x.text == lesson.text]


def _join(winner: Lesson, loser: Lesson) -> Lesson:
    return _combine(None, winner, loser, winner.effect)


def _order_ids(old: dict[str, Lesson], mine: dict[str, Lesson], other: dict[str, Lesson]) -> list[str]:
    """Return all ids, in our order and then what is new; in theirs where only they changed the order."""
    has_moved = [[id for id in old if id in side] != [id for id in side if id in old] for side in (mine, other)]
    first, second = (other, mine) if has_moved == [False, True] else (mine, other)
    return list(dict.fromkeys([*first, *second]))


def _by_id(library: Library) -> dict[str, Lesson]:
    return {lesson.id: lesson for lesson in library.lessons}
