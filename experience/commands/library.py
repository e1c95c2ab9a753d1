"""`edgewise library`: show, log, diff, export, rollback, lock, import, merge. LIB: see `experience.store.reference`."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

from edgewise.experience.formats import library_files
from edgewise.experience.guard.guard import Guard
from edgewise.experience.library.diff import count_lessons, diff, summarize
from edgewise.experience.library.library import Lesson, Library, make_lesson
from edgewise.experience.library.merge import AddResult, Side, add_lessons, merge, resolve_conflicts
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

TITLES = ("label", "id", "kind", "age", "rows", "effect", "uses", "flags", "text")


# ---- reading ---------------------------------------------------------------------------------------


def show(lib: str) -> Output:
    """Return the lessons with all their fields; for an artefact with several libraries, those of each."""
    named = load_named_libraries(parse_reference(lib))
    # An artefact of two levels has a library for each.
    if not named:
        return render_library(load(lib))
    outputs = {name: render_library(loaded) for name, loaded in named.items()}
    lines = [line for name, output in outputs.items() for line in (f"{name}:", *output.text, "")]
    return Output(lines[:-1], {name: output.data for name, output in outputs.items()})


def render_library(loaded: LoadedLibrary) -> Output:
    """Return one library as a table; the age of a lesson, in steps, is known only within its run."""
    library = loaded.library
    rows: list[tuple[str, ...]] = [TITLES]
    for label, x in library.labels().items():
        age = "-" if loaded.steps is None else str(max(0, loaded.steps - x.born))
        effect, uses = "-", "-"
        if x.effect:
            effect = f"{x.effect.estimate:+.3f} ({x.effect.low:+.3f} to {x.effect.high:+.3f})"
            uses = str(x.effect.uses)
        marks = {"locked": x.locked, "always": x.always, "harmful": x.effect and x.effect.high < 0}
        flags = " ".join(name for name, is_set in marks.items() if is_set) or "-"
        rows.append((label, x.id, x.kind, age, str(len(x.sources)), effect, uses, flags, x.text))

    lines = [f"{count_lessons(library)}, version {library.version}, place {library.place!r}"]
    if library.lessons:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    data = {
        **library.to_json(),
        "version": library.version,
        "origin": loaded.origin,
        "steps": loaded.steps,
        "commit": commit_json(loaded.commit),
    }
    return Output(lines, data)


def log(lib: str) -> Output:
    """Return the commits of a store, the newest first, or the steps of a run."""
    reference = parse_reference(lib)
    if reference.is_store:
        with Store(reference.location) as store:
            newest = store.find_commit(reference.version or "head", reference.library_name)
            commits = store.list_commits(reference.library_name)
        entries = history.read_store_log([commit for commit in commits if commit.number <= newest.number])
    elif is_run(reference.path):
        entries = history.read_run_log(reference.path)
    else:
        raise LibraryError(f"{lib} has no history; stores and run directories have.")
    lines = [line for entry in entries for line in (entry.text, *(f"     {detail}" for detail in entry.details))]
    return Output(lines, [entry.data for entry in entries])


def compare(before: str, after: str) -> Output:
    """Return the differences of two libraries."""
    changes = diff(load(before).library, load(after).library)
    lines = [line for change in changes for line in change.lines()]
    return Output(lines or ["no change"], [asdict(change) for change in changes])


def export(lib: str, kind: str) -> str:
    """Return the library as text for another system; see `experience.formats.library_files.render`."""
    reference = parse_reference(lib)
    # Of a URL there is no file name, and it may hold a password.
    own = reference.path.resolve().name if "://" not in reference.location else "edgewise-lessons"
    return library_files.render(load(lib).library, kind, (reference.name or own).rsplit(".", 1)[0])


def load(lib: str) -> LoadedLibrary:
    """Load a library, and print on standard error what its reader noticed."""
    loaded = load_library(parse_reference(lib))
    if loaded.notes:
        announce(loaded.notes)
    return loaded


# ---- changing a store ------------------------------------------------------------------------------


def rollback(lib: str, author: str | None) -> Output:
    """Append a version that equals an earlier one."""
    with open_store(lib) as (store, reference):
        # The newest version is where the store already is.
        if not reference.version:
            here = format_location(store, reference)
            raise ConfigError(f"Say which version to go back to: {here}@3, or {here}@head~1.")
        target = store.find_commit(reference.version, reference.library_name)
        # History is append-only: a rollback is a new version with old content.
        message = f"roll back to version {target.number} ({target.id})"
        return commit_change(store, reference, lambda _: target.library, message, author)


def lock(lib: str, ids: Sequence[str], unlock: bool, always: bool | None, author: str | None) -> Output:
    """Lock or unlock lessons; `always` says whether they go into every prompt, None leaves that as it is."""
    flags = {"locked": not unlock} | ({} if always is None else {"always": always})
    with open_store(lib) as (store, reference):
        head = find_head(store, reference).library
        chosen = list(dict.fromkeys(find_lesson(head, id).id for id in ids))

        def change(library: Library) -> Library:
            # Another writer may have deleted one since `head` was read.
            for id in chosen:
                find_lesson(library, id)
            return library.with_lessons(replace(x, **flags) if x.id in chosen else x for x in library.lessons)

        message = f"{'unlock' if unlock else 'lock'} {', '.join(chosen)}"
        return commit_change(store, reference, change, message, author)


def find_lesson(library: Library, id: str) -> Lesson:
    """Return a lesson by its label, its id, or a prefix that no other id has. Raises LibraryError."""
    matches = [x for label, x in library.labels().items() if id in (label, x.id)]
    # An exact match wins over a prefix, which a longer id may share.
    matches = matches or [x for x in library.lessons if id and x.id.startswith(id)]
    if len(matches) == 1:
        return matches[0]
    reason = "is the beginning of several ids" if matches else "is no lesson of it"
    raise LibraryError(f"{id!r} {reason}; edgewise library show prints the ids.")


def find_head(store: Store, reference: LibraryReference) -> Commit:
    """Return the newest version, the only one that can be changed. Raises ConfigError for a reference to another."""
    if reference.version:
        raise ConfigError(f"Only the newest version can be changed: leave out @{reference.version}.")
    commit = load_from_store(store, reference).commit
    assert commit
    return commit


class NothingChanged(Exception):
    """A change that leaves the library as it is."""


def commit_change(
    store: Store, reference: LibraryReference, change: Callable[[Library], Library], message: str, author: str | None
) -> Output:
    """Commit a change of the newest version, unless it changes nothing."""
    before = Library()

    # The store calls this again if another writer was faster.
    def apply(library: Library) -> Library:
        nonlocal before
        before, after = library, change(library)
        if after == library:
            raise NothingChanged
        return after

    try:
        commit = store.update(apply, message, name=reference.library_name, author=author_or_user(author))
    except NothingChanged:
        return render_unchanged(store, reference, store.head(reference.library_name))
    line = f"{render_version(store, reference, commit)} ({summarize(diff(before, commit.library))})"
    return Output([line], {"commit": commit_json(commit)})


def render_unchanged(store: Store, reference: LibraryReference, head: Commit | None) -> Output:
    """Return that nothing was committed."""
    reason = f"it has version {head.number} ({head.id})" if head else "nothing was committed"
    return Output([f"{format_location(store, reference)} stays as it is: {reason}"], {"commit": None})


def render_version(store: Store, reference: LibraryReference, commit: Commit) -> str:
    """Return a line about a new version."""
    location, content = format_location(store, reference), count_lessons(commit.library)
    return f"{location} has version {commit.number} ({commit.id}): {content}"


def commit_json(commit: Commit | None) -> dict[str, Any] | None:
    """Return a commit for programs."""
    fields = ("id", "name", "number", "message")
    return {field: getattr(commit, field) for field in fields} if commit else None


# ---- import and merge ------------------------------------------------------------------------------


@dataclass(slots=True)
class ImportReport:
    """What the guard and the store did with the lessons of a source."""

    source: LoadedLibrary
    blocked: list[tuple[Lesson, str]] = field(default_factory=list)
    redacted: list[tuple[Lesson, str]] = field(default_factory=list)
    result: AddResult = field(default_factory=lambda: AddResult(Library()))

    def lines(self) -> list[str]:
        """Return the lines for people."""
        return [
            *(f"+ {x.id}  {x.text}" for x in self.result.added),
            *(pair.line() for pair in self.result.joined),
            *(f"  {x.id}  {x.text}  (was there already)" for x in self.result.duplicates),
            *(f"~ {x.id}  {x.text}  (redacted: {reason})" for x, reason in self.redacted),
            *(f"- {x.id}  {x.text}  (blocked: {reason})" for x, reason in self.blocked),
            *self.source.notes,
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the data for programs."""
        return {
            "from": self.source.origin,
            "entered": [asdict(x) for x in self.result.added],
            "joined": [pair.to_json() for pair in self.result.joined],
            "known": [asdict(x) for x in self.result.duplicates],
            "redacted": [{"lesson": asdict(x), "reason": reason} for x, reason in self.redacted],
            "blocked": [{"lesson": asdict(x), "reason": reason} for x, reason in self.blocked],
            "notes": list(self.source.notes),
        }


def guard_lessons(report: ImportReport, known: Library | None = None) -> list[Lesson]:
    """
    Return the lessons that may enter, redacted if necessary; the report never repeats removed text.

    A lesson that `known` has word for word was checked before. A blocked lesson keeps its wording in `known`.
    """
    guard, lessons = Guard.from_examples(), []
    existing = {x.id: x for x in (known or Library()).lessons}
    for x in report.source.library.lessons:
        old = existing.get(x.id)
        if old and old.text == x.text:
            lessons.append(x)
            continue
        checked = guard.check(x.text)
        is_same = checked.text == x.text
        # A measured effect and an id belong to the wording that they were made for.
        safe = x if is_same else replace(x, text=checked.text, id=make_lesson(checked.text).id, effect=None)
        if checked.is_blocked or not safe.text.strip():
            report.blocked.append((safe, checked.reason))
            lessons += [old] if old else []
            continue
        if not is_same:
            report.redacted.append((safe, checked.reason))
        lessons.append(safe)
    return lessons


def import_library(source: str, lib: str, message: str | None, author: str | None, dry_run: bool) -> Output:
    """Import the lessons of a file, an artefact or a run into a store; a missing store is created."""
    report = ImportReport(load_library(parse_reference(source)))
    lessons = guard_lessons(report)

    def change(library: Library) -> Library:
        # An empty library has no settings worth keeping: it takes the place in the prompt from the source.
        if not library.lessons:
            library = report.source.library.with_lessons(())
        report.result = add_lessons(library, lessons)
        return report.result.library

    with open_store(lib) as (store, reference):
        if reference.version:
            raise ConfigError(f"Only the newest version can be changed: leave out @{reference.version}.")
        if dry_run:
            head = store.head(reference.library_name)
            change(head.library if head else Library())
            end = Output(["nothing was committed (--dry-run)"], {"commit": None})
        else:
            end = commit_change(store, reference, change, message or f"import {report.source.origin}", author)
    return Output([*report.lines(), *end.lines()], {**report.to_json(), **end.to_json()})


def merge_libraries(
    lib: str, other: str, base: str | None, take: str | None, message: str | None, author: str | None
) -> Output:
    """
    Merge another library into a stored one.

    Raises Conflict, and changes nothing, if both sides changed the same thing and `take` names no side.
    """
    if take is not None and take not in get_args(Side):
        raise ConfigError(f"--take is ours or theirs, not {take!r}.")
    theirs = load_library(parse_reference(other))
    with open_store(lib) as (store, reference):
        # Optimistic locking: the commit names the head that it was merged into, and fails if that has moved.
        while True:
            ours = find_head(store, reference)
            if base:
                ancestor = load_library(parse_reference(base)).library
            else:
                ancestor = find_ancestor(store, reference, ours, parse_reference(other), theirs)

            # Lessons of a store were checked when they entered it.
            report = ImportReport(theirs)
            safe = theirs.library.with_lessons(guard_lessons(report, ours.library))
            merged = merge(ancestor, ours.library, theirs.library if theirs.commit else safe)
            guard_lines = [] if theirs.commit else report.lines()

            if merged.conflicts and not take:
                announce(line for conflict in merged.conflicts for line in conflict.lines())
                raise Conflict(
                    f"Both sides changed the same in {len(merged.conflicts)} of the places above, so nothing was "
                    "merged: give --take ours or --take theirs, or change one side first."
                )
            side: Any = take or "ours"
            library = resolve_conflicts(merged, side)
            # A conflict that was settled is worth a version, even if nothing changed.
            if library == ours.library and not merged.conflicts:
                end = render_unchanged(store, reference, ours)
                return Output([*guard_lines, *end.lines()], end.to_json())

            try:
                commit = store.commit(
                    library,
                    message or f"merge {theirs.origin}",
                    parent=ours.id,
                    name=reference.library_name,
                    author=author_or_user(author),
                    merged=theirs.commit.id if theirs.commit else theirs.origin,
                )
            except StaleHead:
                continue  # another writer was faster: merge into the new head

            changes = diff(ours.library, commit.library)
            lines = [
                *(line for change in changes for line in change.lines()),
                *guard_lines,
                *(pair.line() for pair in merged.joined),
                *merged.notes,
                *(f"settled: {conflict.subject} ({conflict.reason})" for conflict in merged.conflicts),
                render_version(store, reference, commit),
            ]
            data = {
                "changes": [asdict(change) for change in changes],
                "joined": [pair.to_json() for pair in merged.joined],
                "notes": list(merged.notes),
                "settled": [asdict(conflict) for conflict in merged.conflicts],
                "commit": commit_json(commit),
            }
            return Output(lines, data)


def find_ancestor(
    store: Store, reference: LibraryReference, ours: Commit, other: LibraryReference, theirs: LoadedLibrary
) -> Library | None:
    """Return the common ancestor: a version that both have, or that an artefact names; None if there is none."""
    commits = store.list_commits(reference.library_name)
    if theirs.commit is None:
        return next((commit.library for commit in commits if commit.id in theirs.parents), None)
    if any(commit.id == theirs.commit.id for commit in store.list_commits(other.library_name)):
        ancestor = store.common_ancestor(ours.id, theirs.commit.id)
        return ancestor.library if ancestor else None
    # Another database with the same commits: one is a copy of the other.
    known = {commit.id for commit in commits}
    with Store(other.location) as second:
        versions = second.list_commits(other.library_name)
    older = [commit for commit in versions if commit.number <= theirs.commit.number]
    return next((commit.library for commit in older if commit.id in known), None)
