"""
What a run leaves: a directory, or its zip (`*.edge`), of plain data. Loading one executes nothing.

`manifest.json` names the format, the task, the base model and the checksum of every other file. It is written
last: a directory without one is unfinished. Weights lie in a folder of it, as safetensors.
"""

import errno
import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgewise.toolkit.errors import ArtifactError, DiskFull
from edgewise.toolkit.model.embedded.download import cache_dir
from edgewise.toolkit.types import Sampling
from edgewise.toolkit.util.files import dump_json, hash_file, replace_atomically, replace_text

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights"
"""The folder that holds a trained model: all its weights, or an adapter that names the model it is for."""
PLAIN = re.compile(r"\w[\w.-]*\.json")
IN_FOLDER = re.compile(r"\w[\w-]*/\w[\w.-]*\.(safetensors|json|jinja|txt|model|md)")


@dataclass(frozen=True, slots=True)
class Artifact:
    """
    An improvement as data: `files` maps a name (library.json, graph.json, evidence.json) to its content.

    `settings` are those of use: model and sampling of the evaluation. `parents` are fingerprints of the
    artefacts it was made from. `folders` are directories of weights, by name.
    """

    task: str
    model: str
    files: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict)

    @property
    def model_in_use(self) -> str:
        """The model that answers with this artefact: its weights, where it holds any, else the base model."""
        return f"torch/{self.folders[WEIGHTS]}" if WEIGHTS in self.folders else self.model

    @property
    def sampling(self) -> Sampling:
        """How replies are drawn in use."""
        known = self.settings.get
        return Sampling(known("temperature"), known("top_p"), known("max_tokens"))

    @property
    def library(self) -> Any:
        """The content of library.json, or None."""
        return self.files.get("library.json")

    @property
    def evidence(self) -> Any:
        """The content of evidence.json, or None."""
        return self.files.get("evidence.json")

    def save(self, path: str | Path) -> Path:
        """Write a directory, or a zip where the name ends in .edge."""
        path = Path(path)
        blobs = {name: dump_json(data) for name, data in self.files.items()}
        weights = dict(self._in_folders())
        manifest = dump_json(self._manifest(blobs, weights))
        if path.suffix == ".edge":
            _zip(path, {**blobs, MANIFEST: manifest}, weights)
            return path
        path.mkdir(parents=True, exist_ok=True)
        # Without its manifest an artefact counts as unfinished: no old one may vouch for new files.
        (path / MANIFEST).unlink(missing_ok=True)
        for name, source in weights.items():
            _copy(source, path / name)
        for folder in self.folders:
            _clear(path / folder, {path / name for name in weights})
        for name, blob in (*blobs.items(), (MANIFEST, manifest)):
            replace_text(path / name, blob)
        return path

    def _in_folders(self) -> Iterator[tuple[str, Path]]:
        for name, folder in sorted(self.folders.items()):
            for file in sorted(folder.iterdir()):
                if IN_FOLDER.fullmatch(f"{name}/{file.name}"):
                    yield f"{name}/{file.name}", file

    def _manifest(self, blobs: Mapping[str, str], weights: Mapping[str, Path]) -> dict[str, Any]:
        sums = {name: hashlib.sha256(blob.encode()).hexdigest() for name, blob in blobs.items()}
        sums |= {name: hash_file(source) for name, source in weights.items()}
        head = {"format": FORMAT, "task": self.task, "model": self.model, "settings": dict(self.settings)}
        return {**head, "parents": list(self.parents), "files": sums}

    @classmethod
    def load(cls, path: str | Path) -> "Artifact":
        """
        Read an artefact: a directory, a zip, or a run directory that holds one.

        Raises ArtifactError where it is missing, unfinished, damaged or of a newer format.
        """
        path = Path(path)
        path = path / "artifact" if (path / "artifact").is_dir() else path
        blobs = _read(path)
        try:
            manifest = json.loads(blobs.pop(MANIFEST))
            if manifest["format"] > FORMAT:
                raise ArtifactError(
                    f"{path} has format {manifest['format']}, this version reads {FORMAT}: upgrade edgewise."
                )
            weights = {name: sum_ for name, sum_ in manifest["files"].items() if IN_FOLDER.fullmatch(name)}
            for name, checksum in manifest["files"].items() - weights.items():
                if not PLAIN.fullmatch(name):
                    raise ArtifactError(
                        f"{path} names a file {name!r}: names are plain, such as library.json."
                    )
                if hashlib.sha256(blobs[name]).hexdigest() != checksum:
                    raise ArtifactError(f"{path}: {name} does not match its checksum.")
            files = {name: json.loads(blobs[name]) for name in manifest["files"] if name not in weights}
            head = (manifest["task"], manifest["model"], files, manifest["settings"])
            return cls(*head, tuple(manifest["parents"]), _folders(path, weights))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} is damaged: {error!r}.") from error


def _folders(path: Path, weights: Mapping[str, str]) -> dict[str, Path]:
    """The folders that hold weights, each file checked; those of a zip are unpacked into the cache, once."""
    base = path if path.is_dir() else _cached(weights)
    wrong = _wrong(base, weights)
    if wrong and not path.is_dir():
        _unpack(path, wrong, base)
        wrong = _wrong(base, {name: weights[name] for name in wrong})
    if wrong:
        raise ArtifactError(f"{path}: {wrong[0]} is missing, or does not match its checksum.")
    folders = {folder: base / folder for folder in {name.partition("/")[0] for name in weights}}
    for folder in folders.values() if path.is_dir() else ():
        # Whoever loads a model takes what lies beside it, a chat template for one.
        if others := _others(folder, {base / name for name in weights}):
            raise ArtifactError(f"{path}: {folder.name}/{others[0].name} is not named in its {MANIFEST}.")
    return folders


def _cached(weights: Mapping[str, str]) -> Path:
    return cache_dir() / "artifacts" / hashlib.sha256(dump_json(dict(weights)).encode()).hexdigest()[:16]


def _wrong(base: Path, weights: Mapping[str, str]) -> list[str]:
    """Names of files that are missing or changed."""
    return [
        name
        for name, checksum in weights.items()
        if not (base / name).is_file() or hash_file(base / name) != checksum
    ]


def _others(folder: Path, known: Collection[Path]) -> list[Path]:
    """What else lies in a folder; hidden files, which nothing loads, do not count."""
    return [each for each in sorted(folder.iterdir()) if each not in known and not each.name.startswith(".")]


def _unpack(path: Path, names: Iterable[str], base: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                (base / name).parent.mkdir(parents=True, exist_ok=True)
                with (
                    archive.open(name) as packed,
                    replace_atomically(base / name) as growing,
                    growing.open("wb") as out,
                ):
                    shutil.copyfileobj(packed, out)
    except Exception as error:  # a damaged zip fails in a dozen ways
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"The disk is full: the weights of {path} don't fit into {base}.") from error
        raise ArtifactError(f"{path} is damaged: {str(error) or type(error).__name__}.") from error


def _clear(folder: Path, known: Collection[Path]) -> None:
    """Delete what an artefact that was here before has left."""
    for other in _others(folder, known):
        if IN_FOLDER.fullmatch(f"{folder.name}/{other.name}"):
            other.unlink()


def _copy(source: Path, target: Path) -> None:
    if source.resolve() != target.resolve():
        target.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(target) as growing:
            shutil.copyfile(source, growing)


def _zip(path: Path, blobs: Mapping[str, str], weights: Mapping[str, Path]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as growing, zipfile.ZipFile(growing, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in weights.items():
            archive.write(source, name, zipfile.ZIP_STORED)  # weights hardly become smaller
        for name, blob in blobs.items():
            archive.writestr(name, blob)


def _read(path: Path) -> dict[str, bytes]:
    try:
        if path.is_dir():
            blobs = {file.name: file.read_bytes() for file in path.iterdir() if file.suffix == ".json"}
        else:
            with zipfile.ZipFile(path) as archive:
                blobs = {name: archive.read(name) for name in archive.namelist() if PLAIN.fullmatch(name)}
    except FileNotFoundError as error:
        raise ArtifactError(f"There is no artefact at {path}.") from error
    except Exception as error:  # a damaged zip fails in a dozen ways, from EOFError to zlib.error
        raise ArtifactError(f"{path} is no artefact: {str(error) or type(error).__name__}.") from error
    if MANIFEST not in blobs:
        raise ArtifactError(f"{path} has no {MANIFEST}: it is neither an artefact nor a finished run.")
    return blobs
