"""
A real OpenAI-compatible server on loopback, for tests and benches.

In a test: `with Server(answer) as server: ... server.url`. By itself (`python tests/support/server.py`) it prints its
URL and answers every call at once with the same bytes, until its standard input is closed.
"""

import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Body = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """Error instead of an answer; `status` None drops the connection."""

    status: int | None
    message: str = "scripted fault"
    headers: dict[str, str] = field(default_factory=dict)
    param: str | None = None
    code: str | None = None

    @property
    def body(self) -> bytes:
        return json.dumps(
            {"error": {"message": self.message, "type": "error", "param": self.param, "code": self.code}}
        ).encode()


def in_order(*faults: Fault | None) -> Callable[[Body], Fault | None]:
    """Return faults for the first calls, one each (None: no fault); later calls are answered."""
    left = iter(faults)
    return lambda body: next(left, None)


def echo(body: Body) -> str:
    """Return the last message, or the text to embed; some clients send a list of one."""
    if "messages" in body:
        return body["messages"][-1]["content"]
    return body["input"] if isinstance(body["input"], str) else body["input"][0]


def letters(body: Body) -> list[float]:
    """Return a vector of a text: how often it has each letter."""
    return [float(echo(body).lower().count(letter)) for letter in "abcdefghijklmnopqrstuvwxyz"]


class Server:
    """
    Server of chat completions and embeddings, in a thread of its own.

    `answer(body)` returns a text, or a whole message as a dict; `embedding(body)` a vector, or the bytes to send;
    `faults(body)` an error instead of them.

    Usage is counted in words, `cached` of the input. `counts` counts the last messages, `bodies` and `headers` hold
    every call in order, `most_at_once` is the largest number of calls in flight.
    """

    def __init__(
        self,
        answer: Callable[[Body], Any] = echo,
        *,
        embedding: Callable[[Body], Any] = letters,
        faults: Callable[[Body], Fault | None] = lambda body: None,
        latency: float = 0.0,
        usage: bool = True,
        cached: int = 0,
    ):
        self.answer = answer
        self.embedding = embedding
        self.faults = faults
        self.latency = latency
        self.usage = usage
        self.cached = cached
        self.counts: Counter[str] = Counter()
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._at_once = 0

    def __enter__(self) -> "Server":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> str:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", self._handle)
        app.router.add_post("/v1/embeddings", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        return await listen(self._runner)

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        self.bodies.append(body)
        self.headers.append(dict(http.headers))
        self.counts[echo(body)] += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            return self._respond(http, body)
        finally:
            self._at_once -= 1

    def _respond(self, http: web.Request, body: Body) -> web.Response:
        if fault := self.faults(body):
            if fault.status is None:
                assert http.transport
                http.transport.abort()
            return web.Response(
                status=fault.status or 500, body=fault.body, headers=fault.headers, content_type="application/json"
            )
        return web.Response(body=self._answer(body), content_type="application/json")

    def _answer(self, body: Body) -> bytes:
        if "input" in body:
            return embedded(body, self.embedding(body), self.usage)
        answer = self.answer(body)
        message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
        return completion(body, message, self.usage, self.cached)


def completion(body: Body, message: Any, usage: bool = True, cached: int = 0) -> bytes:
    """Return the bytes of a chat completion; a message that is bytes is sent unchanged."""
    if isinstance(message, bytes):
        return message
    finish = message.pop("finish_reason", "tool_calls" if message.get("tool_calls") else "stop")
    answer: Body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }
    if usage:
        prompt = sum(len((m.get("content") or "").split()) for m in body["messages"])
        output = len((message.get("content") or "").split())
        answer["usage"] = {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
    return json.dumps(answer).encode()


def embedded(body: Body, vector: Any, usage: bool = True) -> bytes:
    """Return the bytes of an embedding; a vector that is bytes is sent unchanged."""
    if isinstance(vector, bytes):
        return vector
    data = [{"object": "embedding", "index": 0, "embedding": vector}]
    answer: Body = {"object": "list", "data": data, "model": body["model"]}
    if usage:
        tokens = len(echo(body).split())
        answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps(answer).encode()


async def listen(runner: web.AppRunner) -> str:
    """Start on a free port of 127.0.0.1 and return the base URL."""
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}/v1"


async def _instant() -> None:
    reply = completion({"model": "instant", "messages": []}, {"role": "assistant", "content": "billing"})

    async def handle(http: web.Request) -> web.Response:
        await http.read()
        return web.Response(body=reply, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app, access_log=None)
    print(await listen(runner), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_instant())
