"""Code of users that may never end, in a thread of its own, which nothing waits for."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any


async def apart(function: Callable[..., Any], *args: Any) -> Any:
    """
    What a function gives, or what it raises; async ones run in the loop.

    One that hangs holds nobody up: whoever gives up waiting goes on, and the program ends without it.
    """
    found = await (function(*args) if inspect.iscoroutinefunction(function) else _threaded(function, args))
    return await found if inspect.isawaitable(found) else found


async def _threaded(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    loop, context = asyncio.get_running_loop(), copy_context()
    waiting = loop.create_future()

    def settle(found: Any, error: BaseException | None) -> None:
        if not waiting.done():
            waiting.set_result((found, error))

    def work() -> None:
        found, error = None, None
        try:
            found = context.run(function, *args)
        except BaseException as raised:  # SystemExit too: it is the function that ends, not the run
            error = raised
        with suppress(RuntimeError):  # the loop is closed where nobody waits any more
            loop.call_soon_threadsafe(settle, found, error)

    threading.Thread(target=work, daemon=True).start()
    found, error = await waiting
    if error is not None:
        raise error if isinstance(error, Exception) else RuntimeError(repr(error))
    return found
