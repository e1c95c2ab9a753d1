"""
Libraries brought together: a three-way merge by the ids of the lessons.

What only one side changed is taken from that side, field by field. What both sides changed in different ways is a
clash for people to decide, except that a lesson which one side locked stays as that side has it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgewise.experience.library.library import Effect, Lesson, Library, make_lesson
from edgewise.experience.library.near_duplicates import DuplicateIndex
from edgewise.experience.library.similarity import content_words

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

    @property
    def of_lesson(self) -> bool:
        """Whether it is about a lesson rather than a setting."""
        return isinstance(self.ours, Lesson) or isinstance(self.theirs, Lesson)

    def lines(self) -> list[str]:
        """For people."""
        sides = {"ours": self.ours, "theirs": self.theirs}
        return [
            f"! {self.subject}: {self.reason}",
            *(f"    {name + ':':7} {_words(value)}" for name, value in sides.items()),
        ]


@dataclass(frozen=True, slots=True)
class JoinedLessons:
    """Two lessons that said the same: `kept` as it now is, and the one that went into it."""

    kept: Lesson
    other: Lesson

    def line(self) -> str:
        """For people."""
        return f"= {self.kept.id}  {self.kept.text}  (joined with {self.other.id}: {self.other.text})"


@dataclass(frozen=True, slots=True)
class MergeResult:
    """
    The outcome of a merge. Where there are clashes, `library` has our side of them; see `settle`.

    `notes` says what was decided without asking.
    """

    library: Library
    conflicts: tuple[MergeConflict, ...] = ()
    joined: tuple[JoinedLessons, ...] = ()
    notes: tuple[str, ...] = ()


def merge(base: Library | None, ours: Library, theirs: Library) -> MergeResult:
    """
    Bring two libraries together that were both made from `base` (None: they have nothing in common).

    Every lesson of either side that the other did not delete is in the result, or joined with one that is.
    """
    if base == ours or ours == theirs:
        return MergeResult(theirs)
    if base == theirs:
        return MergeResult(ours)
    old, mine, other = (_by_id(x) for x in (base or Library(), ours, theirs))
    fates = {id: _fate(old.get(id), mine.get(id), other.get(id)) for id in _order(base, ours, theirs)}
    found = {id: fate.lesson for id, fate in fates.items() if fate.lesson}
    clashes = [fate.clash for fate in fates.values() if fate.clash]
    joined = _join_added(
        [x for id, x in mine.items() if id not in old and id not in other],
        [x for id, x in other.items() if id not in old and id not in mine],
    )
    found |= {each.kept.id: each.kept for each in joined}
    gone = {each.other.id for each in joined}
    settings, disputed = _settings(base, ours, theirs)
    return MergeResult(
        replace(settings, lessons=tuple(x for id, x in found.items() if id not in gone)),
        (*disputed, *clashes),
        tuple(joined),
        tuple(fate.note for fate in fates.values() if fate.note),
    )


def resolve_conflicts(merged: MergeResult, side: Side) -> Library:
    """The merged library with all clashes decided for one side."""
    library = merged.library
    for clash in merged.conflicts if side == "theirs" else ():
        if not clash.of_lesson:
            library = replace(library, **{clash.subject: clash.theirs})
            continue
        lessons = _by_id(library)
        if isinstance(clash.theirs, Lesson):
            lessons[clash.subject] = clash.theirs
        else:
            del lessons[clash.subject]
        library = library.with_lessons(lessons.values())
    return library


@dataclass(frozen=True, slots=True)
class AddResult:
    """
    What became of lessons that were brought into a library.

    `known` are those that were there already, word for word or as a lesson that was reworded since.
    """

    library: Library
    added: tuple[Lesson, ...] = ()
    joined: tuple[JoinedLessons, ...] = ()
    duplicates: tuple[Lesson, ...] = ()


def add_lessons(library: Library, lessons: Iterable[Lesson]) -> AddResult:
    """
    Add lessons from elsewhere to a library.

    One that says the same as a lesson of the library is joined with it: its sources go in, and its wording where
    that is locked or better measured. Otherwise the lessons that were there stay as they are.
    """
    found, twins = _by_id(library), DuplicateIndex(library.lessons)
    joined: list[JoinedLessons] = []
    known: list[Lesson] = []
    for new in lessons:
        if new.id in found and found[new.id].text != new.text:  # the id came from another first wording
            new = replace(new, id=make_lesson(new.text).id)
        same, near = found.get(new.id), _twin(twins, new)
        if same:
            known.append(new)
            found[same.id] = _into(same, new) if same.text == new.text else same
        elif near:
            here = found[near.id]
            winner, loser = (new, here) if _measured(new) > _measured(here) else (here, new)
            found[near.id] = replace(_into(winner, loser), id=near.id)
            twins.add(found[near.id])
            joined.append(JoinedLessons(found[near.id], new))
        else:
            found[new.id] = new
            twins.add(new)
    before = {x.id for x in library.lessons}
    entered = tuple(x for id, x in found.items() if id not in before)
    return AddResult(library.with_lessons(found.values()), entered, tuple(joined), tuple(known))


@dataclass(frozen=True, slots=True)
class _Fate:
    """What becomes of one lesson (None: it goes)."""

    lesson: Lesson | None
    clash: MergeConflict | None = None
    note: str = ""


def _fate(base: Lesson | None, ours: Lesson | None, theirs: Lesson | None) -> _Fate:
    if ours == theirs or theirs == base:
        return _Fate(ours)
    if ours == base:
        return _Fate(theirs)
    if base and not (ours and theirs):
        return _deleted(base, ours, theirs)
    assert ours and theirs
    return _changed(base, ours, theirs)


def _deleted(base: Lesson, ours: Lesson | None, theirs: Lesson | None) -> _Fate:
    """One side deleted the lesson and the other changed it."""
    kept = ours or theirs
    assert kept
    if _locked(base, kept):
        return _Fate(kept, note=f"{kept.id} is locked on one side and stays, though the other deleted it")
    if (_wording(kept), kept.always, kept.locked) == (_wording(base), base.always, base.locked):
        return _Fate(None, note=f"{kept.id} was deleted on one side and goes; the other only measured it")
    return _Fate(ours, MergeConflict(base.id, "changed on one side and deleted on the other", ours, theirs))


def _changed(base: Lesson | None, ours: Lesson, theirs: Lesson) -> _Fate:
    """Both sides have changed the lesson, or have made the same one with differences."""
    mine, other = _wording(ours), _wording(theirs)
    if mine == other:
        return _Fate(_shared(base, ours, theirs, _effect(base, ours, theirs)))
    as_ours = _shared(base, ours, theirs, ours.effect)
    as_theirs = _shared(base, theirs, ours, theirs.effect)
    if _locked(base, ours) != _locked(base, theirs):
        winner = as_ours if _locked(base, ours) else as_theirs
        return _Fate(winner, note=f"{winner.id} is locked on one side and keeps its wording: {winner.text}")
    if base and _wording(base) in (mine, other):
        return _Fate(as_theirs if _wording(base) == mine else as_ours)
    reason = "reworded differently on both sides" if base else "worded differently on the two sides"
    return _Fate(as_ours, MergeConflict(ours.id, reason, as_ours, as_theirs))


def _shared(base: Lesson | None, wording: Lesson, other: Lesson, effect: Effect | None) -> Lesson:
    """The lesson with the wording of one side and all that does not depend on the wording from both."""
    return replace(
        wording,
        born=min(wording.born, other.born),
        sources=_united(base.sources if base else (), wording.sources, other.sources),
        rollouts=_united(base.rollouts if base else (), wording.rollouts, other.rollouts),
        locked=_flag(base and base.locked, wording.locked, other.locked),
        always=_flag(base and base.always, wording.always, other.always),
        effect=effect,
    )


def _united(base: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, ...]:
    """What both have, and what either has that is new: what one side took away stays away."""
    return tuple(sorted((set(ours) & set(theirs)) | ((set(ours) ^ set(theirs)) - set(base))))


def _flag(base: bool | None, ours: bool, theirs: bool) -> bool:
    """The value that is new; without a base, on is."""
    return (ours or theirs) if not base else (ours and theirs)


def _effect(base: Lesson | None, ours: Lesson, theirs: Lesson) -> Effect | None:
    """The effect of a wording that both sides have: the new measurement, of two the one on more rollouts."""
    if base and _wording(base) == _wording(ours) and base.effect in (ours.effect, theirs.effect):
        return theirs.effect if base.effect == ours.effect else ours.effect
    return max(ours, theirs, key=_measured).effect


def _measured(lesson: Lesson) -> tuple[float, ...]:
    """How much a wording has for it: a lock, then rollouts it was measured on, then a narrow interval."""
    effect = lesson.effect
    if effect is None:
        return (lesson.locked,)
    uses = effect.uses + effect.unused
    return lesson.locked, uses, effect.low - effect.high, effect.estimate, effect.low, effect.uses


def _locked(base: Lesson | None, side: Lesson) -> bool:
    """Whether this side has put a lock on the lesson."""
    return side.locked and not (base and base.locked)


def _wording(lesson: Lesson) -> tuple[str, str]:
    return lesson.text, lesson.kind


def _join_added(ours: Sequence[Lesson], theirs: Sequence[Lesson]) -> list[JoinedLessons]:
    """Join lessons that both sides added in like words: in pairs, the likest texts first."""
    twins = DuplicateIndex(theirs)
    pairs = [(mine, other) for mine in ours for other in _twins(twins, mine)]
    free = {x.id for x in (*ours, *theirs)}
    joined = []
    for pair in sorted(pairs, key=_unlikeness):
        if {x.id for x in pair} <= free:
            free -= {x.id for x in pair}
            winner, loser = sorted(pair, key=lambda x: (_measured(x), x.text, x.id), reverse=True)
            joined.append(JoinedLessons(_into(winner, loser), loser))
    return joined


def _unlikeness(pair: tuple[Lesson, Lesson]) -> tuple[int, list[tuple[str, str]]]:
    """How many words differ; the rest gives the same order whichever side comes first."""
    first, second = (content_words(x.text) for x in pair)
    return len(first ^ second), sorted((x.text, x.id) for x in pair)


def _twins(twins: DuplicateIndex, lesson: Lesson) -> list[Lesson]:
    """Lessons that this one may be joined with: two locked ones stay as people wrote them, unless they are equal."""
    return [x for x in twins.find(lesson.text) if not (x.locked and lesson.locked) or x.text == lesson.text]


def _twin(twins: DuplicateIndex, lesson: Lesson) -> Lesson | None:
    return next(iter(_twins(twins, lesson)), None)


def _into(winner: Lesson, loser: Lesson) -> Lesson:
    return _shared(None, winner, loser, winner.effect)


def _order(base: Library | None, ours: Library, theirs: Library) -> list[str]:
    """All ids, in our order and then what is new; in theirs where only they changed the order."""
    mine, other = list(_by_id(ours)), list(_by_id(theirs))
    old = list(_by_id(base or Library()))
    moved = [[x for x in old if x in ids] != [x for x in ids if x in old] for ids in (mine, other)]
    first, second = (other, mine) if moved == [False, True] else (mine, other)
    return list(dict.fromkeys([*first, *second]))


def _settings(base: Library | None, ours: Library, theirs: Library) -> tuple[Library, list[MergeConflict]]:
    """Our library with the settings of both, and those that clash."""
    library, clashes = ours, list[MergeConflict]()
    for name in ("place", "labelled"):
        old, mine, other = (getattr(x, name, None) for x in (base, ours, theirs))
        if mine == other or other == old:
            continue
        if mine == old:
            library = replace(library, **{name: other})
        else:
            clashes.append(MergeConflict(name, "set differently on the two sides", mine, other))
    return library, clashes


def _by_id(library: Library) -> dict[str, Lesson]:
    return {x.id: x for x in library.lessons}


def _words(value: Lesson | str | bool | None) -> str:
    if isinstance(value, Lesson):
        return f"{value.text} ({value.kind}{', locked' if value.locked else ''})"
    return "deleted" if value is None else str(value)
