"""
Interface to models: a request goes in, a reply comes out.

`toolkit.model.router` finds the client of a model by its name (`openai/…`, `local/…`, `torch/…`, `http://host/v1#…`,
`scripted/…`, or a provider that litellm knows). Clients turn a provider's errors into ours:

    401, 403                    WrongKey
    404                         UnknownModel
    402, no quota left          ProviderDown
    400, 413, 422               a Reply with stop "refused"
    timeout                     RequestTimeout, a TransientError
    408, 409, 429, 5xx, network TransientError: a retry may succeed (see toolkit.model.middleware.Retry)

Texts of errors are redacted before they leave this file.
"""

import asyncio
import contextlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from edgewise.toolkit.errors import ModelError, ProviderDown, UnknownModel, WrongKey
from edgewise.toolkit.model import openai_format
from edgewise.toolkit.model.names import get_wire_name, is_loopback
from edgewise.toolkit.model.redact import redact
from edgewise.toolkit.types import Reply, Request

ALLOW_PAID_CALLS = True
"""Set to False (or set EDGEWISE_OFFLINE=1), and only loopback and scripted models answer."""

CONNECT_SECONDS = 30.0
"""Timeout for reaching a server. `toolkit.model.middleware.Timeout` limits the time of the whole answer."""

CALLS_PER_POOL = 16
"""The HTTP pool of the openai package searches all its connections for every call: small pools are faster."""

_log = logging.getLogger("edgewise")


class Client(Protocol):
    """Source of replies. A client belongs to the event loop that first used it."""

    async def ask(self, request: Request) -> Reply:
        """Answer one request."""
        ...

    async def aclose(self) -> None:
        """Close connections; the client is not used afterwards."""
        ...


class TransientError(ModelError):
    """
    Call that failed and may succeed if it is sent again.

    `status` is the HTTP status, None where there was no answer at all; `retry_after` is the wait in seconds that
    the provider asks for.
    """

    def __init__(self, sentence: str, status: int | None = None, retry_after: float | None = None):
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after


class RequestTimeout(TransientError):
    """No answer in time; the provider may have worked on it, and may bill it."""


class RemoteClient:
    """Base of clients of remote servers: the quirks of models, errors, the switch for paid calls."""

    def __init__(self, address: str, api_key: str | None, is_free: bool):
        self._address = address
        self._key = api_key or ""
        self._is_free = is_free
        self._quirks: dict[str, dict[str, str | None]] = {}  # by model

    async def ask(self, request: Request) -> Reply:
        """Answer one request; see the head of this module for errors."""
        paid_calls_are_off = not ALLOW_PAID_CALLS or os.environ.get("EDGEWISE_OFFLINE", "0") not in ("", "0")
        if not self._is_free and paid_calls_are_off:
            raise ModelError(f"{request.model} may cost money and paid calls are switched off (EDGEWISE_OFFLINE).")
        # Every turn of the loop learns one more quirk, so it ends.
        while True:
            quirks = self._quirks.get(request.model, {})
            body = self.build_body(request, quirks)
            start = time.perf_counter()
            try:
                data = await self.send(body, request.is_embedding)
                return self.read_reply(request, data, time.perf_counter() - start)
            except (openai_format.MalformedResponse, json.JSONDecodeError) as error:
                raise TransientError(self._describe(request, error), 502) from None
            except Exception as error:
                if not self._learn_quirk(request.model, error, body, quirks):
                    return self.translate_error(request, error, time.perf_counter() - start)

    # ---- what a kind of server may do in its own way ---------------------------------------------

    def get_model_name(self, model: str) -> str:
        """Return the name by which the server knows a model."""
        return get_wire_name(model)

    def build_body(self, request: Request, quirks: openai_format.Quirks) -> dict[str, Any]:
        """Return the JSON body of a request."""
        return openai_format.encode_request(request, self.get_model_name(request.model), quirks)

    async def send(self, body: dict[str, Any], is_embedding: bool) -> Any:
        """Return the provider's parsed JSON, a chat completion or an embedding; raise errors of the openai package."""
        raise NotImplementedError

    def read_reply(self, request: Request, data: Any, latency: float) -> Reply:
        """Return the reply in what `send` returned; raise `MalformedResponse`."""
        decode = openai_format.decode_embedding if request.is_embedding else openai_format.decode_completion
        return decode(data, latency)

    # ---- errors ----------------------------------------------------------------------------------

    def _learn_quirk(self, model: str, error: Exception, body: dict[str, Any], quirks: openai_format.Quirks) -> bool:
        """Remember a parameter that the model refuses by name; return whether another attempt makes sense."""
        if getattr(error, "status_code", None) not in (400, 422):
            return False
        parameter = getattr(error, "param", None)
        change = openai_format.find_quirk(str(error), parameter if isinstance(parameter, str) else None, body)
        # A change that this body already followed would rename a parameter there and back for ever.
        if not change or change.keys() & {*quirks, *quirks.values()}:
            return False
        known = self._quirks.setdefault(model, {})
        for name, other in change.items():
            if name not in known:  # concurrent calls learn the same quirk: warn once
                _log.warning("%s refuses %s: %s", model, name, f"sent as {other}" if other else "left out")
        self._quirks[model] = {**known, **change}
        return True

    def translate_error(self, request: Request, error: Exception, latency: float) -> Reply:
        """Return a refusal as a reply; raise other errors as ours, without their cause, since it may hold the key."""
        import openai

        sentence = self._describe(request, error)
        status = getattr(error, "status_code", None)

        # No answer: the network, a timeout, a server that is away.
        if isinstance(error, openai.APITimeoutError) and not _is_unreachable(error):
            raise RequestTimeout(sentence, 408) from None
        if (isinstance(error, openai.APIConnectionError) and status in (None, 500)) or _is_unreachable(error):
            raise TransientError(f"{sentence} The server can't be reached.") from None

        # No call was sent: the request or this code is at fault.
        if isinstance(error, UnicodeEncodeError):
            return openai_format.build_refusal("the request holds text that is not valid Unicode")
        if not isinstance(error, openai.OpenAIError):
            raise error
        if status is None:
            raise ModelError(sentence) from None

        # An answer with an HTTP status, from the user's errors to the server's.
        if status in (401, 403):
            raise WrongKey(f"{sentence} Check the API key.") from None
        if status == 404:
            raise UnknownModel(f"{sentence} Check the model's name and the server's address.") from None
        # openai answers 429 to an empty account, as to a busy one: only the code tells them apart.
        if status == 402 or "insufficient_quota" in f"{getattr(error, 'code', '')} {error}":
            raise ProviderDown(f"{sentence} Top up the account; the run resumes where it stopped.") from None
        # llama.cpp answers 500 to a text that its batch can't hold, and will again: that is a refusal.
        if (status in (408, 409, 429) or status >= 500) and "too large to process" not in sentence:
            raise TransientError(sentence, status, _read_retry_after(error)) from None
        return openai_format.build_refusal(sentence, Reply(openai_format.build_refusal("").message, latency=latency))

    def _describe(self, request: Request, error: Exception) -> str:
        text = redact(str(error), self._key).strip()[:500]
        return f"{request.model} at {self._address}: {text}"


class OpenAIClient(RemoteClient):
    """
    Client of any OpenAI-compatible server, through the openai package (2 or 3).

    `base_url` usually ends in `/v1`. `timeout` is in seconds, for parts of an answer. `closing` is called once when
    the client is closed.
    """

    path = "/chat/completions"

    def __init__(
        self, base_url: str, api_key: str, *, timeout: float | None = None, closing: Callable[[], Any] | None = None
    ):
        super().__init__(base_url, api_key, is_free=is_loopback(base_url))
        self._timeout = timeout
        self._closing = closing
        # openai clients, each with its own HTTP pool, and the calls in flight on each
        self._pools: Counter[Any] = Counter()
        self._open_pool()  # now, so that a broken setup fails before the first call

    async def send(self, body: dict[str, Any], is_embedding: bool) -> Any:
        """Post a body to the server and return its JSON."""
        path = "/embeddings" if is_embedding else self.path
        free = (client for client, calls in self._pools.items() if calls < CALLS_PER_POOL)
        client = next(free, None) or self._open_pool()
        self._pools[client] += 1
        try:
            return json.loads(await client.post(path, cast_to=str, body=body))
        finally:
            self._pools[client] -= 1

    def _open_pool(self) -> Any:
        from openai import AsyncOpenAI, Timeout

        # openai's own Timeout: the HTTP library beneath differs between versions 2 and 3.
        timeout = Timeout(self._timeout, connect=CONNECT_SECONDS)
        # Retries are ours (`middleware.Retry`), so that each attempt has its own reservation in the ledger.
        client = AsyncOpenAI(base_url=self._address, api_key=self._key, max_retries=0, timeout=timeout)
        self._pools[client] = 0
        return client

    async def aclose(self) -> None:
        """Close all connections, and the server if it is ours."""
        clients, self._pools = list(self._pools), Counter()
        for client in clients:
            await client.close()
        if self._closing:
            closing, self._closing = self._closing, None
            await asyncio.to_thread(closing)


def _is_unreachable(error: BaseException) -> bool:
    """
    Return whether no connection was made, by the causes of an error.

    By name, since the HTTP library differs between versions of the openai package, and since litellm calls such
    an error a 500 of the provider and keeps only its text.
    """
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in ("ConnectError", "ConnectTimeout", "ClientConnectorError"):
            return True
        cause = cause.__cause__ or cause.__context__
    return "Cannot connect to host" in str(error)


def _read_retry_after(error: Exception) -> float | None:
    """Return the wait that the provider asks for, in seconds: `retry-after-ms`, or `retry-after` as number or date."""
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
