"""
References to libraries: the LIB of the command line.

A LIB is either a store, which can be changed and has a history ("team.sqlite", "postgresql://...", with "#name" and
"@version" where wanted), or something finished that is only read: a run directory ("runs/first@2" is the library
after step 2), an artefact, or a file in any format of `experience.formats.library_files`.
"""

import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgewise.experience.formats import library_files
from edgewise.experience.library.library import Library
from edgewise.experience.store.store import Commit, Store
from edgewise.toolkit.errors import ConfigError, LibraryError
from edgewise.toolkit.run.artifact import MANIFEST, Artifact

# LOCATION[#NAME][@VERSION]. The user and password before the @ of a URL belong to the location.
PARTS = re.compile(
    r"(?P<location>(?:\w[\w+.-]*://[^/#]*)?[^#]*?)(?:#(?P<name>[^#]+?))?(?:@(?P<version>[\w~]+))?", re.DOTALL
)
STORE_SUFFIXES = (".sqlite", ".db")

SEVERAL = ("libraries.json", "nodes.json")
"""Files of an artefact with several libraries by name: of a planner and its sub-agents, of the nodes of a program."""


@dataclass(frozen=True, slots=True)
class LibraryReference:
    """A LIB in its parts; `name` and `version` are "" where they are not given."""

    location: str
    name: str = ""
    version: str = ""

    @property
    def is_store(self) -> bool:
        """Whether it names a store, which can be changed."""
        return "://" in self.location or Path(self.location).suffix in STORE_SUFFIXES

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
    `parents` the ids of versions that an artefact says it was made from, `notes` remarks of the reader.
    """

    library: Library
    origin: str
    steps: int | None = None
    commit: Commit | None = None
    parents: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def parse_reference(text: str) -> LibraryReference:
    """Parse LIB. A path that exists is taken as it is, even with # or @ in it."""
    match = PARTS.fullmatch(text)
    if not text or match is None:
        raise ConfigError(f"{text!r} names no library; write PATH, PATH@VERSION, or STORE#NAME@VERSION.")
    # A folder may be called "a#b"; a URL is never a path.
    if "://" not in text and Path(text).exists():
        return LibraryReference(text)
    return LibraryReference(match["location"], match["name"] or "", match["version"] or "")


def load_library(reference: LibraryReference) -> LoadedLibrary:
    """Load the library that is named. Raises LibraryError or ArtifactError where there is none."""
    path = reference.path
    if reference.is_store:
        with Store(reference.location) as store:
            return load_from_store(store, reference)
    if is_run(path) and not reference.name:
        return _load_from_run(reference)
    if reference.version:
        raise LibraryError(f"{reference.location} has no versions; stores and run directories have.")
    # A missing path gets the error that an artefact gives.
    if path.is_dir() or not path.exists() or zipfile.is_zipfile(path):
        return _load_from_artifact(path, reference.name)
    if path.name == MANIFEST:
        return _load_from_artifact(path.parent, reference.name)
    if reference.name:
        raise LibraryError(f"{reference.location} is a single library, so it holds no library {reference.name!r}.")
    file = library_files.read(path)
    return LoadedLibrary(file.library, f"{reference.location} ({file.source_format})", notes=file.notes)


def load_from_store(store: Store, reference: LibraryReference) -> LoadedLibrary:
    """Load a version from a store that is open; the newest where none is named."""
    commit = store.find_commit(reference.version or "head", reference.library_name)
    origin = f"{format_location(store, reference)}, version {commit.number} ({commit.id})"
    return LoadedLibrary(commit.library, origin, commit=commit)


@contextmanager
def open_store(text: str) -> Iterator[tuple[Store, LibraryReference]]:
    """Open the store that LIB names, to change it. Raises LibraryError where LIB can only be read."""
    reference = parse_reference(text)
    if not reference.is_store:
        source = text if is_run(reference.path) else reference.location
        if not reference.path.exists():
            raise LibraryError(f"There is no {source}; the name of a new store ends in .sqlite or .db.")
        raise LibraryError(
            f"{source} is finished and only read; bring it into a store first: "
            f"edgewise library import {source} team.sqlite"
        )
    with Store(reference.location) as store:
        yield store, reference


def format_location(store: Store, reference: LibraryReference) -> str:
    """Return a library of a store as it may be printed: without a password."""
    return f"{store.location}#{reference.name}" if reference.name else store.location


def is_run(path: Path) -> bool:
    """Return whether a path is the directory of a run, finished or not."""
    # A manifest right here makes it an artefact.
    is_artifact = (path / MANIFEST).exists()
    return path.is_dir() and not is_artifact and any((path / x).is_dir() for x in ("steps", "artifact"))


def _load_from_run(reference: LibraryReference) -> LoadedLibrary:
    location, version = reference.location, reference.version
    # Numbers are read, not compared as text: "10" comes after "9".
    files = sorted(reference.path.glob("steps/*/library.json"))
    steps = {int(file.parent.name): file for file in files if file.parent.name.isdecimal()}

    # Without a version: the library that the run ended with.
    if version in ("", "head"):
        if steps and not (reference.path / "artifact" / MANIFEST).exists():
            last = f"{location}@{max(steps)}"
            raise LibraryError(f"{location} has not finished; {last} is the library after its last step.")
        final = _load_from_artifact(reference.path)
        return replace(final, steps=max(steps, default=0))

    number = int(version) if version.isdecimal() else -1
    if number not in steps:
        content = f"it has {', '.join(map(str, steps))}" if steps else "it has none"
        raise LibraryError(f"{location} has no step {version!r} with a library; {content}.")
    library = library_files.read(steps[number]).library
    return LoadedLibrary(library, f"{location} after step {number}", number)


def load_named_libraries(reference: LibraryReference) -> dict[str, LoadedLibrary]:
    """Load all libraries of an artefact or a run that has several, by name; {} for any other LIB."""
    path = reference.path
    is_artifact = path.is_dir() or path.suffix == ".edge"
    if reference.is_store or reference.name or reference.version or not (is_artifact and path.exists()):
        return {}
    # A run that has not finished has no artefact yet.
    if is_run(path) and not (path / "artifact" / MANIFEST).exists():
        return {}
    artifact = Artifact.load(path)
    return {name: _load_from_artifact(path, name) for name in _library_names(artifact)}


def _library_names(artifact: Artifact) -> list[str]:
    """Names of the libraries of a planner and its sub-agents, or of the nodes of a program."""
    return [name for file in SEVERAL for name in artifact.files.get(file, {})]


def _load_from_artifact(path: Path, name: str = "") -> LoadedLibrary:
    artifact = Artifact.load(path)
    names = _library_names(artifact)
    if name and name not in names:
        if not names:
            raise LibraryError(f"{path} is no store, so it holds no library {name!r}.")
        raise LibraryError(f"{path} has no library {name!r}: its libraries are {', '.join(names)}.")
    if names and not name:
        raise LibraryError(f"{path} has several libraries ({', '.join(names)}): name one, such as {path}#{names[0]}.")
    data = next((artifact.files[file][name] for file in SEVERAL if name in artifact.files.get(file, {})), None)
    data = data or artifact.library
    if data is None:
        raise LibraryError(f"{path} is an artefact without a library.")
    origin = f"{path}#{name}" if name else str(path)
    return LoadedLibrary(Library.from_json(data), origin, parents=artifact.parents)


CONFIG_NAMES = {
    "temperature": "eval_temperature",
    "top_p": "eval_top_p",
    "max_tokens": "max_tokens",
    "prompt_tokens": "prompt_tokens",
    "embedder": "embedder",
}
"""Names in the config of the settings that an artefact keeps; `temperature` is that of learning there."""


def lacks_settings(path: str) -> bool:
    """Return whether a LIB holds lessons without the settings they were measured with: a store, a step, a file."""
    # Of a run only the final artefact was measured; a step's library was not.
    reference = parse_reference(path)
    is_file = reference.path.suffix in {".json", ".md", ".txt"}
    return reference.is_store or bool(reference.version) or is_file


def shared_settings(artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """Return the model and the settings of use that all artefacts share; the defaults decide where they differ."""
    settings = []
    for artifact in artifacts:
        in_use = {CONFIG_NAMES[k]: v for k, v in artifact.settings.items() if k in CONFIG_NAMES}
        settings.append({"model": artifact.model, **in_use})
    first = settings[0] if settings else {}
    return {key: value for key, value in first.items() if all(s.get(key) == value for s in settings)}
