"""Find the client of a model by the model's name, and keep one client per server."""

import asyncio
import os
from pathlib import Path
from typing import Any

from edgewise.toolkit.errors import ModelError, TaskError, WrongKey
from edgewise.toolkit.model.client import Client, OpenAIClient
from edgewise.toolkit.model.litellm_client import LiteLLMClient
from edgewise.toolkit.model.names import get_server, is_loopback
from edgewise.toolkit.registry import MODEL_CLIENTS, resolve
from edgewise.toolkit.types import Reply, Request
from edgewise.toolkit.util.import_by_name import load_object


def connect(name: str, is_embedding: bool = False) -> Client:
    """
    A client for the server of model `name`; any model of that server may be asked through it.

    An embedded model answers requests that `is_embedding` from a server of its own, and no others there.

    May take long for `local/…` and `torch/…`, which are fetched and loaded. Raises `ModelError`.
    """
    server = get_server(name)
    kind, _, rest = server.partition("/")
    if kind in ("http:", "https:"):
        return OpenAIClient(server, os.environ.get("EDGEWISE_API_KEY", "none"))
    if kind == "openai":
        return _openai()
    if kind == "scripted":
        return _scripted(rest)
    if kind == "local":
        from edgewise.toolkit.model.embedded.server import serve_model

        room = {"context": 2048, "parallel": 4} if is_embedding else {}
        local = serve_model(rest, is_embedding=is_embedding, **room)
        return OpenAIClient(local.url, "none", closing=local.close)
    if kind == "torch":
        if is_embedding:
            raise ModelError(f"{name} writes text and gives no vectors: name a model for embeddings.")
        return _weights().TorchClient.load(rest)
    return LiteLLMClient()


def check_model(name: str) -> None:
    """Whatever can be known of a model name without asking anybody. Raises `ModelError`."""
    kind, _, rest = get_server(name).partition("/")
    if kind == "openai":
        _openai()
    elif kind == "scripted":
        _scripted(rest)
    elif kind == "local":
        from edgewise.toolkit.model.embedded.catalogue import find_model

        find_model(rest)
    elif kind == "torch":
        _weights().check(rest)


def _weights() -> Any:
    try:
        return resolve(MODEL_CLIENTS, "torch")
    except ModuleNotFoundError as error:
        raise ModelError(f"A torch/ model needs {error.name}: pip install 'edgewise[learner]'.") from None


def _openai() -> Client:
    url = os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    key = os.environ.get("OPENAI_API_KEY") or ("none" if is_loopback(url) else "")
    if not key:
        raise WrongKey("OPENAI_API_KEY is not set: models named openai/… need it.")
    return OpenAIClient(url, key)


def _scripted(place: str) -> Client:
    from edgewise.toolkit.model.scripted import ScriptedClient

    try:
        return ScriptedClient(load_object(place, Path.cwd()))
    except TaskError as error:
        raise ModelError(
            f"scripted/{place} can't be loaded: {error}. Write scripted/MODULE:FUNCTION."
        ) from None


class Router:
    """One client for all models: connects when a model is first asked, once per server, and closes all."""

    def __init__(self) -> None:
        self._clients: dict[tuple[str, bool], Client] = {}
        self._opening: dict[tuple[str, bool], asyncio.Task[Client]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def ask(self, request: Request) -> Reply:
        """Ask the model that the request names."""
        server = get_server(request.model), request.is_embedding
        client = self._clients.get(server) or await self._open(server, request.model)
        return await client.ask(request)

    async def _open(self, server: tuple[str, bool], model: str) -> Client:
        """Connect in a thread, as loading a model blocks; whoever else asks meanwhile waits for the same."""
        await self._closed()
        if server not in self._opening:
            self._opening[server] = asyncio.create_task(asyncio.to_thread(connect, model, server[1]))
        opening = self._opening[server]
        try:
            self._clients[server] = await asyncio.shield(opening)
        finally:
            if opening.done() and self._opening.get(server) is opening:
                del self._opening[server]
        return self._clients[server]

    def release(self, model: str) -> None:
        """
        Let go of a model on this machine that nobody waits for: its memory is free before another one is loaded.

        Whoever asks for it again waits until it is loaded anew.
        """
        client = self._clients.pop((model, False), None) if model.startswith(("torch/", "local/")) else None
        if client:
            closing = asyncio.create_task(client.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _closed(self) -> None:
        # Whoever waits leaves it there: others who come meanwhile have to wait too.
        await asyncio.gather(*self._closing)

    async def aclose(self) -> None:
        """Close every connection, those that are still being opened too."""
        await self._closed()
        opened = await asyncio.gather(*self._opening.values(), return_exceptions=True)
        clients = {id(c): c for c in (*self._clients.values(), *opened) if not isinstance(c, BaseException)}
        self._clients, self._opening = {}, {}
        for client in clients.values():
            await client.aclose()
