"""
The artefact of a run: a directory, or its zip (`*.edge`), of plain data. Loading one executes nothing.

    manifest.json      format, task, base model, settings, and the checksum of every other file
    library.json …     the improvement and its evidence, one JSON file each
    weights/           a trained model or an adapter, as safetensors

The manifest is written last: a directory without one is unfinished.
"""

import errno
import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgewise.toolkit.errors import ArtifactError, DiskFull
from edgewise.toolkit.model.embedded.download import cache_dir
from edgewise.toolkit.types import Sampling
from edgewise.toolkit.util.files import dump_json, hash_file, replace_atomically, replace_text
from edgewise.toolkit.util.hashing import hash_text

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights"
"""Folder of a trained model: all its weights, or an adapter that names its base model."""

# Names are plain, so that no archive writes outside its folder, and only types of files that execute nothing.
FILE_NAME = re.compile(r"\w[\w.-]*\.json")
WEIGHTS_FILE_NAME = re.compile(r"\w[\w-]*/\w[\w.-]*\.(safetensors|json|jinja|txt|model|md)")


@dataclass(frozen=True, slots=True)
class Artifact:
    """
    An improvement as data: `files` maps a name (library.json, graph.json, evidence.json) to its content.

    `settings` are those of the evaluation, and of later use. `parents` are the versions that the artefact was made
    from. `folders` are directories of weights, by name.
    """

    task: str
    model: str
    files: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict)

    @property
    def model_in_use(self) -> str:
        """The model that answers with this artefact: its weights if it has any, else the base model."""
        return f"torch/{self.folders[WEIGHTS]}" if WEIGHTS in self.folders else self.model

    @property
    def sampling(self) -> Sampling:
        """Sampling of the evaluation, and of later use."""
        get = self.settings.get
        return Sampling(get("temperature"), get("top_p"), get("max_tokens"))

    @property
    def library(self) -> Any:
        """Content of library.json, or None."""
        return self.files.get("library.json")

    @property
    def evidence(self) -> Any:
        """Content of evidence.json, or None."""
        return self.files.get("evidence.json")

    def save(self, path: str | Path) -> Path:
        """Write a directory, or a zip if the name ends in .edge; return the path."""
        path = Path(path)
        texts = {name: dump_json(data) for name, data in self.files.items()}
        weights = {
            name: file
            for folder, source in sorted(self.folders.items())
            for file in sorted(source.iterdir())
            if WEIGHTS_FILE_NAME.fullmatch(name := f"{folder}/{file.name}")
        }
        checksums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
        checksums |= {name: hash_file(source) for name, source in weights.items()}
        manifest = dump_json(
            {
                "format": FORMAT,
                "task": self.task,
                "model": self.model,
                "settings": dict(self.settings),
                "parents": list(self.parents),
                "files": checksums,
            }
        )
        texts[MANIFEST] = manifest
        if path.suffix == ".edge":
            _write_zip(path, texts, weights)
        else:
            _write_directory(path, texts, weights, self.folders)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Artifact":
        """
        Read an artefact: a directory, a zip, or a run directory that has one.

        Raises ArtifactError if it is missing, unfinished, damaged or of a newer format.
        """
        path = Path(path)
        # A run directory holds its artefact in a folder of this name.
        path = path / "artifact" if (path / "artifact").is_dir() else path
        blobs = _read_files(path)
        try:
            manifest = json.loads(blobs.pop(MANIFEST))
            # Older formats are read for good; a newer one may mean other things by the same names.
            if manifest["format"] > FORMAT:
                raise ArtifactError(
                    f"{path} has format {manifest['format']}, this version reads {FORMAT}: upgrade edgewise."
                )
            checksums = manifest["files"]
            weights = {name: checksums[name] for name in checksums if WEIGHTS_FILE_NAME.fullmatch(name)}
            files = {}
            for name in checksums:
                if name in weights:
                    continue
                if not FILE_NAME.fullmatch(name):
                    raise ArtifactError(f"{path} names a file {name!r}: names are plain, such as library.json.")
                if hashlib.sha256(blobs[name]).hexdigest() != checksums[name]:
                    raise ArtifactError(f"{path}: {name} does not match its checksum.")
                files[name] = json.loads(blobs[name])
            return cls(
                manifest["task"],
                manifest["model"],
                files,
                manifest["settings"],
                tuple(manifest["parents"]),
                _find_folders(path, weights),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} is damaged: {error!r}.") from error


# ---- writing ---------------------------------------------------------------------------------------


def _write_directory(path: Path, texts: Mapping[str, str], weights: Mapping[str, Path], folders: Iterable[str]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    # An artefact without manifest counts as unfinished: an old manifest must not vouch for new files.
    (path / MANIFEST).unlink(missing_ok=True)
    for name, source in weights.items():
        target = path / name
        if source.resolve() != target.resolve():
            target.parent.mkdir(parents=True, exist_ok=True)
            with replace_atomically(target) as partial:
                shutil.copyfile(source, partial)
    # Weights of an earlier artefact in the same directory.
    for folder in folders:
        for file in _list_strangers(path / folder, {path / name for name in weights}):
            if WEIGHTS_FILE_NAME.fullmatch(f"{folder}/{file.name}"):
                file.unlink()
    for name, text in texts.items():
        replace_text(path / name, text)


def _write_zip(path: Path, texts: Mapping[str, str], weights: Mapping[str, Path]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in weights.items():
            archive.write(source, name, zipfile.ZIP_STORED)  # weights hardly become smaller
        for name, text in texts.items():
            archive.writestr(name, text)


# ---- reading ---------------------------------------------------------------------------------------


def _read_files(path: Path) -> dict[str, bytes]:
    """Read the JSON files of an artefact, the manifest among them."""
    try:
        if path.is_dir():
            blobs = {file.name: file.read_bytes() for file in path.iterdir() if file.suffix == ".json"}
        else:
            with zipfile.ZipFile(path) as archive:
                blobs = {name: archive.read(name) for name in archive.namelist() if FILE_NAME.fullmatch(name)}
    except FileNotFoundError as error:
        raise ArtifactError(f"There is no artefact at {path}.") from error
    except Exception as error:  # a damaged zip raises a dozen types, from EOFError to zlib.error
        raise ArtifactError(f"{path} is no artefact: {str(error) or type(error).__name__}.") from error
    if MANIFEST not in blobs:
        raise ArtifactError(f"{path} has no {MANIFEST}: it is neither an artefact nor a finished run.")
    return blobs


def _find_folders(path: Path, weights: Mapping[str, str]) -> dict[str, Path]:
    """Return the folders of weights, with all checksums verified; a zip is unpacked into the cache, once."""
    is_zip = not path.is_dir()
    base = cache_dir() / "artifacts" / hash_text(dump_json(dict(weights)), 16) if is_zip else path
    wrong = _list_wrong_files(base, weights)
    if wrong and is_zip:
        _unpack(path, wrong, base)
        wrong = _list_wrong_files(base, {name: weights[name] for name in wrong})
    if wrong:
        raise ArtifactError(f"{path}: {wrong[0]} is missing, or does not match its checksum.")

    folders = {name: base / name for name in {file.partition("/")[0] for file in weights}}
    # Loading a model takes what lies beside its weights, such as a chat template: nothing unverified may lie there.
    for folder in () if is_zip else folders.values():
        if strangers := _list_strangers(folder, {base / name for name in weights}):
            raise ArtifactError(f"{path}: {folder.name}/{strangers[0].name} is not named in its {MANIFEST}.")
    return folders


def _list_wrong_files(base: Path, checksums: Mapping[str, str]) -> list[str]:
    """Return the names of files that are missing or changed."""
    return [
        name
        for name, checksum in checksums.items()
        if not (base / name).is_file() or hash_file(base / name) != checksum
    ]


def _list_strangers(folder: Path, known: Collection[Path]) -> list[Path]:
    """Return the files of a folder that are not known, except hidden ones, which nothing loads."""
    return [file for file in sorted(folder.iterdir()) if file not in known and not file.name.startswith(".")]


def _unpack(path: Path, names: Iterable[str], base: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                (base / name).parent.mkdir(parents=True, exist_ok=True)
                with (
                    archive.open(name) as packed,
                    replace_atomically(base / name) as partial,
                    partial.open("wb") as file,
                ):
                    shutil.copyfileobj(packed, file)
    except Exception as error:  # a damaged zip raises a dozen types
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"The disk is full: the weights of {path} don't fit into {base}.") from error
        raise ArtifactError(f"{path} is damaged: {str(error) or type(error).__name__}.") from error
