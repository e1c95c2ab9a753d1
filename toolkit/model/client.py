"""
The one seam to models: a request goes in, a reply comes out.

`Router` asks any model by its name (`openai/…`, `local/…`, `torch/…`, `http://host/v1#…`, `scripted/…`, or a
provider that litellm knows) and keeps one connection per server. A provider's errors become ours at this border:

    401, 403                    WrongKey
    404                         UnknownModel
    402, no quota left          ProviderDown
    400, 413, 422               a Reply with stop "refused"
    timeout                     TimedOut, an Unanswered
    408, 409, 429, 5xx, network Unanswered: worth asking again (see toolkit.model.middleware.Retry)

Texts of errors are redacted before they leave this file.
"""

import asyncio
import contextlib
import importlib
import ipaddress
import json
import logging
import os
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from edgewise.toolkit.errors import ModelError, ProviderDown, TaskError, UnknownModel, WrongKey
from edgewise.toolkit.model.openai_format import (
    BadAnswer,
    Quirks,
    decode,
    decode_embedding,
    encode,
    quirk,
    refusal,
)
from edgewise.toolkit.model.redact import redact
from edgewise.toolkit.types import Reply, Request
from edgewise.toolkit.util.import_by_name import load

ALLOW_PAID_CALLS = True
"""Set to False (or set EDGEWISE_OFFLINE=1) and only loopback and scripted models may be asked."""

CONNECT = 30.0
"""Seconds for reaching a server; how long an answer may take is for `toolkit.model.middleware.Timeout` to say."""

WEIGHTS = "edgewise.learner.sampling.torch_client"
"""What answers for `torch/…`: resolved when such a model is asked, so that this file imports no upper package."""

_NO_PROVIDER = "LLM Provider NOT provided"
"""How litellm says that it knows no provider for a model."""

CALLS_PER_LANE = 16
"""The HTTP pool of the openai package looks at all its connections for every call: small pools are faster."""

_log = logging.getLogger("edgewise")


class Client(Protocol):
    """Whatever answers requests. A client belongs to the event loop that first used it."""

    async def ask(self, request: Request) -> Reply:
        """Answer one request."""
        ...

    async def aclose(self) -> None:
        """Let go of connections; the client is not used after this."""
        ...


class Unanswered(ModelError):
    """
    A call that was not answered but may be if asked again.

    `status` is the HTTP status, None where there was no answer at all; `retry_after` is the wait in seconds
    that the provider asked for.
    """

    def __init__(self, sentence: str, status: int | None = None, retry_after: float | None = None):
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after


class TimedOut(Unanswered):
    """No answer in time; the provider may have worked on it, and may bill it."""


def is_loopback(url: str) -> bool:
    """Whether the URL points to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def forbid_paid(model: str) -> None:
    """Raise `ModelError` if calls that may cost money are switched off."""
    if not ALLOW_PAID_CALLS or os.environ.get("EDGEWISE_OFFLINE", "0") not in ("", "0"):
        raise ModelError(f"{model} may cost money and paid calls are switched off (EDGEWISE_OFFLINE).")


class _Remote:
    """What all remote servers share: parameters that a model refuses, errors, the switch for paid calls."""

    def __init__(self, where: str, api_key: str | None, free: bool):
        self._where = where
        self._key = api_key or ""
        self._free = free
        self._quirks: dict[str, dict[str, str | None]] = {}

    async def ask(self, request: Request) -> Reply:
        """Answer one request; see the head of this module for errors."""
        if not self._free:
            forbid_paid(request.model)
        while True:
            quirks = self._quirks.get(request.model, {})
            body = self._body(request, quirks)
            start = time.perf_counter()
            try:
                found = await self._send(body, request.embeds)
                return self._read(request, found, time.perf_counter() - start)
            except (BadAnswer, json.JSONDecodeError) as error:
                raise Unanswered(self._sentence(request, redact(str(error), self._key)), 502) from None
            except Exception as error:
                if not self._learn(request.model, error, body, quirks):
                    return self._translate(request, error, time.perf_counter() - start)

    def _name(self, model: str) -> str:
        return wire_name(model)

    def _body(self, request: Request, quirks: Quirks) -> dict[str, Any]:
        return encode(request, self._name(request.model), quirks)

    def _read(self, request: Request, data: Any, latency: float) -> Reply:
        """The reply in what `_send` gave; raises `BadAnswer`."""
        return (decode_embedding if request.embeds else decode)(data, latency)

    async def _send(self, body: dict[str, Any], embeds: bool) -> Any:
        """The provider's JSON, parsed: a chat completion or an embedding; raises errors of the openai package."""
        raise NotImplementedError

    def _learn(self, model: str, error: Exception, body: dict[str, Any], quirks: Quirks) -> bool:
        """Remember a parameter that the model refuses by name; whether asking again makes sense."""
        if getattr(error, "status_code", None) not in (400, 422):
            return False
        blamed = getattr(error, "param", None)
        change = quirk(str(error), blamed if isinstance(blamed, str) else None, body)
        if not change or change.keys() & {*quirks, *quirks.values()}:
            return False  # what was sent minded this already: there and back again would never end
        known = self._quirks.setdefault(model, {})
        for name, other in change.items():
            if name not in known:
                _log.warning("%s refuses %s: %s", model, name, f"sent as {other}" if other else "left out")
        self._quirks[model] = {**known, **change}
        return True

    def _translate(self, request: Request, error: Exception, latency: float) -> Reply:
        """A refusal as a reply; other errors are raised as ours, without their cause: it may hold the key."""
        import openai

        sentence = self._sentence(request, redact(str(error), self._key))
        status = getattr(error, "status_code", None)
        if isinstance(error, openai.APITimeoutError) and not _unreachable(error):
            raise TimedOut(sentence, 408) from None
        if (isinstance(error, openai.APIConnectionError) and status in (None, 500)) or _unreachable(error):
            raise Unanswered(f"{sentence} The server can't be reached.") from None
        if isinstance(error, UnicodeEncodeError):
            return refusal("the request holds text that is not valid Unicode")
        if not isinstance(error, openai.OpenAIError):
            raise error
        if status is None:
            raise ModelError(sentence) from None
        if status in (401, 403):
            raise WrongKey(f"{sentence} Check the API key.") from None
        if status == 404:
            raise UnknownModel(f"{sentence} Check the model's name and the server's address.") from None
        if status == 402 or "insufficient_quota" in f"{getattr(error, 'code', '')} {error}":
            raise ProviderDown(f"{sentence} Top up the account; the run resumes where it stopped.") from None
        if (status in (408, 409, 429) or status >= 500) and "too large to process" not in sentence:
            raise Unanswered(sentence, status, _retry_after(error)) from None
        # Or too large: llama.cpp answers a text that its batch can't hold with 500, now and ever.
        return refusal(sentence, Reply(refusal("").message, latency=latency))

    def _sentence(self, request: Request, what: str) -> str:
        return f"{request.model} at {self._where}: {what.strip()[:500]}"


class OpenAIClient(_Remote):
    """
    Any OpenAI-compatible server, through the openai package (2 or 3).

    `base_url` ends in `/v1` as a rule. `timeout` is in seconds, for parts of an answer. `closing` is called
    once when the client is closed.
    """

    path = "/chat/completions"

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout: float | None = None,
        closing: Callable[[], Any] | None = None,
    ):
        super().__init__(base_url, api_key, free=is_loopback(base_url))
        self._timeout = timeout
        self._closing = closing
        self._lanes: list[_Lane] = []
        self._open_lane()

    async def _send(self, body: dict[str, Any], embeds: bool) -> Any:
        path = "/embeddings" if embeds else self.path
        lane = next((lane for lane in self._lanes if lane.busy < CALLS_PER_LANE), None) or self._open_lane()
        lane.busy += 1
        try:
            return json.loads(await lane.client.post(path, cast_to=str, body=body))
        finally:
            lane.busy -= 1

    def _open_lane(self) -> "_Lane":
        from openai import AsyncOpenAI, Timeout

        # openai's own name for it: the HTTP library beneath differs between versions 2 and 3.
        timeout = Timeout(self._timeout, connect=CONNECT)
        client = AsyncOpenAI(base_url=self._where, api_key=self._key, max_retries=0, timeout=timeout)
        self._lanes.append(_Lane(client))
        return self._lanes[-1]

    async def aclose(self) -> None:
        """Close all connections, and the server if it is ours."""
        lanes, self._lanes = self._lanes, []
        for lane in lanes:
            await lane.client.close()
        if self._closing:
            closing, self._closing = self._closing, None
            await asyncio.to_thread(closing)


class _Lane:
    """One small connection pool and how many calls are on it."""

    __slots__ = ("busy", "client")

    def __init__(self, client: Any):
        self.client = client
        self.busy = 0


class LiteLLMClient(_Remote):
    """Every other provider, through litellm, with its own retries and caches off."""

    def __init__(self, api_base: str | None = None, api_key: str | None = None):
        super().__init__(api_base or "litellm", api_key, free=bool(api_base) and is_loopback(api_base))
        self._fixed = {k: v for k, v in (("api_base", api_base), ("api_key", api_key)) if v}
        self._known: set[str] = set()

    def _name(self, model: str) -> str:
        if model not in self._known:
            litellm = _litellm()
            try:
                litellm.get_llm_provider(model)
            except Exception as error:
                # litellm raises one class for everything that went wrong there: only its text tells them apart.
                if _NO_PROVIDER in str(error):
                    raise UnknownModel(
                        f"{model}: no such provider; a model is named PROVIDER/NAME."
                    ) from None
                reason = " ".join(redact(str(error), self._key).split())[:500]
                raise ModelError(
                    f"{model}: litellm failed when asked for the provider: {type(error).__name__}: {reason}"
                ) from error
            self._known.add(model)
        return model

    async def _send(self, body: dict[str, Any], embeds: bool) -> Any:
        off = {"num_retries": 0, "max_retries": 0, "caching": False}
        if embeds:
            answer = await _litellm().aembedding(**body, **self._fixed, **off, drop_params=True)
        else:
            # litellm hands calls with tools to its MCP gateway, which needs packages that it does not install.
            off["_skip_mcp_handler"] = True
            answer = await _litellm().acompletion(**body, **self._fixed, **off, drop_params=True)
        return answer.model_dump()

    async def aclose(self) -> None:
        """Close the HTTP clients that litellm keeps."""
        if not self._known:
            return
        close = getattr(_litellm(), "close_litellm_async_clients", None)
        if close:
            await close()


@lru_cache(maxsize=1)
def _litellm() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        litellm: Any = importlib.import_module("litellm")
    except ModuleNotFoundError as error:
        if error.name != "litellm":
            raise  # litellm is there and broken: installing it once more is no help
        raise ModelError("This provider needs litellm: pip install litellm.") from None
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.cache = None
    return litellm


def _unreachable(error: BaseException) -> bool:
    """
    Whether no connection was made, by what lies under an error.

    By name, since the HTTP library differs between versions of the openai package, and since litellm calls such
    an error a 500 of the provider and keeps only its text.
    """
    found: BaseException | None = error
    while found is not None:
        if type(found).__name__ in ("ConnectError", "ConnectTimeout", "ClientConnectorError"):
            return True
        found = found.__cause__ or found.__context__
    return "Cannot connect to host" in str(error)


def _retry_after(error: Exception) -> float | None:
    """The provider's wish in seconds: `retry-after-ms`, or `retry-after` in seconds or as a date."""
    response = getattr(error, "response", None)
    headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", None) or {}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            if name in headers:
                return max(0.0, float(headers[name]) * unit)
    with contextlib.suppress(ValueError):
        if "retry-after" in headers:
            return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    return None


@lru_cache(maxsize=1024)
def server_of(model: str) -> str:
    """
    Which connection a model name uses: models of one server share it.

    Raises `ModelError` for a name without a provider.
    """
    kind, slash, name = model.partition("/")
    if model.startswith(("http://", "https://")):
        url, hash_, name = model.partition("#")
        if not (hash_ and name):
            raise ModelError(f"{model} names a server but no model: write {url}#MODEL.")
        return url.rstrip("/")
    if not (slash and name):
        raise ModelError(f"{model!r} has no provider: write PROVIDER/NAME, such as openai/{model}.")
    if kind in ("scripted", "local", "torch"):
        return model
    return kind


@lru_cache(maxsize=1024)
def wire_name(model: str) -> str:
    """The name by which a server knows a model: without our prefix."""
    if model.startswith(("http://", "https://")):
        return model.partition("#")[2]
    kind, _, name = model.partition("/")
    return name if kind in ("openai", "local") and name else model


def connect(name: str, embeds: bool = False) -> Client:
    """
    A client for the server of model `name`; any model of that server may be asked through it.

    An embedded model answers requests that `embeds` from a server of its own, and no others there.

    May take long for `local/…` and `torch/…`, which are fetched and loaded. Raises `ModelError`.
    """
    server = server_of(name)
    kind, _, rest = server.partition("/")
    if kind in ("http:", "https:"):
        return OpenAIClient(server, os.environ.get("EDGEWISE_API_KEY", "none"))
    if kind == "openai":
        return _openai()
    if kind == "scripted":
        return _scripted(rest)
    if kind == "local":
        from edgewise.toolkit.model.embedded.download import serve

        room = {"context": 2048, "parallel": 4} if embeds else {}
        local = serve(rest, embeds=embeds, **room)
        return OpenAIClient(local.url, "none", closing=local.close)
    if kind == "torch":
        if embeds:
            raise ModelError(f"{name} writes text and gives no vectors: name a model for embeddings.")
        return _weights().TorchClient.load(rest)
    return LiteLLMClient()


def check(name: str) -> None:
    """Whatever can be known of a model name without asking anybody. Raises `ModelError`."""
    kind, _, rest = server_of(name).partition("/")
    if kind == "openai":
        _openai()
    elif kind == "scripted":
        _scripted(rest)
    elif kind == "local":
        from edgewise.toolkit.model.embedded.download import find

        find(rest)
    elif kind == "torch":
        _weights().check(rest)


def _weights() -> Any:
    try:
        return importlib.import_module(WEIGHTS)
    except ImportError as error:
        raise ModelError(f"A torch/ model needs {error.name}: pip install 'edgewise[learner]'.") from None


def _openai() -> Client:
    url = os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    key = os.environ.get("OPENAI_API_KEY") or ("none" if is_loopback(url) else "")
    if not key:
        raise WrongKey("OPENAI_API_KEY is not set: models named openai/… need it.")
    return OpenAIClient(url, key)


def _scripted(place: str) -> Client:
    from edgewise.toolkit.model.scripted import Scripted

    try:
        return Scripted(load(place, Path.cwd()))
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
        server = server_of(request.model), request.embeds
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
