"""
OpenAI-compatible server over any async function that answers a `Request`.

    application ── routes ── parse_chat ── answer(request) ── render_completion or stream_events

`run_server` puts an app on a port. `find_answerer` finds the function for an artefact by name (`toolkit.registry`), so
that this file imports no package above it.
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

from edgewise.toolkit.errors import ArtifactError, ConfigError, EdgewiseError, LimitReached, ModelError, ProviderDown
from edgewise.toolkit.registry import ANSWERERS, resolve
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.driver import ModelClient
from edgewise.toolkit.serve import chat_format
from edgewise.toolkit.types import Reply, Request, Sampling

Answer = Callable[[Request], Awaitable[Reply]]
Answerer = Callable[[Artifact, str, ModelClient], Answer]
"""Builds the function that answers with an artefact, from the artefact, the model to use and a client."""

MAX_BODY_BYTES = 16 << 20
SHUTDOWN_SECONDS = 30
"""Time for running requests to finish when the server stops."""

_log = logging.getLogger("edgewise")


# ---- the endpoint ----------------------------------------------------------------------------------


def application(answer: Answer, *, name: str, token: str = "") -> Any:
    """
    Return the ASGI app: /v1/chat/completions (streamed too), /v1/models and /health.

    `name` is the name of the model; a client may send any other. With a `token`, all routes but /health need it as the
    API key.
    """
    return route_by_key(lambda key: None if key else answer, name=name, token=token)


def route_by_key(find: Callable[[str], Answer | None], *, name: str, token: str = "") -> Any:
    """Return one app for many functions: `find(KEY)` answers /run/KEY/v1/..., `find("")` answers /v1/...."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    # Starlette is imported here: a program that serves nothing does not need the package.
    async def completions(http: Any) -> Any:
        answer = find(http.path_params.get("key", ""))
        if answer is None:
            return respond_error(404, "There is nothing at this address.", "not_found")
        return check_token(http, token) or await respond(http, answer, name)

    async def models(http: Any) -> Any:
        model = {"id": name, "object": "model", "created": 0, "owned_by": "edgewise"}
        return check_token(http, token) or JSONResponse({"object": "list", "data": [model]})

    async def health(http: Any) -> Any:
        return JSONResponse({"status": "ok"})

    routes = [Route("/health", health)]
    for prefix in ("", "/run/{key}"):
        routes.append(Route(f"{prefix}/v1/chat/completions", completions, methods=["POST"]))
        routes.append(Route(f"{prefix}/v1/models", models))
    return Starlette(routes=routes)


def check_token(http: Any, token: str) -> Any:
    """Return the refusal of a request without the token, None for one that may pass."""
    header = http.headers.get("authorization", "")
    # Compared in constant time: the time of a refusal must not reveal how much of a guess is right.
    if not token or hmac.compare_digest(header.encode(), f"Bearer {token}".encode()):
        return None
    return respond_error(401, "The API key is missing or wrong.", "invalid_api_key")


async def respond(http: Any, answer: Answer, name: str) -> Any:
    """Answer a chat completion; an error becomes a response in OpenAI's format."""
    from starlette.responses import JSONResponse, StreamingResponse

    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": name}
    try:
        chat = chat_format.parse_chat(await read_body(http))
        reply = await answer(chat.request)
    except chat_format.BadRequest as error:
        return respond_error(400, str(error), "invalid_request_error")
    except Exception as error:
        return respond_exception(error)

    # A request that the provider refused or that failed is a reply, not an exception.
    if reply.failed:
        failures = {"refused": (400, "invalid_request_error"), "timeout": (504, "timeout")}
        status, kind = failures.get(reply.stop, (502, "upstream_error"))
        return respond_error(status, reply.error or reply.stop, kind)
    if chat.stream:
        usage = bool(chat.stream_options and chat.stream_options.include_usage)
        events = chat_format.stream_events(reply, head, usage)
        return StreamingResponse(events, media_type="text/event-stream")
    return JSONResponse(chat_format.render_completion(reply, head))


async def read_body(http: Any) -> bytes:
    """Return the body of a request. Raises BadRequest for one that is too large, before all of it is read."""
    # Content-Length may be absent or wrong, so the bytes are counted.
    parts, size = [], 0
    async for part in http.stream():
        parts.append(part)
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise chat_format.BadRequest(f"The request is larger than {MAX_BODY_BYTES >> 20} MiB.")
    return b"".join(parts)


def respond_exception(error: Exception) -> Any:
    """Return the response to an exception; a client learns nothing of one that is not ours."""
    match error:
        case LimitReached():
            return respond_error(429, str(error), "insufficient_quota")
        case ProviderDown():
            return respond_error(503, str(error), "upstream_error")
        case ModelError():
            return respond_error(502, str(error), "upstream_error")
        case EdgewiseError():
            return respond_error(500, str(error), "server_error")
    _log.error("a request failed", exc_info=error)
    return respond_error(500, "The server failed; its log says why.", "server_error")


def respond_error(status: int, sentence: str, kind: str) -> Any:
    """Return an error response in OpenAI's format."""
    from starlette.responses import JSONResponse

    # openai clients retry on 429 and 5xx; a limit that is reached stays reached.
    headers = {"x-should-retry": "false"} if kind == "insufficient_quota" else None
    return JSONResponse(chat_format.render_error(sentence, kind), status, headers=headers)


# ---- on a port -------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def run_server(app: Any, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """
    Serve an app while the block runs; yields its URL without a path. Port 0 picks a free one.

    At the end nothing new is accepted, and running requests have `SHUTDOWN_SECONDS`. Raises ConfigError if the port
    can't be used or the packages are missing.
    """
    uvicorn = import_uvicorn()
    listener = bind(host, port)
    config = uvicorn.Config(app, lifespan="off", log_level="warning", timeout_graceful_shutdown=SHUTDOWN_SECONDS)
    server = uvicorn.Server(config)
    # uvicorn would take over Ctrl-C, which belongs to the caller's loop.
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        # uvicorn has no signal for "started".
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host).version == 6:
                host = f"[{host}]"
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


def import_uvicorn() -> Any:
    """Import uvicorn. Raises ConfigError if the packages for serving are missing."""
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ModuleNotFoundError:
        raise ConfigError("Serving needs two more packages: pip install 'edgewise[serve]'.") from None
    return uvicorn


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address. Raises ConfigError, which uvicorn would only log."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"There is no address {host}:{port} ({error}).") from error
    try:
        # A server that restarts gets its port back at once, without the minute of TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"{host}:{port} can't be used ({error.strerror}): choose another --port.") from error
    return listener


# ---- an artefact -----------------------------------------------------------------------------------


def find_answerer(artifact: Artifact) -> Answerer:
    """Return what answers with an artefact. Raises ArtifactError if nothing does."""
    file = next((file for file in ANSWERERS if file in artifact.files), None)
    if file is None:
        raise ArtifactError(f"This artefact holds nothing to serve: neither of {', '.join(ANSWERERS)} is in it.")
    return resolve(ANSWERERS, file)


def answer_with_weights(artifact: Artifact, model: str, client: ModelClient) -> Answer:
    """Return what answers with a trained model: the model itself, with the settings of its evaluation."""

    async def answer(request: Request) -> Reply:
        sampling = merge_sampling(request, artifact.sampling)
        return await client.ask(replace(request, model=model, sampling=sampling))

    return answer


def merge_sampling(request: Request, default: Sampling) -> Sampling:
    """Return the sampling that the client asks for, completed by the default; the smaller `max_tokens` holds."""
    own = request.sampling
    return replace(
        own,
        temperature=default.temperature if own.temperature is None else own.temperature,
        top_p=default.top_p if own.top_p is None else own.top_p,
        max_tokens=min(filter(None, (own.max_tokens, default.max_tokens)), default=None),
    )
