"""
Learn from a library that others use too: start from a stored version, commit what was learnt.

RUN/start.json keeps the start, so that a resumed run starts from the same lessons, whatever became of the store in
the meantime.
"""

import getpass
import json
from dataclasses import dataclass
from pathlib import Path

from edgewise.experience.guard.guard import Guard
from edgewise.experience.library.library import Library
from edgewise.experience.library.merge import merge
from edgewise.experience.store.reference import format_location, load_library, parse_reference
from edgewise.experience.store.store import Store
from edgewise.toolkit.cli.progress import announce
from edgewise.toolkit.errors import ArtifactError, ConfigError, Conflict, LibraryError
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.runner import Result
from edgewise.toolkit.util.hashing import hash_text

START_FILE = "start.json"


@dataclass(frozen=True, slots=True)
class RunStart:
    """The library that a run starts from, and the ids of the stored versions that it is."""

    library: Library | None = None
    parents: tuple[str, ...] = ()


def resolve_start(lib: str | None, run: Path | None = None) -> RunStart:
    """
    Return the library that a run begins with: the one in its record, or else what `lib` names now.

    A store in which there is no such library yet is an empty start. Raises the errors of `experience.store.reference`,
    ArtifactError where the run's own record is damaged, ConfigError where it began without a library, and
    LibraryError where a file holds what the guards would not let in.
    """
    if run and (run / START_FILE).exists():
        return _read_start(run / START_FILE)
    if lib is None:
        return RunStart()
    if run and (run / directory.JOURNAL).exists():
        raise ConfigError(f"{run} was begun without --library: leave it out, or give another --run.")

    # The head of a store. Only here nothing at all is a start.
    reference = parse_reference(lib)
    if reference.is_store and not reference.version:
        with Store(reference.location) as store:
            head = store.head(reference.library_name)
            if head:
                return RunStart(head.library, (head.id,))
            where = format_location(store, reference)
        announce([f"{where} holds nothing yet: what is learnt will be its first version"])
        return RunStart()

    # A version that is named, or something finished. The guards have checked what is in a store, and only that.
    source = load_library(reference)
    if source.commit:
        return RunStart(source.library, (source.commit.id,))
    guard = Guard.from_examples()
    unsafe = [lesson.id for lesson in source.library.lessons if guard.check(lesson.text).findings]
    if unsafe:
        raise LibraryError(
            f"{source.origin} holds {len(unsafe)} lessons that may not enter as they are ({unsafe[0]} is the first): "
            "bring it into a store with edgewise library import, which says why, and begin from there."
        )
    return RunStart(source.library, source.parents)


def _read_start(file: Path) -> RunStart:
    try:
        data = json.loads(file.read_text("utf-8"))
        library = Library.from_json(data["library"]) if data["library"] else None
        return RunStart(library, tuple(data["parents"]))
    except (KeyError, TypeError, ValueError, ArtifactError, LibraryError) as error:
        raise ArtifactError(f"{file} is damaged ({error}); give another --run.") from error


def save_start(start: RunStart, run: Path) -> None:
    """Write the start of a run to RUN/start.json."""
    data = {"library": start.library.to_json() if start.library else None, "parents": list(start.parents)}
    directory.write_json(directory.ensure_directory(run) / START_FILE, data)


def commit_to_store(lib: str, start: RunStart, result: Result) -> str:
    """
    Commit what a run learnt to the store that it began from, merged with later commits of others; return a line.

    Nothing is written where the run found nothing better or `lib` is no store. Raises Conflict where others changed the
    same lessons, and LibraryError where the run began from another library: the run keeps what it learnt.
    """
    reference = parse_reference(lib)
    if not result.improved or not reference.is_store:
        return ""
    theirs = Library.from_json(result.artifact.library)
    base = start.library or Library()

    with Store(reference.location) as store:
        where = format_location(store, reference)
        history = store.list_commits(reference.library_name) if start.parents else []
        if not {commit.id for commit in history}.issuperset(start.parents):
            advice = "give the --library that it began with"
            raise LibraryError(f"{result.path} did not begin from {where}: {advice}.")

        def merge_into(head: Library) -> Library:
            # "ours" is the store's side, as in `edgewise library merge`. An empty store takes the run's library as it
            # is, with its place in the prompt.
            ours = head if len(head) or start.library else theirs
            outcome = merge(start.library, ours, theirs)
            if outcome.conflicts:
                lines = "; ".join(line.strip() for conflict in outcome.conflicts for line in conflict.lines())
                raise Conflict(
                    f"Others changed the same lessons since this run began ({lines}). Settle it by hand: "
                    f"edgewise library merge {where} {result.path} --take ours (or theirs)"
                )
            return outcome.library

        # A run that is finished may be started again: it must neither commit twice nor fail.
        head = store.head(reference.library_name)
        if head and merge_into(head.library) == head.library:
            return f"{where} holds it already, as version {head.number}"
        # The same for every try of the same run, so that a killed commit that went through is found again.
        key = hash_text(f"{base.version} {theirs.version} {result.path.resolve()}", 32)
        message, author = f"learnt in {result.path.name}", author_or_user(None)
        commit = store.update(merge_into, message, name=reference.library_name, author=author, key=key)
        return f"committed as version {commit.number} of {where}"


def author_or_user(author: str | None) -> str:
    """Return the author of a commit: as given, or the user of this system where it has a name for them."""
    try:
        return getpass.getuser() if author is None else author
    except (KeyError, OSError, ImportError):
        return ""
