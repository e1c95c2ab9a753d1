"""The ways of running a user's program: in processes of its own, or as an async function."""

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
    """Runs the user's program. `lease` gives a key that no other run has while it is held."""

    def lease(self) -> contextlib.AbstractAsyncContextManager[str]:
        """A place to run."""
        ...

    async def ask(self, key: str, url: str, example: Example) -> str:
        """The program's answer to a row, with all its calls at `url`."""
        ...

    async def aclose(self) -> None:
        """Let go of what is held."""
        ...


class Called:
    """
    An async function `function(question, base_url)`, for programs that take the address as an argument.

    At most `at_once` run together.
    """

    def __init__(self, function: Callable[[str, str], Awaitable[str]], at_once: int = 16):
        self._function = function
        self._places = asyncio.Semaphore(at_once)
        self._count = 0

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[str]:
        """An address that no other run had before."""
        async with self._places:
            self._count += 1
            yield f"r{self._count}"

    async def ask(self, key: str, url: str, example: Example) -> str:
        """Call it with the row's question."""
        return await self._function(example.messages[-1].content, url)

    async def aclose(self) -> None:
        """Nothing is held."""


class Processes:
    """
    "module:function", which takes a question and gives an answer, in processes of their own.

    Each has OPENAI_BASE_URL set before the module is imported, so nothing of the program changes: clients may be made
    at import. One that takes too long is killed with its process.
    """

    def __init__(self, target: str, processes: int = 4):
        self._target = target
        self._free: asyncio.Queue[str] = asyncio.Queue()
        self._workers: dict[str, tuple[Any, Any]] = {}
        for number in range(processes):
            self._free.put_nowait(f"p{number}")

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[str]:
        """A process that is free."""
        key = await self._free.get()
        try:
            yield key
        finally:
            self._free.put_nowait(key)

    async def ask(self, key: str, url: str, example: Example) -> str:
        """Have the process answer. Raises RuntimeError with what went wrong in it."""
        try:
            pipe = await self._asked(key, url, example.messages[-1].content)
            fine, said = await asyncio.to_thread(pipe.recv)
        except (EOFError, OSError):
            await self._ended(key)
            raise RuntimeError("the program's process ended") from None
        except asyncio.CancelledError:
            await self._ended(key)
            raise
        if not fine:
            raise RuntimeError(said)
        return said

    async def _asked(self, key: str, url: str, question: str) -> Any:
        """Ask the process, or a fresh one where it died since the last run; gives the pipe that the answer comes by."""
        if key in self._workers:
            _, pipe = self._workers[key]
            with contextlib.suppress(OSError):
                pipe.send(question)
                return pipe
            await self._ended(key)
        _, pipe = self._start(key, url)
        pipe.send(question)
        return pipe

    def _start(self, key: str, url: str) -> tuple[Any, Any]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._target, url), daemon=True)
        process.start()
        theirs.close()
        self._workers[key] = process, ours
        return self._workers[key]

    async def _ended(self, key: str) -> None:
        """End a process, and let the next run have a new one."""
        process, _ = self._workers.pop(key)
        process.kill()
        await asyncio.to_thread(process.join)

    async def aclose(self) -> None:
        """End the processes."""
        for key in list(self._workers):
            await self._ended(key)


def _work(pipe: Any, target: str, url: str) -> None:
    """What a process does: answer questions until the other end is closed."""
    os.environ["OPENAI_BASE_URL"] = url
    os.environ["OPENAI_API_KEY"] = "edgewise"
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            question = pipe.recv()
            try:
                said = load_object(target, Path.cwd())(question)
                pipe.send((True, str(asyncio.run(said) if inspect.iscoroutine(said) else said)))
            except Exception as error:
                pipe.send((False, f"{type(error).__name__}: {error}"))
