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
    Return a client for the server of model `name`; it serves every model of that server.

    An embedded model has a second server for embeddings, which does nothing else.
    May take long for `local/…` and `torch/…`, which are downloaded and loaded. Raises `ModelError`.
    """
    server = get_server(name)
    kind, _, rest = server.partition("/")
    if kind in ("http:", "https:"):
        # Never OPENAI_API_KEY: it would go to a server that isn't OpenAI's.
        return OpenAIClient(server, os.environ.get("EDGEWISE_API_KEY", "none"))
    if kind == "openai":
        url = os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        key = os.environ.get("OPENAI_API_KEY") or ("none" if is_loopback(url) else "")
        if not key:
            raise WrongKey("OPENAI_API_KEY is not set: models named openai/… need it.")
        return OpenAIClient(url, key)
    if kind == "scripted":
        from edgewise.toolkit.model.scripted import ScriptedClient

        try:
            return ScriptedClient(load_object(rest, Path.cwd()))
        except TaskError as error:
            raise ModelError(f"scripted/{rest} can't be loaded: {error}. Write scripted/MODULE:FUNCTION.") from None
    if kind == "local":
        from edgewise.toolkit.model.embedded.server import serve_model

        # A text to embed is one request without a reply, so less room is enough.
        room = {"context": 2048, "parallel": 4} if is_embedding else {}
        local = serve_model(rest, is_embedding=is_embedding, **room)
        return OpenAIClient(local.url, "none", closing=local.close)
    if kind == "torch":
        if is_embedding:
            raise ModelError(f"{name} writes text and gives no vectors: name a model for embeddings.")
        return _import_torch_client().TorchClient.load(rest)
    return LiteLLMClient()


def check_model(name: str) -> None:
    """Check a model name as far as possible without a call. Raises `ModelError`."""
    kind, _, rest = get_server(name).partition("/")
    if kind in ("openai", "scripted"):
        connect(name)  # makes no call and loads no model
    elif kind == "local":
        from edgewise.toolkit.model.embedded.catalogue import find_model

        find_model(rest)
    elif kind == "torch":
        _import_torch_client().check(rest)


def _import_torch_client() -> Any:
    try:
        return resolve(MODEL_CLIENTS, "torch")
    except ModuleNotFoundError as error:
        raise ModelError(f"A torch/ model needs {error.name}: pip install 'edgewise[learner]'.") from None


class Router:
    """Client of all models: it connects on a model's first request, once per server, and closes all clients."""

    # Keys are server and whether it embeds. All methods run in one event loop: between two awaits no other task
    # changes these tables.

    def __init__(self) -> None:
        self._clients: dict[tuple[str, bool], Client] = {}
        self._opening: dict[tuple[str, bool], asyncio.Task[Client]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def ask(self, request: Request) -> Reply:
        """Send a request to the model that it names."""
        key = get_server(request.model), request.is_embedding
        client = self._clients.get(key) or await self._open(key, request.model)
        return await client.ask(request)

    async def _open(self, key: tuple[str, bool], model: str) -> Client:
        # A released model's memory must be free before the next one is loaded. Tasks stay in `_closing` until they
        # are done, so that requests which come meanwhile wait too.
        await asyncio.gather(*self._closing)
        if key not in self._opening:
            # In a thread, since loading a model blocks. Concurrent requests wait for the same task.
            self._opening[key] = asyncio.create_task(asyncio.to_thread(connect, model, key[1]))
        opening = self._opening[key]
        try:
            # Shielded: one cancelled request must not cancel the connection of the others.
            self._clients[key] = await asyncio.shield(opening)
        finally:
            if opening.done() and self._opening.get(key) is opening:
                del self._opening[key]
        return self._clients[key]

    def release(self, model: str) -> None:
        """
        Unload a model on this machine that has no requests in flight, so that its memory is free for another one.

        The next request to it loads it again.
        """
        client = self._clients.pop((model, False), None) if model.startswith(("torch/", "local/")) else None
        if client:
            closing = asyncio.create_task(client.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close every client, also those that are still connecting."""
        await asyncio.gather(*self._closing)
        opened = await asyncio.gather(*self._opening.values(), return_exceptions=True)
        # By identity: a client may have arrived in `_clients` while its task was awaited here.
        clients = {id(c): c for c in (*self._clients.values(), *opened) if not isinstance(c, BaseException)}
        self._clients, self._opening = {}, {}
        for client in clients.values():
            await client.aclose()
