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
class Operand:
    """A LIB in its parts; `name` and `version` are "" where they are not given."""

    place: str
    name: str = ""
    version: str = ""

    @property
    def stored(self) -> bool:
        """Whether it names a store."""
        return "://" in self.place or Path(self.place).suffix in STORED

    @property
    def path(self) -> Path:
        """The file or directory of what is no store."""
        return Path(self.place)

    @property
    def library(self) -> str:
        """The name within the store."""
        return self.name or "main"


@dataclass(frozen=True, slots=True)
class Loaded:
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


def parse(text: str) -> Operand:
    """Take LIB apart. A path that exists is taken as it is, whatever signs it has."""
    found = PARTS.fullmatch(text)
    if not text or found is None:
        raise ConfigError(f"{text!r} names no library; write PATH, PATH@VERSION, or STORE#NAME@VERSION.")
    if "://" not in text and Path(text).exists():
        return Operand(text)
    return Operand(found["place"], found["name"] or "", found["version"] or "")


def load(operand: Operand) -> Loaded:
    """The library that is named. Raises LibraryError or ArtifactError where there is none."""
    if operand.stored:
        with Store(operand.place) as store:
            return from_store(store, operand)
    if operand.name:
        raise LibraryError(f"{operand.place} is no store, so it holds no library {operand.name!r}.")
    if is_run(operand.path):
        return _from_run(operand)
    if operand.version:
        raise LibraryError(f"{operand.place} has no versions; stores and run directories have.")
    if operand.path.is_dir() or not operand.path.exists() or zipfile.is_zipfile(operand.path):
        return _from_artifact(operand.path)
    if operand.path.name == MANIFEST:
        return _from_artifact(operand.path.parent)
    found = library_files.read(operand.path)
    return Loaded(found.library, f"{operand.place} ({found.format})", notes=found.notes)


def from_store(store: Store, operand: Operand) -> Loaded:
    """A version in a store that is open; the newest where none is named."""
    commit = store.find(operand.version or "head", operand.library)
    origin = f"{place(store, operand)}, version {commit.number} ({commit.id})"
    return Loaded(commit.library, origin, commit=commit)


@contextmanager
def opened(text: str) -> Iterator[tuple[Store, Operand]]:
    """The store that LIB names, to be changed. Raises LibraryError where LIB can only be read."""
    operand = parse(text)
    if not operand.stored:
        given = text if is_run(operand.path) else operand.place
        if not operand.path.exists():
            raise LibraryError(f"There is no {given}; the name of a new store ends in .sqlite or .db.")
        raise LibraryError(
            f"{given} is finished and only read; bring it into a store first: "
            f"edgewise library import {given} team.sqlite"
        )
    with Store(operand.place) as store:
        yield store, operand


def place(store: Store, operand: Operand) -> str:
    """A library of a store as it may be printed: without a password."""
    return f"{store.place}#{operand.name}" if operand.name else store.place


def is_run(path: Path) -> bool:
    """Whether a path is the directory of a run, finished or not."""
    return (
        path.is_dir()
        and not (path / MANIFEST).exists()
        and any((path / x).is_dir() for x in ("steps", "artifact"))
    )


def _from_run(operand: Operand) -> Loaded:
    files = sorted(operand.path.glob("steps/*/library.json"))
    steps = {int(file.parent.name): file for file in files if file.parent.name.isdecimal()}
    if operand.version in ("", "head"):
        if steps and not (operand.path / "artifact" / MANIFEST).exists():
            last = f"{operand.place}@{max(steps)}"
            raise LibraryError(
                f"{operand.place} has not finished; {last} is the library after its last step."
            )
        found = _from_artifact(operand.path)
        return Loaded(found.library, found.origin, max(steps, default=0), parents=found.parents)
    number = int(operand.version) if operand.version.isdecimal() else -1
    if number not in steps:
        there = f"it has {', '.join(map(str, steps))}" if steps else "it has none"
        raise LibraryError(f"{operand.place} has no step {operand.version!r} with a library; {there}.")
    library = library_files.read(steps[number]).library
    return Loaded(library, f"{operand.place} after step {number}", number)


def _from_artifact(path: Path) -> Loaded:
    artifact = Artifact.load(path)
    if artifact.library is None:
        raise LibraryError(f"{path} is an artefact without a library.")
    return Loaded(Library.from_json(artifact.library), str(path), parents=artifact.parents)


IN_USE = {
    "temperature": "eval_temperature",
    "top_p": "eval_top_p",
    "max_tokens": "max_tokens",
    "prompt_tokens": "prompt_tokens",
    "embedder": "embedder",
}
"""Settings that an artefact keeps, and what they are called while learning."""


def bare(path: str) -> bool:
    """Whether it names lessons without the settings that they were measured with: a store, a step, a file."""
    operand = parse(path)
    return operand.stored or bool(operand.version) or operand.path.suffix in {".json", ".md", ".txt"}


def in_common(artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """The model and the settings of use that all artefacts share; what they differ in is left to the defaults."""
    settings = [
        {"model": a.model, **{IN_USE[k]: v for k, v in a.settings.items() if k in IN_USE}} for a in artifacts
    ]
    first = settings[0] if settings else {}
    return {key: value for key, value in first.items() if all(s.get(key) == value for s in settings)}
