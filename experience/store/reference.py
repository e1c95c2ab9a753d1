"""
What a LIB on the command line names.

Either a store, which can be changed and has a history ("team.sqlite", "postgresql://...", with "#name" and "@version"
where wanted), or something finished that is only read: a run directory ("runs/first@2" is the library after step 2),
an artefact, or a file in any format of `experience.formats.library_files`.
"""

import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.experience.formats import library_files
from edgewise.experience.library.library import Library
from edgewise.experience.store.store import Commit, Store
from edgewise.toolkit.errors import ConfigError, LibraryError
from edgewise.toolkit.run.artifact import MANIFEST, Artifact

PARTS = re.compile(
    r"(?P<place>(?:\w[\w+.-]*://[^/#]*)?[^#]*?)(?:#(?P<name>[^#]+?))?(?:@(?P<version>[\w~]+))?", re.DOTALL
)
STORED = (".sqlite", ".db")


@dataclass(frozen=True, slots=True)
class LibraryReference:
    """A LIB in its parts; `name` and `version` are "" where they are not given."""

    location: str
    name: str = ""
    version: str = ""

    @property
    def is_store(self) -> bool:
        """Whether it names a store."""
        return "://" in self.location or Path(self.location).suffix in STORED

    @property
    def path(self) -> Path:
        """The file or directory of what is no store."""
        return Path(self.location)

    @property
    def library_name(self) -> str:
        """The name within the store."""
        return self.name or "main"


@dataclass(frozen=True, slots=True)
class LoadedLibrary:
    """
    A library and where it came from.

    `steps` is how many steps had been learned (None where that is not known), `commit` the version in a store,
    `parents` what an artefact says it was made from.
    """

    library: Library
    origin: str
    steps: int | None = None
    commit: Commit | None = None
    parents: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def parse_reference(text: str) -> LibraryReference:
    """Take LIB apart. A path that exists is taken as it is, whatever signs it has."""
    found = PARTS.fullmatch(text)
    if not text or found is None:
        raise ConfigError(f"{text!r} names no library; write PATH, PATH@VERSION, or STORE#NAME@VERSION.")
    if "://" not in text and Path(text).exists():
        return LibraryReference(text)
    return LibraryReference(found["place"], found["name"] or "", found["version"] or "")


def load_library(operand: LibraryReference) -> LoadedLibrary:
    """The library that is named. Raises LibraryError or ArtifactError where there is none."""
    if operand.is_store:
        with Store(operand.location) as store:
            return load_from_store(store, operand)
    if operand.name:
        raise LibraryError(f"{operand.location} is no store, so it holds no library {operand.name!r}.")
    if is_run(operand.path):
        return _from_run(operand)
    if operand.version:
        raise LibraryError(f"{operand.location} has no versions; stores and run directories have.")
    if operand.path.is_dir() or not operand.path.exists() or zipfile.is_zipfile(operand.path):
        return _from_artifact(operand.path)
    if operand.path.name == MANIFEST:
        return _from_artifact(operand.path.parent)
    found = library_files.read(operand.path)
    return LoadedLibrary(found.library, f"{operand.location} ({found.format})", notes=found.notes)


def load_from_store(store: Store, operand: LibraryReference) -> LoadedLibrary:
    """A version in a store that is open; the newest where none is named."""
    commit = store.find_commit(operand.version or "head", operand.library_name)
    origin = f"{format_location(store, operand)}, version {commit.number} ({commit.id})"
    return LoadedLibrary(commit.library, origin, commit=commit)


@contextmanager
def open_store(text: str) -> Iterator[tuple[Store, LibraryReference]]:
    """The store that LIB names, to be changed. Raises LibraryError where LIB can only be read."""
    operand = parse_reference(text)
    if not operand.is_store:
        given = text if is_run(operand.path) else operand.location
        if not operand.path.exists():
            raise LibraryError(f"There is no {given}; the name of a new store ends in .sqlite or .db.")
        raise LibraryError(
            f"{given} is finished and only read; bring it into a store first: "
            f"edgewise library import {given} team.sqlite"
        )
    with Store(operand.location) as store:
        yield store, operand


def format_location(store: Store, operand: LibraryReference) -> str:
    """A library of a store as it may be printed: without a password."""
    return f"{store.location}#{operand.name}" if operand.name else store.location


def is_run(path: Path) -> bool:
    """Whether a path is the directory of a run, finished or not."""
    return (
        path.is_dir()
        and not (path / MANIFEST).exists()
        and any((path / x).is_dir() for x in ("steps", "artifact"))
    )


def _from_run(operand: LibraryReference) -> LoadedLibrary:
    files = sorted(operand.path.glob("steps/*/library.json"))
    steps = {int(file.parent.name): file for file in files if file.parent.name.isdecimal()}
    if operand.version in ("", "head"):
        if steps and not (operand.path / "artifact" / MANIFEST).exists():
            last = f"{operand.location}@{max(steps)}"
            raise LibraryError(
                f"{operand.location} has not finished; {last} is the library after its last step."
            )
        found = _from_artifact(operand.path)
        return LoadedLibrary(found.library, found.origin, max(steps, default=0), parents=found.parents)
    number = int(operand.version) if operand.version.isdecimal() else -1
    if number not in steps:
        there = f"it has {', '.join(map(str, steps))}" if steps else "it has none"
        raise LibraryError(f"{operand.location} has no step {operand.version!r} with a library; {there}.")
    library = library_files.read(steps[number]).library
    return LoadedLibrary(library, f"{operand.location} after step {number}", number)


def _from_artifact(path: Path) -> LoadedLibrary:
    artifact = Artifact.load(path)
    if artifact.library is None:
        raise LibraryError(f"{path} is an artefact without a library.")
    return LoadedLibrary(Library.from_json(artifact.library), str(path), parents=artifact.parents)


CONFIG_NAMES = {
    "temperature": "eval_temperature",
    "top_p": "eval_top_p",
    "max_tokens": "max_tokens",
    "prompt_tokens": "prompt_tokens",
    "embedder": "embedder",
}
"""Settings that an artefact keeps, and what they are called while learning."""


def lacks_settings(path: str) -> bool:
    """Whether it names lessons without the settings that they were measured with: a store, a step, a file."""
    operand = parse_reference(path)
    return operand.is_store or bool(operand.version) or operand.path.suffix in {".json", ".md", ".txt"}


def shared_settings(artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """The model and the settings of use that all artefacts share; what they differ in is left to the defaults."""
    settings = [
        {"model": a.model, **{CONFIG_NAMES[k]: v for k, v in a.settings.items() if k in CONFIG_NAMES}}
        for a in artifacts
    ]
    first = settings[0] if settings else {}
    return {key: value for key, value in first.items() if all(s.get(key) == value for s in settings)}
