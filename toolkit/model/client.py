"""
The one seam to models: a request goes in, a reply comes out.

`Router` asks any model by its name (`openai/…`, `local/…`, `torch/…`, `http://host/v1#…`, `scripted/…`, or a
provider that litellm knows) and keeps one connection per server. A provider's errors become ours at this border:

    401, 403                    WrongKey
    404                         UnknownModel
    402, no quota left          ProviderDown
    400, 413, 422               a Reply with stop "refused"
    timeout                     RequestTimeout, an TransientError
    408, 409, 429, 5xx, network TransientError: worth asking again (see toolkit.model.middleware.Retry)

Texts of errors are redacted before they leave this file.
"""

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from edgewise.toolkit.errors import ModelError, ProviderDown, UnknownModel, WrongKey
from edgewise.toolkit.model.names import is_loopback, get_wire_name
from edgewise.toolkit.model.openai_format import (
    MalformedResponse,
    Quirks,
    decode_completion,
    decode_embedding,
    encode_request,
    find_quirk,
    build_refusal,
)
from edgewise.toolkit.model.redact import redact
from edgewise.toolkit.types import Reply, Request

ALLOW_PAID_CALLS = True
"""Set to False (or set EDGEWISE_OFFLINE=1) and only loopback and scripted models may be asked."""

CONNECT_SECONDS = 30.0
"""Seconds for reaching a server; how long an answer may take is for `toolkit.model.middleware.Timeout` to say."""


CALLS_PER_POOL = 16
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


class TransientError(ModelError):
    """
    A call that was not answered but may be if asked again.

    `status` is the HTTP status, None where there was no answer at all; `retry_after` is the wait in seconds
    that the provider asked for.
    """

    def __init__(self, sentence: str, status: int | None = None, retry_after: float | None = None):
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after


class RequestTimeout(TransientError):
    """No answer in time; the provider may have worked on it, and may bill it."""


def forbid_paid(model: str) -> None:
    """Raise `ModelError` if calls that may cost money are switched off."""
    if not ALLOW_PAID_CALLS or os.environ.get("EDGEWISE_OFFLINE", "0") not in ("", "0"):
        raise ModelError(f"{model} may cost money and paid calls are switched off (EDGEWISE_OFFLINE).")


class RemoteClient:
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
                found = await self._send(body, request.is_embedding)
                return self._read(request, found, time.perf_counter() - start)
            except (MalformedResponse, json.JSONDecodeError) as error:
                raise TransientError(self._sentence(request, redact(str(error), self._key)), 502) from None
            except Exception as error:
                if not self._learn(request.model, error, body, quirks):
                    return self._translate(request, error, time.perf_counter() - start)

    def _name(self, model: str) -> str:
        return get_wire_name(model)

    def _body(self, request: Request, quirks: Quirks) -> dict[str, Any]:
        return encode_request(request, self._name(request.model), quirks)

    def _read(self, request: Request, data: Any, latency: float) -> Reply:
        """The reply in what `_send` gave; raises `MalformedResponse`."""
        return (decode_embedding if request.is_embedding else decode_completion)(data, latency)

    async def _send(self, body: dict[str, Any], embeds: bool) -> Any:
        """The provider's JSON, parsed: a chat completion or an embedding; raises errors of the openai package."""
        raise NotImplementedError

    def _learn(self, model: str, error: Exception, body: dict[str, Any], quirks: Quirks) -> bool:
        """Remember a parameter that the model refuses by name; whether asking again makes sense."""
        if getattr(error, "status_code", None) not in (400, 422):
            return False
        blamed = getattr(error, "param", None)
        change = find_quirk(str(error), blamed if isinstance(blamed, str) else None, body)
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
            raise RequestTimeout(sentence, 408) from None
        if (isinstance(error, openai.APIConnectionError) and status in (None, 500)) or _unreachable(error):
            raise TransientError(f"{sentence} The server can't be reached.") from None
        if isinstance(error, UnicodeEncodeError):
            return build_refusal("the request holds text that is not valid Unicode")
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
            raise TransientError(sentence, status, _retry_after(error)) from None
        # Or too large: llama.cpp answers a text that its batch can't hold with 500, now and ever.
        return build_refusal(sentence, Reply(build_refusal("").message, latency=latency))

    def _sentence(self, request: Request, what: str) -> str:
        return f"{request.model} at {self._where}: {what.strip()[:500]}"


class OpenAIClient(RemoteClient):
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
        self._lanes: list[_Pool] = []
        self._open_lane()

    async def _send(self, body: dict[str, Any], embeds: bool) -> Any:
        path = "/embeddings" if embeds else self.path
        lane = next((lane for lane in self._lanes if lane.busy < CALLS_PER_POOL), None) or self._open_lane()
        lane.busy += 1
        try:
            return json.loads(await lane.client.post(path, cast_to=str, body=body))
        finally:
            lane.busy -= 1

    def _open_lane(self) -> "_Pool":
        from openai import AsyncOpenAI, Timeout

        # openai's own name for it: the HTTP library beneath differs between versions 2 and 3.
        timeout = Timeout(self._timeout, connect=CONNECT_SECONDS)
        client = AsyncOpenAI(base_url=self._where, api_key=self._key, max_retries=0, timeout=timeout)
        self._lanes.append(_Pool(client))
        return self._lanes[-1]

    async def aclose(self) -> None:
        """Close all connections, and the server if it is ours."""
        lanes, self._lanes = self._lanes, []
        for lane in lanes:
            await lane.client.close()
        if self._closing:
            closing, self._closing = self._closing, None
            await asyncio.to_thread(closing)


class _Pool:
    """One small connection pool and how many calls are on it."""

    __slots__ = ("busy", "client")

    def __init__(self, client: Any):
        self.client = client
        self.busy = 0


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
