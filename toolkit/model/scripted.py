"""A function of yours that plays the model: for tests and dry runs. It costs nothing and needs no network."""

import inspect
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from edgewise.toolkit.model.openai_format import pack_vector
from edgewise.toolkit.types import Message, Reply, Request, Usage

Answer = str | Message | Reply | Exception | Sequence[float]


class ScriptedClient:
    """
    A client that answers with `function(request)`, sync or async.

    The function returns a text, a message, a vector (for a request that `embeds`), a whole reply (passed on as
    it is), or an exception, which is raised.

    Usage is counted in words, as if a word were a token; a text longer than `max_tokens` words is cut
    there, as a provider would. `requests` holds everything asked so far, in order.
    """

    def __init__(self, function: Callable[[Request], Answer | Awaitable[Answer]]):
        self.function = function
        self.requests: list[Request] = []

    async def ask(self, request: Request) -> Reply:
        """Call the function; raises what it raises or returns as an exception."""
        self.requests.append(request)
        start = time.perf_counter()
        answer = self.function(request)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Reply):
            return answer
        return _reply(request, _message(answer), time.perf_counter() - start)

    async def aclose(self) -> None:
        """Nothing to close."""


def count_words(message: Message) -> int:
    """Words of a message, those in the arguments of its tool calls included."""
    return len(message.content.split()) + sum(1 + len(call.arguments.split()) for call in message.tool_calls)


def _message(answer: str | Message | Sequence[float]) -> Message:
    if isinstance(answer, Message):
        return answer
    return Message("assistant", answer if isinstance(answer, str) else pack_vector(answer))


def _reply(request: Request, message: Message, latency: float) -> Reply:
    kept = _cut(message, request.sampling.max_tokens)
    stop = "tools" if kept.tool_calls else "stop" if kept is message else "length"
    said = 0 if request.is_embedding else count_words(kept)
    usage = Usage(input=sum(map(count_words, request.messages)), output=said)
    return Reply(kept, stop, usage, latency, request.model)


def _cut(message: Message, most: int | None) -> Message:
    if most is None or message.tool_calls or count_words(message) <= most:
        return message
    words = list(re.finditer(r"\S+", message.content))
    return replace(message, content=message.content[: words[most - 1].end()] if most else "")
