"""Serve an embedded model with llama.cpp on loopback, in this process."""

import atexit
import importlib
import os
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.toolkit.errors import ModelError
from edgewise.toolkit.model.embedded.catalogue import EmbeddedModel, find_model
from edgewise.toolkit.model.embedded.download import find_verified, pull_model


class LocalServer:
    """
    A caller's share of a running model server.

    `url` is the base URL for an OpenAI client, without a key. The server stops when the last share is closed, at the
    latest when the process ends.
    """

    def __init__(self, running: "_RunningServer") -> None:
        self.url = running.url
        self._running: _RunningServer | None = running

    def close(self) -> None:
        """Give the share back; a second call does nothing."""
        with _lock:
            running, self._running = self._running, None
            if running is None:
                return
            running.shares -= 1
            if running.shares == 0:
                _servers.pop(running.key, None)
                running.server = None


@dataclass(slots=True)
class _RunningServer:
    """Server of this process. `server` is xllamacpp's object: to drop it stops the server."""

    key: tuple[str, bool]
    url: str
    context: int
    parallel: int
    server: Any
    shares: int = 0


# Keys are model name and whether it embeds. Callers come from several threads (`Router` connects in one), hence the
# lock; it is held while a model loads, so that two callers don't load it twice.
_servers: dict[tuple[str, bool], _RunningServer] = {}
_lock = threading.RLock()


def serve_model(name: str, *, context: int = 4096, parallel: int = 8, is_embedding: bool = False) -> LocalServer:
    """
    Return an OpenAI-compatible endpoint for an embedded model, inside this process, on loopback.

    `context` is the number of tokens of one request, prompt and reply together. `parallel` is how many requests are
    computed at once; more wait in line. A model is served once per process, and later callers share it.
    Raises `BrokenModelFile` for a damaged file, and `ModelError` where xllamacpp is not installed or the model
    already runs with less room.

    llama.cpp computes either text or vectors: with `is_embedding` the model gets a second server, for
    `/v1/embeddings` only. Its vectors are the mean over all tokens, scaled to length 1.

    A reply repeats for the same seed, prompt and state of the prompt cache only: which requests are computed
    together changes the rounding. `response_format` is enforced, `tool_choice="required"` is not.
    """
    model = find_model(name)
    with _lock:
        running = _servers.get((model.name, is_embedding))
        if running is None:
            path = find_verified(model) or pull_model(model.name)
            running = _start(model, path, context, parallel, is_embedding)
            _servers[model.name, is_embedding] = running
        elif running.context < context or running.parallel < parallel:
            raise ModelError(
                f"local/{model.name} is already served with context={running.context} and "
                f"parallel={running.parallel}; ask for no more, or close that server first."
            )
        running.shares += 1
        return LocalServer(running)


def _start(model: EmbeddedModel, path: Path, context: int, parallel: int, is_embedding: bool) -> _RunningServer:
    # Read when the engine is loaded: threads that wait then sleep instead of spinning. Spinning threads stall each
    # other as soon as anything else wants a core, and here the callers always do.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError as error:
        raise ModelError(
            f"Serving a local model needs xllamacpp, which can't be imported ({error}): pip install 'edgewise[local]'."
        ) from error

    # Settings for many short calls that share a long prefix, on few cores.
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.model_alias = {f"local/{model.name}"}
    parameters.hostnames, parameters.port = ["127.0.0.1"], 0
    parameters.n_parallel, parameters.n_ctx = parallel, context * parallel
    # A cache for each request: with a common one, each request attends over the cells of all the others.
    parameters.kv_unified = False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = os.cpu_count() or 1
    parameters.use_jinja = True
    parameters.ui = False
    parameters.verbosity = 3 if os.environ.get("EDGEWISE_DEBUG") else 0
    if is_embedding:
        parameters.embedding = True
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        parameters.n_batch = parameters.n_ubatch = context  # a mean is taken over one batch, never over two

    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise ModelError(f"local/{model.name} could not be served: {error}.") from error
    # The server's main loop answers this call. To stop a server before its loop runs would wait for ever.
    with urllib.request.urlopen(f"{server.listening_address}/slots", timeout=60) as reply:
        reply.read()
    # Registered anew with each server: exit handlers run last in, first out, and this one must come before those
    # of the libraries that the server uses.
    atexit.unregister(_stop_all)
    atexit.register(_stop_all)
    return _RunningServer((model.name, is_embedding), f"{server.listening_address}/v1", context, parallel, server)


def _stop_all() -> None:
    with _lock:
        for running in _servers.values():
            running.server = None
        _servers.clear()
