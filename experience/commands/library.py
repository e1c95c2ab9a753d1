"""What `edgewise library` does; `toolkit.cli.app` resolves these names. A LIB is explained in `experience.store.reference`."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

from edgewise.experience.formats import library_files
from edgewise.experience.guard.guard import Guard
from edgewise.experience.library.diff import count_lessons, diff, summarize
from edgewise.experience.library.library import Effect, Lesson, Library, make_lesson
from edgewise.experience.library.merge import (
    AddResult,
    MergeResult,
    Side,
    add_lessons,
    merge,
    resolve_conflicts,
)
from edgewise.experience.store import history
from edgewise.experience.store.checkout import author_or_user
from edgewise.experience.store.reference import (
    LibraryReference,
    LoadedLibrary,
    format_location,
    is_run,
    load_from_store,
    load_library,
    load_named_libraries,
    open_store,
    parse_reference,
)
from edgewise.experience.store.store import Commit, StaleHead, Store
from edgewise.toolkit.cli.output import Output
from edgewise.toolkit.cli.progress import announce
from edgewise.toolkit.errors import ConfigError, Conflict, LibraryError


def show(lib: str) -> Output:
    """Return the lessons with all that is known of them; of an artefact with several libraries, those of each."""
    named = load_named_libraries(parse_reference(lib))
    if not named:
        return _show_library(_loaded(lib))
    outputs = {name: _show_library(loaded) for name, loaded in named.items()}
    lines = [line for name, output in outputs.items() for line in (f"{name}:", *output.text, "")]
    return Output(lines[:-1], {name: output.data for name, output in outputs.items()})


def _show_library(loaded: LoadedLibrary) -> Output:
    library = loaded.library
    head = f"{count_lessons(library)}, version {library.version}, place {library.place!r}"
    rows = [_row(label, x, loaded.steps) for label, x in library.labels().items()]
    data = {**library.to_json(), "version": library.version, "origin": loaded.origin, "steps": loaded.steps}
    return Output([head, *_table(TITLES, rows)], {**data, "commit": _as_json(loaded.commit)})


TITLES = ("label", "id", "kind", "age", "rows", "effect", "uses", "flags", "text")


def _row(label: str, x: Lesson, steps: int | None) -> tuple[str, ...]:
    age = "-" if steps is None else str(max(0, steps - x.born))
    marks = {"locked": x.locked, "always": x.always, "harmful": x.effect is not None and x.effect.high < 0}
    flags = " ".join(name for name, held in marks.items() if held) or "-"
    uses = str(x.effect.uses) if x.effect else "-"
    return label, x.id, x.kind, age, str(len(x.sources)), _effect(x.effect), uses, flags, x.text


def _effect(effect: Effect | None) -> str:
    return f"{effect.estimate:+.3f} ({effect.low:+.3f} to {effect.high:+.3f})" if effect else "-"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (titles, *rows)]


def log(lib: str) -> Output:
    """The commits of a store, the newest first, or the steps of a run."""
    operand = parse_reference(lib)
    if operand.is_store:
        with Store(operand.location) as store:
            newest = store.find_commit(operand.version or "head", operand.library_name)
            commits = [x for x in store.list_commits(operand.library_name) if x.number <= newest.number]
        entries = history.read_store_log(commits)
    elif is_run(operand.path):
        entries = history.read_run_log(operand.path)
    else:
        raise LibraryError(f"{lib} has no history; stores and run directories have.")
    lines = [line for each in entries for line in (each.text, *(f"     {more}" for more in each.details))]
    return Output(lines, [each.data for each in entries])


def compare(before: str, after: str) -> Output:
    """What differs between two libraries."""
    changes = diff(_loaded(before).library, _loaded(after).library)
    data = [asdict(change) for change in changes]
    return Output([line for change in changes for line in change.lines()] or ["no change"], data)


def export(lib: str, kind: str) -> str:
    """The library as text for another system; see `experience.formats.library_files.render`."""
    operand = parse_reference(lib)
    name = operand.name or (
        operand.path.resolve().name if "://" not in operand.location else "edgewise-lessons"
    )
    return library_files.render(_loaded(lib).library, kind, name.rsplit(".", 1)[0])


def rollback(lib: str, author: str | None) -> Output:
    """Append a version that is the same as an earlier one."""
    with open_store(lib) as (store, operand):
        if not operand.version:
            here = format_location(store, operand)
            raise ConfigError(f"Say which version to go back to: {here}@3, or {here}@head~1.")
        target = store.find_commit(operand.version, operand.library_name)
        message = f"roll back to version {target.number} ({target.id})"
        return _update(store, operand, lambda _: target.library, message, author)


def lock(lib: str, ids: Sequence[str], unlock: bool, always: bool | None, author: str | None) -> Output:
    """Lock lessons, so that only people change them, or unlock them; `always` sets whether they are always shown."""
    flags = {"locked": not unlock} | ({} if always is None else {"always": always})
    with open_store(lib) as (store, operand):
        head = _newest(store, operand).library
        chosen = list(dict.fromkeys(_lesson(head, id).id for id in ids))

        def change(library: Library) -> Library:
            for id in chosen:  # somebody may have been faster
                _lesson(library, id)
            return library.with_lessons(replace(x, **flags) if x.id in chosen else x for x in library.lessons)

        message = f"{'unlock' if unlock else 'lock'} {', '.join(chosen)}"
        return _update(store, operand, change, message, author)


def _lesson(library: Library, id: str) -> Lesson:
    """A lesson by its label, its id, or a beginning of it that no other id has."""
    found = [x for label, x in library.labels().items() if id in (label, x.id)]
    found = found or [x for x in library.lessons if id and x.id.startswith(id)]
    if len(found) == 1:
        return found[0]
    reason = "is the beginning of several ids" if found else "is no lesson of it"
    raise LibraryError(f"{id!r} {reason}; edgewise library show prints the ids.")


@dataclass(slots=True)
class _Report:
    """What became of the lessons of a file."""

    read: LoadedLibrary
    blocked: list[tuple[Lesson, str]] = field(default_factory=list)
    redacted: list[tuple[Lesson, str]] = field(default_factory=list)
    result: AddResult = field(default_factory=lambda: AddResult(Library()))

    def lines(self) -> list[str]:
        """For people."""
        return [
            *(f"+ {x.id}  {x.text}" for x in self.result.added),
            *(each.line() for each in self.result.joined),
            *(f"  {x.id}  {x.text}  (was there already)" for x in self.result.duplicates),
            *(f"~ {x.id}  {x.text}  (redacted: {reason})" for x, reason in self.redacted),
            *(f"- {x.id}  {x.text}  (blocked: {reason})" for x, reason in self.blocked),
            *self.read.notes,
        ]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "from": self.read.origin,
            "entered": [asdict(x) for x in self.result.added],
            "joined": [each.to_json() for each in self.result.joined],
            "known": [asdict(x) for x in self.result.duplicates],
            "redacted": [{"lesson": asdict(x), "reason": reason} for x, reason in self.redacted],
            "blocked": [{"lesson": asdict(x), "reason": reason} for x, reason in self.blocked],
            "notes": list(self.read.notes),
        }


def import_library(source: str, lib: str, message: str | None, author: str | None, dry_run: bool) -> Output:
    """Bring the lessons of a file, an artefact or a run into a store, which is made where there is none."""
    report = _Report(load_library(parse_reference(source)))
    lessons = _guarded(report)

    def change(library: Library) -> Library:
        if not library.lessons:  # nothing to keep to: the place comes along
            library = report.read.library.with_lessons(())
        report.result = add_lessons(library, lessons)
        return report.result.library

    with open_store(lib) as (store, operand):
        _check_newest(operand)
        if dry_run:
            head = store.head(operand.library_name)
            change(head.library if head else Library())
            ended = Output(["nothing was committed (--dry-run)"], {"commit": None})
        else:
            ended = _update(store, operand, change, message or f"import {report.read.origin}", author)
    return Output([*report.lines(), *ended.lines()], {**report.to_json(), **ended.to_json()})


def _guarded(report: _Report, known: Library | None = None) -> list[Lesson]:
    """
    The lessons that may enter, redacted where they must be; the report never repeats what was taken out.

    What `known` holds word for word was checked before; of a lesson that is blocked its wording there stays.
    """
    guard, kept = Guard.from_examples(), []
    there = {x.id: x for x in (known or Library()).lessons}
    for x in report.read.library.lessons:
        if x.id in there and there[x.id].text == x.text:
            kept.append(x)
            continue
        checked = guard.check(x.text)
        same = checked.text == x.text
        # What was measured, and the id of a first wording, belong to the text that was there before.
        safe = x if same else replace(x, text=checked.text, id=make_lesson(checked.text).id, effect=None)
        if checked.is_blocked or not safe.text.strip():
            report.blocked.append((safe, checked.reason))
            kept += [there[x.id]] if x.id in there else []
            continue
        if not same:
            report.redacted.append((safe, checked.reason))
        kept.append(safe)
    return kept


def merge_libraries(
    lib: str, other: str, base: str | None, take: str | None, message: str | None, author: str | None
) -> Output:
    """
    Merge another library into one of a store.

    Raises Conflict, and changes nothing, where both changed the same thing and `take` names no side.
    """
    if take is not None and take not in get_args(Side):
        raise ConfigError(f"--take is ours or theirs, not {take!r}.")
    theirs = load_library(parse_reference(other))
    with open_store(lib) as (store, operand):
        while True:
            ours = _newest(store, operand)
            common = (
                load_library(parse_reference(base)).library
                if base
                else _base(store, operand, ours, parse_reference(other), theirs)
            )
            report = _Report(theirs)
            safe = theirs.library.with_lessons(_guarded(report, ours.library))
            merged = merge(common, ours.library, theirs.library if theirs.commit else safe)
            library = _settled(merged, take)
            if library == ours.library and not merged.conflicts:  # what was settled is worth a version
                ended = _unchanged(store, operand, ours)
                return Output([*([] if theirs.commit else report.lines()), *ended.lines()], ended.to_json())
            try:
                commit = store.commit(
                    library,
                    message or f"merge {theirs.origin}",
                    parent=ours.id,
                    name=operand.library_name,
                    author=author_or_user(author),
                    merged=theirs.commit.id if theirs.commit else theirs.origin,
                )
            except StaleHead:  # somebody was faster: merge into what is there now
                continue
            return _merged(merged, [] if theirs.commit else report.lines(), store, operand, ours, commit)


def _settled(merged: MergeResult, take: Any) -> Library:
    if not merged.conflicts or take:
        return resolve_conflicts(merged, take or "ours")
    announce(line for clash in merged.conflicts for line in clash.lines())
    raise Conflict(
        f"Both sides changed the same in {len(merged.conflicts)} of the places above, so nothing was merged: "
        "give --take ours or --take theirs, or change one side first."
    )


def _merged(
    merged: MergeResult,
    guarded: Sequence[str],
    store: Store,
    operand: LibraryReference,
    ours: Commit,
    commit: Commit,
) -> Output:
    changes = diff(ours.library, commit.library)
    lines = [*(line for change in changes for line in change.lines()), *guarded]
    lines += [*(each.line() for each in merged.joined), *merged.notes]
    lines += [f"settled: {clash.subject} ({clash.reason})" for clash in merged.conflicts]
    data = {
        "changes": [asdict(change) for change in changes],
        "joined": [each.to_json() for each in merged.joined],
        "notes": list(merged.notes),
        "settled": [asdict(clash) for clash in merged.conflicts],
        "commit": _as_json(commit),
    }
    return Output([*lines, _version(store, operand, commit)], data)


def _base(
    store: Store, operand: LibraryReference, ours: Commit, other: LibraryReference, theirs: LoadedLibrary
) -> Library | None:
    """What both were made from: a version that both have, or one that an artefact names; None where there is none."""
    if theirs.commit is None:
        return next(
            (x.library for x in store.list_commits(operand.library_name) if x.id in theirs.parents), None
        )
    with Store(other.location) as second:
        if any(x.id == theirs.commit.id for x in store.list_commits(other.library_name)):
            common = store.common_ancestor(ours.id, theirs.commit.id)
            return common.library if common else None
        # Another database with the same commits: a copy of this one, or the other way round.
        known = {x.id for x in store.list_commits(operand.library_name)}
        versions = [x for x in second.list_commits(other.library_name) if x.number <= theirs.commit.number]
        return next((x.library for x in versions if x.id in known), None)


def _update(
    store: Store,
    operand: LibraryReference,
    change: Callable[[Library], Library],
    message: str,
    author: str | None,
) -> Output:
    """Commit a change of the newest version, unless it changes nothing."""
    before = Library()

    def changed(library: Library) -> Library:
        nonlocal before
        before, after = library, change(library)
        if after == library:
            raise _Same
        return after

    try:
        commit = store.update(changed, message, name=operand.library_name, author=author_or_user(author))
    except _Same:
        return _unchanged(store, operand, store.head(operand.library_name))
    changed_by = summarize(diff(before, commit.library))
    return Output([f"{_version(store, operand, commit)} ({changed_by})"], {"commit": _as_json(commit)})


class _Same(Exception):
    """A change that changes nothing."""


def _unchanged(store: Store, operand: LibraryReference, head: Commit | None) -> Output:
    there = f"it has version {head.number} ({head.id})" if head else "nothing was committed"
    return Output([f"{format_location(store, operand)} stays as it is: {there}"], {"commit": None})


def _check_newest(operand: LibraryReference) -> None:
    if operand.version:
        raise ConfigError(f"Only the newest version can be changed: leave out @{operand.version}.")


def _newest(store: Store, operand: LibraryReference) -> Commit:
    """The head, which is what changes are made to."""
    _check_newest(operand)
    commit = load_from_store(store, operand).commit
    assert commit
    return commit


def _loaded(lib: str) -> LoadedLibrary:
    found = load_library(parse_reference(lib))
    if found.notes:
        announce(found.notes)
    return found


def _version(store: Store, operand: LibraryReference, commit: Commit) -> str:
    return f"{format_location(store, operand)} has version {commit.number} ({commit.id}): {count_lessons(commit.library)}"


def _as_json(commit: Commit | None) -> dict[str, Any] | None:
    if commit is None:
        return None
    return {"id": commit.id, "name": commit.name, "number": commit.number, "message": commit.message}
