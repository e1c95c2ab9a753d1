"""
The only place where things happen at the same time.

Plans (see `toolkit.types.Plan`) say what they want; a `Driver` gets it for them. Results come back in the
order in which they were asked for, never in the order in which they arrived, so that one call at a time and
sixty-four give the same groups, the same books and the same library.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator
from dataclasses import replace
from typing import Any, Protocol

from edgewise.toolkit.tracking.events import Event, OnEvent, ReplyReceived, ignore_event
from edgewise.toolkit.types import AsyncHost, BlockingCall, Plan, Reply, Request, T

Drive = Callable[[Plan[Any]], Awaitable[Any]]
"""Runs a plan to its value: what `AsyncHost` code is given."""


class ModelClient(Protocol):
    """The part of a client that a driver needs."""

    async def ask(self, request: Request) -> Reply:
        """Answer one request."""
        ...


class Cancellation:
    """Pulled once, by the first error or by the user; whoever is about to start something checks it first."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    @property
    def is_cancelled(self) -> bool:
        """Whether the run is ending before its time."""
        return self._error is not None

    def cancel(self, error: BaseException) -> None:
        """Let nothing new start; only the first error counts."""
        self._error = self._error or error

    def check(self) -> None:
        """Raise what the brake was pulled with."""
        if self._error:
            raise self._error


class CancellableClient:
    """
    A client that starts no call once the brake is pulled.

    It stands innermost, for calls may have waited long (for a place, for their next try) before they start.
    """

    def __init__(self, inner: Any, cancellation: Cancellation):
        self._inner = inner
        self._brake = cancellation

    async def ask(self, request: Request) -> Reply:
        """Pass the request on, or raise what the brake was pulled with."""
        self._brake.check()
        return await self._inner.ask(request)

    async def aclose(self) -> None:
        """Close the inner client."""
        await self._inner.aclose()


class Driver:
    """
    Runs plans against a client.

    The first error pulls the brake: calls already under way still finish (and are recorded by the client), no
    new one starts, and the error is raised. Pulling `brake` from outside does the same.
    """

    def __init__(
        self,
        client: ModelClient,
        on_event: OnEvent = ignore_event,
        cancellation: Cancellation | None = None,
    ):
        self._client = client
        self._on_event = on_event
        self.cancellation = cancellation or Cancellation()

    async def run(self, plan: Plan[T]) -> T:
        """Drive one plan to its end and return its value. Raises whatever stopped it."""
        if not isinstance(plan, Generator):
            raise TypeError(f"{plan!r} is no plan: a plan is a generator, so the function needs a yield")
        answer: Any = None
        try:
            while True:
                self.cancellation.check()
                answer = await self._fulfil(plan.send(answer))
        except StopIteration as done:
            return done.value
        except Exception as error:
            self.cancellation.cancel(error)
            raise
        finally:
            plan.close()

    async def _fulfil(self, want: Any) -> Any:
        match want:
            case Request():
                reply = await self._client.ask(want)
                self._on_event(ReplyReceived(reply))
                return reply
            case list():
                return await self._together(want)
            case BlockingCall():
                return await _work(want)
            case AsyncHost():
                return await want.run(self.run)
            case Event():
                return self._on_event(want)
        raise TypeError(
            f"a plan yielded {want!r}; it may yield a Request, Work, Hosted, Event or a list of plans"
        )

    async def _together(self, plans: list[Plan[Any]]) -> list[Any]:
        # All of them are waited for even when one fails: a reply on its way has been paid for.
        results = await asyncio.gather(*map(self.run, plans), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                self.cancellation.check()
                raise result
        return results


async def _work(work: BlockingCall) -> Any:
    if inspect.iscoroutinefunction(work.run):
        return await work.run(*work.args)
    result = await asyncio.to_thread(work.run, *work.args)
    return await result if inspect.isawaitable(result) else result


async def drive(plan: Plan[T], client: ModelClient, on_event: OnEvent = ignore_event) -> T:
    """Run one plan against a client; see `Driver`."""
    return await Driver(client, on_event).run(plan)


def plan_request(request: Request) -> Plan[Reply]:
    """The plan of one call."""
    return (yield request)


def charge_to_step(plan: Plan[T], step: int) -> Plan[T]:
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
        case AsyncHost():
            return AsyncHost(lambda drive: want.run(lambda plan: drive(charge_to_step(plan, step))))
        case list():
            return [charge_to_step(plan, step) for plan in want]
    return want
