"""Run user code that may hang in a daemon thread, so that it can't block the run."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any


async def run_detached(function: Callable[..., Any], *args: Any) -> Any:
    """
    Return the function's result, or raise its exception; async functions run in the event loop.

    A caller that times out goes on, and the process can exit while the function still hangs.
    """
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    loop, context = asyncio.get_running_loop(), copy_context()
    future = loop.create_future()

    def deliver(result: Any, error: BaseException | None) -> None:
        if not future.done():  # the caller may have been cancelled meanwhile
            future.set_result((result, error))

    def work() -> None:
        result, error = None, None
        try:
            result = context.run(function, *args)
        except BaseException as raised:  # SystemExit too: it ends the function, not the run
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits for the result
            loop.call_soon_threadsafe(deliver, result, error)

    # `asyncio.to_thread` won't do: the interpreter joins its threads at exit, so one that hangs blocks the exit.
    threading.Thread(target=work, daemon=True).start()
    result, error = await future
    if error is not None:
        raise error if isinstance(error, Exception) else RuntimeError(repr(error))
    return await result if inspect.isawaitable(result) else result
