"""Client whose model is a function of the user's, for tests and dry runs: no cost, no network."""

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
    Client that answers with `function(request)`, sync or async.

    The function returns a text, a message, a vector (for an embedding request), a whole reply, which is passed on
    unchanged, or an exception, which is raised.

    A word counts as a token: usage is in words, and a text longer than `max_tokens` words is cut there, as a provider
    would. `requests` holds all requests so far, in order.
    """

    def __init__(self, function: Callable[[Request], Answer | Awaitable[Answer]]):
        self.function = function
        self.requests: list[Request] = []

    async def ask(self, request: Request) -> Reply:
        """Call the function; raise what it raises or returns as an exception."""
        self.requests.append(request)
        start = time.perf_counter()
        answer = self.function(request)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Reply):
            return answer
        latency = time.perf_counter() - start

        # The message, and why it ended.
        if isinstance(answer, Message):
            message = answer
        else:
            message = Message("assistant", answer if isinstance(answer, str) else pack_vector(answer))
        stop, limit = "tools" if message.tool_calls else "stop", request.sampling.max_tokens
        if limit is not None and not message.tool_calls and count_words(message) > limit:
            words = list(re.finditer(r"\S+", message.content))
            message = replace(message, content=message.content[: words[limit - 1].end()] if limit else "")
            stop = "length"

        output = 0 if request.is_embedding else count_words(message)
        usage = Usage(input=sum(map(count_words, request.messages)), output=output)
        return Reply(message, stop, usage, latency, request.model)

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""


def count_words(message: Message) -> int:
    """Return the words of a message, with those in the arguments of its tool calls."""
    return len(message.content.split()) + sum(1 + len(call.arguments.split()) for call in message.tool_calls)
