"""
The only place where things happen at the same time.

Plans (see `toolkit.types.Plan`) say what they want; a `Driver` gets it for them. Results come back in the
order in which they were asked for, never in the order in which they arrived, so that one call at a time and
sixty-four give the same groups, the same books and the same library.
"""

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from toolkit.types import Note, Plan, Reply, Request, T, Work


class Asks(Protocol):
    """The part of a client that a driver needs."""

    async def ask(self, request: Request) -> Reply:
        """Answer one request."""
        ...


class Driver:
    """
    Runs plans against a client.

    The first error stops the run in an orderly way: calls already under way still finish (and are recorded by
    the client), no new one starts, and the error is raised. `stop(error)` does the same from outside.
    """

    def __init__(self, client: Asks, watch: Callable[[Note], None] = lambda note: None):
        self._client = client
        self._watch = watch
        self._error: BaseException | None = None

    @property
    def stopped(self) -> bool:
        """Whether the run is ending before its time."""
        return self._error is not None

    def stop(self, error: BaseException) -> None:
        """Let nothing new start; `run` raises `error` once what is under way has finished."""
        self._error = self._error or error

    async def run(self, plan: Plan[T]) -> T:
        """Drive one plan to its end and return its value. Raises whatever stopped it."""
        answer: Any = None
        try:
            while True:
                if self._error:
                    raise self._error
                answer = await self._fulfil(plan.send(answer))
        except StopIteration as done:
            return done.value
        except Exception as error:
            self.stop(error)
            raise
        finally:
            plan.close()

    async def _fulfil(self, want: Any) -> Any:
        match want:
            case Request():
                return await self._client.ask(want)
            case list():
                return await self._together(want)
            case Work():
                return await _work(want)
            case Note():
                return self._watch(want)
        raise TypeError(f"a plan yielded {want!r}; it may yield a Request, Work, Note or a list of plans")

    async def _together(self, plans: list[Plan[Any]]) -> list[Any]:
        # All of them are waited for even when one fails: a reply on its way has been paid for.
        results = await asyncio.gather(*map(self.run, plans), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise self._error or result
        return results


async def _work(work: Work) -> Any:
    if inspect.iscoroutinefunction(work.run):
        return await work.run(*work.args)
    result = await asyncio.to_thread(work.run, *work.args)
    return await result if inspect.isawaitable(result) else result


async def drive(plan: Plan[T], client: Asks, watch: Callable[[Note], None] = lambda note: None) -> T:
    """Run one plan against a client; see `Driver`."""
    return await Driver(client, watch).run(plan)


def booked(plan: Plan[T], step: int) -> Plan[T]:
    """The same plan with all its calls booked on a step (0: measuring, 1 and up: learning)."""
    answer: Any = None
    try:
        while True:
            answer = yield _booked(plan.send(answer), step)
    except StopIteration as done:
        return done.value


def _booked(want: Any, step: int) -> Any:
    match want:
        case Request():
            return replace(want, payer=replace(want.payer, step=step))
        case list():
            return [booked(plan, step) for plan in want]
    return want
