"""The two ways of running a user's program: in processes of its own, or as an async function."""

import asyncio
import contextlib
import inspect
import multiprocessing
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from edgewise.toolkit.types import Example
from edgewise.toolkit.util.import_by_name import load_object


class Program(Protocol):
    """A user's program. `lease` gives a key that no other run has while it is held."""

    def lease(self) -> contextlib.AbstractAsyncContextManager[str]:
        """Wait for a place to run."""
        ...

    async def ask(self, key: str, url: str, example: Example) -> str:
        """Return the program's answer to a row, with all its calls at `url`."""
        ...

    async def aclose(self) -> None:
        """Release what is held."""
        ...


class AsyncProgram:
    """
    An async function `function(question, base_url)`, for programs that take the address as an argument.

    At most `max_concurrent` calls run together.
    """

    def __init__(self, function: Callable[[str, str], Awaitable[str]], max_concurrent: int = 16):
        self._function = function
        self._places = asyncio.Semaphore(max_concurrent)
        self._count = 0

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[str]:
        """Wait for a place; the key was never used before."""
        async with self._places:
            self._count += 1
            yield f"r{self._count}"

    async def ask(self, key: str, url: str, example: Example) -> str:
        """Call the function with the row's question."""
        return await self._function(example.messages[-1].content, url)

    async def aclose(self) -> None:
        """Hold nothing, release nothing."""


class ProcessPool:
    """
    "module:function", from question to answer, in processes of their own.

    Each process has OPENAI_BASE_URL set before the module is imported, so nothing of the program changes: clients may
    be made at import. A process that takes too long is killed.
    """

    def __init__(self, target: str, processes: int = 4):
        self._target = target
        self._free: asyncio.Queue[str] = asyncio.Queue()
        self._workers: dict[str, tuple[Any, Any]] = {}  # process and our end of its pipe, by key
        for number in range(processes):
            self._free.put_nowait(f"p{number}")

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[str]:
        """Wait for a free process."""
        key = await self._free.get()
        try:
            yield key
        finally:
            self._free.put_nowait(key)

    async def ask(self, key: str, url: str, example: Example) -> str:
        """Return the process's answer. Raises RuntimeError with what went wrong in it."""
        try:
            pipe = await self._send(key, url, example.messages[-1].content)
            # In a thread: the pipe blocks until the program answers.
            succeeded, answer = await asyncio.to_thread(pipe.recv)
        except (EOFError, OSError):
            await self._kill(key)
            raise RuntimeError("the program's process ended") from None
        except asyncio.CancelledError:
            # The time limit: the program would go on and answer the next question with this answer.
            await self._kill(key)
            raise
        if not succeeded:
            raise RuntimeError(answer)
        return answer

    async def _send(self, key: str, url: str, question: str) -> Any:
        """Send a question to the process, or to a fresh one where it died since the last run; return the pipe."""
        if key in self._workers:
            _, pipe = self._workers[key]
            with contextlib.suppress(OSError):
                pipe.send(question)
                return pipe
            await self._kill(key)

        # "spawn": a fork would copy the threads' locks and the server's socket of this process.
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(target=_answer_questions, args=(theirs, self._target, url), daemon=True)
        process.start()
        theirs.close()
        self._workers[key] = process, pipe
        pipe.send(question)
        return pipe

    async def _kill(self, key: str) -> None:
        """End a process; the next run gets a new one."""
        process, _ = self._workers.pop(key)
        process.kill()
        await asyncio.to_thread(process.join)

    async def aclose(self) -> None:
        """End all processes."""
        for key in list(self._workers):
            await self._kill(key)


def _answer_questions(pipe: Any, target: str, url: str) -> None:
    """Answer questions until the other end of the pipe is closed: the body of a process."""
    os.environ["OPENAI_BASE_URL"] = url
    os.environ["OPENAI_API_KEY"] = "edgewise"
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            question = pipe.recv()
            try:
                answer = load_object(target, Path.cwd())(question)
                pipe.send((True, str(asyncio.run(answer) if inspect.iscoroutine(answer) else answer)))
            except Exception as error:
                pipe.send((False, f"{type(error).__name__}: {error}"))
