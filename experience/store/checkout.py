"""
Learning from a library that others use too: a run starts from a stored version and hands back what it learnt.

RUN/start.json keeps the start, so that a run that is taken up again starts from the same lessons, whatever became of
the store in the meantime.
"""

import getpass
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from edgewise.experience.guard.guard import Guard
from edgewise.experience.library.library import Library
from edgewise.experience.library.merge import merge
from edgewise.experience.store.reference import (
    LibraryReference,
    LoadedLibrary,
    format_location,
    load_library,
    parse_reference,
)
from edgewise.experience.store.store import Store
from edgewise.toolkit.cli.progress import announce
from edgewise.toolkit.errors import ArtifactError, ConfigError, Conflict, LibraryError
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.runner import Result

START_FILE = "start.json"


@dataclass(frozen=True, slots=True)
class RunStart:
    """Where a run starts: the library, and the ids of the stored versions that it is."""

    library: Library | None = None
    parents: tuple[str, ...] = ()


def resolve_start(lib: str | None, run: Path | None = None) -> RunStart:
    """
    The library that a run begins with: what it began with before, or else what `lib` names now.

    A store in which there is no such library yet is an empty start. Raises the errors of `experience.store.reference`,
    ArtifactError where the run's own record is damaged, ConfigError where it began without a library, and
    LibraryError where a file holds what the guards would not let in.
    """
    if run and (run / START_FILE).exists():
        return _read(run / START_FILE)
    if lib is None:
        return RunStart()
    if run and (run / directory.JOURNAL).exists():
        raise ConfigError(f"{run} was begun without --library: leave it out, or give another --run.")
    return _found(parse_reference(lib))


def save_start(began: RunStart, run: Path) -> None:
    """Write down what a run begins with."""
    saved = {"library": began.library.to_json() if began.library else None, "parents": list(began.parents)}
    directory.write_json(directory.made(run) / START_FILE, saved)


def commit_to_store(lib: str, began: RunStart, result: Result) -> str:
    """
    Commit what a run learnt to the store that it began from, merged with what others did since; a line for people.

    Nothing is written where the run found nothing better or `lib` is no store. Raises Conflict where others changed the
    same lessons, and LibraryError where the run began from another library: the run keeps what it learnt.
    """
    operand = parse_reference(lib)
    if not result.improved or not operand.is_store:
        return ""
    learnt = Library.from_json(result.artifact.library)
    base = began.library or Library()

    key = hashlib.sha256(f"{base.version} {learnt.version} {result.path.resolve()}".encode()).hexdigest()[:32]
    message = f"learnt in {result.path.name}"
    with Store(operand.location) as store:
        where = format_location(store, operand)
        if began.parents and not {x.id for x in store.list_commits(operand.library_name)}.issuperset(
            began.parents
        ):
            raise LibraryError(
                f"{result.path} did not begin from {where}: give the --library that it began with."
            )

        def merged(head: Library) -> Library:
            return _merged(began.library, head, learnt, f"{where} {result.path}")

        head = store.head(operand.library_name)
        if head and merged(head.library) == head.library:
            return f"{where} holds it already, as version {head.number}"
        commit = store.update(
            merged, message, name=operand.library_name, author=author_or_user(None), key=key
        )
        return f"committed as version {commit.number} of {where}"


def _merged(base: Library | None, head: Library, learnt: Library, both: str) -> Library:
    """What others have now with what was learnt; "ours" is the store's side, as in `edgewise library merge`."""
    found = merge(base, head if len(head) or base else learnt, learnt)
    if found.conflicts:
        lines = "; ".join(line.strip() for clash in found.conflicts for line in clash.lines())
        raise Conflict(
            f"Others changed the same lessons since this run began ({lines}). Settle it by hand: "
            f"edgewise library merge {both} --take ours (or theirs)"
        )
    return found.library


def author_or_user(given: str | None) -> str:
    """Who commits: as given, or the user of this system where it has a name for them."""
    try:
        return getpass.getuser() if given is None else given
    except (KeyError, OSError, ImportError):
        return ""


def _found(operand: LibraryReference) -> RunStart:
    if not operand.is_store or operand.version:
        loaded = load_library(operand)
        if not loaded.commit:
            _check(loaded)
        ids = (loaded.commit.id,) if loaded.commit else loaded.parents
        return RunStart(loaded.library, ids)
    with Store(operand.location) as store:
        head = store.head(operand.library_name)
        if head is None:
            announce(
                [
                    f"{format_location(store, operand)} holds nothing yet: what is learnt will be its first version"
                ]
            )
    return RunStart(head.library, (head.id,)) if head else RunStart()


def _check(loaded: LoadedLibrary) -> None:
    """Refuse a file with lessons that the guards block or redact; what is in a store has been checked."""
    guard = Guard.from_examples()
    wrong = [x for x in loaded.library.lessons if guard.check(x.text).findings]
    if wrong:
        raise LibraryError(
            f"{loaded.origin} holds {len(wrong)} lessons that may not enter as they are ({wrong[0].id} is the first): "
            "bring it into a store with edgewise library import, which says why, and begin from there."
        )


def _read(file: Path) -> RunStart:
    try:
        data = json.loads(file.read_text("utf-8"))
        library = Library.from_json(data["library"]) if data["library"] else None
        return RunStart(library, tuple(data["parents"]))
    except (KeyError, TypeError, ValueError, ArtifactError, LibraryError) as error:
        raise ArtifactError(f"{file} is damaged ({error}); give another --run.") from error
