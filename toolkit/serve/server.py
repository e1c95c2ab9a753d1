"""
An OpenAI-compatible endpoint over any async function that answers a `Request`.

`application` is the ASGI app, `running` puts it on a port, `command` is `edgewise serve ARTIFACT`. The packages that
know what an artefact means are found by the file that it holds (`toolkit.registry`), so that this file imports none of them.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from edgewise.toolkit.errors import (
    ArtifactError,
    ConfigError,
    EdgewiseError,
    LimitReached,
    ModelError,
    ProviderDown,
)
from edgewise.toolkit.registry import ANSWERERS, resolve
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.driver import ModelClient
from edgewise.toolkit.serve import chat_format
from edgewise.toolkit.types import Reply, Request, Sampling

Answer = Callable[[Request], Awaitable[Reply]]
Answerer = Callable[[Artifact, str, ModelClient], Answer]
"""What a package has: from an artefact, the model to use and a client to the function that answers."""

LARGEST = 16 << 20
"""Bytes of a request's body."""

GRACE = 30
"""Seconds that requests under way get when the server is stopped."""

BEARER = "Bearer "
_log = logging.getLogger("edgewise")


# ---- the endpoint --------------------------------------------------------------------------------


def application(answer: Answer, *, name: str, token: str = "") -> Any:
    """
    The ASGI app: /v1/chat/completions (streamed too), /v1/models and /health.

    `name` is the model's name; a client may name any other. With a `token`, all but /health need it as the API key.
    """
    return route_by_key(lambda key: None if key else answer, name=name, token=token)


def route_by_key(find: Callable[[str], Answer | None], *, name: str, token: str = "") -> Any:
    """The same for many functions on one port: /run/KEY/v1/... is answered by `find(KEY)`, /v1/... by `find("")`."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def completions(http: Any) -> Any:
        answer = find(http.path_params.get("key", ""))
        if answer is None:
            return _error(404, "There is nothing at this address.", "not_found")
        return _forbidden(http, token) or await _answered(http, answer, name)

    async def models(http: Any) -> Any:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "edgewise"}]
        return _forbidden(http, token) or JSONResponse({"object": "list", "data": listed})

    async def health(http: Any) -> Any:
        return JSONResponse({"status": "ok"})

    routes = [Route("/health", health)]
    for prefix in ("", "/run/{key}"):
        routes.append(Route(f"{prefix}/v1/chat/completions", completions, methods=["POST"]))
        routes.append(Route(f"{prefix}/v1/models", models))
    return Starlette(routes=routes)


def _forbidden(http: Any, token: str) -> Any:
    """The refusal of who does not have the token; None for who may enter."""
    given = http.headers.get("authorization", "")
    if not token or hmac.compare_digest(given.encode(), f"{BEARER}{token}".encode()):
        return None
    return _error(401, "The API key is missing or wrong.", "invalid_api_key")


async def _answered(http: Any, answer: Answer, name: str) -> Any:
    from starlette.responses import JSONResponse, StreamingResponse

    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": name}
    try:
        asked = chat_format.parse_chat(await _body(http))
        reply = await answer(asked.request)
    except chat_format.BadRequest as error:
        return _error(400, str(error), "invalid_request_error")
    except Exception as error:
        return _failed(error)
    if reply.failed:
        status, kind = {"refused": (400, "invalid_request_error"), "timeout": (504, "timeout")}.get(
            reply.stop, (502, "upstream_error")
        )
        return _error(status, reply.error or reply.stop, kind)
    if asked.stream:
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        return StreamingResponse(chat_format.stream_events(reply, head, usage), media_type="text/event-stream")
    return JSONResponse(chat_format.render_completion(reply, head))


async def _body(http: Any) -> bytes:
    """The body of a request. Raises BadRequest for one that is too large, before all of it is read."""
    parts, size = [], 0
    async for part in http.stream():
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            raise chat_format.BadRequest(f"The request is larger than {LARGEST >> 20} MiB.")
    return b"".join(parts)


def _failed(error: Exception) -> Any:
    """What a client is told of an error; of one that is none of ours, nothing but that it happened."""
    match error:
        case LimitReached():
            return _error(429, str(error), "insufficient_quota")
        case ProviderDown():
            return _error(503, str(error), "upstream_error")
        case ModelError():
            return _error(502, str(error), "upstream_error")
        case EdgewiseError():
            return _error(500, str(error), "server_error")
    _log.error("a request failed", exc_info=error)
    return _error(500, "The server failed; its log says why.", "server_error")


def _error(status: int, sentence: str, kind: str) -> Any:
    from starlette.responses import JSONResponse

    # An openai client asks again on 429 and 5xx; where a limit is reached that would help nobody.
    headers = {"x-should-retry": "false"} if kind == "insufficient_quota" else None
    return JSONResponse(chat_format.render_error(sentence, kind), status, headers=headers)


# ---- on a port -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def run_server(app: Any, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """
    Serve an app while the block runs; gives its URL without a path. Port 0 takes a free one.

    At the end nothing new is accepted and requests under way have `GRACE` seconds. Raises ConfigError where the port
    can't be had, or the packages are missing.
    """
    uvicorn = import_uvicorn()
    listening = _bound(host, port)
    config = uvicorn.Config(app, lifespan="off", log_level="warning", timeout_graceful_shutdown=GRACE)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # signals are for whoever runs the server
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        yield _url(host, listening.getsockname()[1])
    finally:
        server.should_exit = True
        await task
        listening.close()


def import_uvicorn() -> Any:
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ModuleNotFoundError:
        raise ConfigError("Serving needs two more packages: pip install 'edgewise[serve]'.") from None
    return uvicorn


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"There is no address {host}:{port} ({error}).") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"{host}:{port} can't be used ({error.strerror}): choose another --port."
        ) from error
    return listening


def _url(host: str, port: int) -> str:
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).version == 6:
            host = f"[{host}]"
    return f"http://{host}:{port}"


# ---- an artefact ---------------------------------------------------------------------------------


def find_answerer(artifact: Artifact) -> Answerer:
    """What answers with an artefact. Raises ArtifactError where nothing does."""
    file = next((file for file in ANSWERERS if file in artifact.files), None)
    if file is None:
        raise ArtifactError(
            f"This artefact holds nothing to serve: neither of {', '.join(ANSWERERS)} is in it."
        )
    return resolve(ANSWERERS, file)


def answer_with_weights(artifact: Artifact, model: str, client: ModelClient) -> Answer:
    """What answers with a model that was trained: itself, with the settings that it was measured with."""

    async def answer(request: Request) -> Reply:
        sampling = merge_sampling(request, artifact.sampling)
        return await client.ask(replace(request, model=model, sampling=sampling))

    return answer


def merge_sampling(request: Request, usual: Sampling) -> Sampling:
    """How a reply is drawn: as the client wants, else as the artefact was measured."""
    asked = request.sampling
    return replace(
        asked,
        temperature=usual.temperature if asked.temperature is None else asked.temperature,
        top_p=usual.top_p if asked.top_p is None else asked.top_p,
        max_tokens=min(filter(None, (asked.max_tokens, usual.max_tokens)), default=None),
    )
