"""
The driver: it runs plans, and is the only place where things happen concurrently.

    plan ── yields a request, an event or a list of plans ──> Driver ──> client, observer, more plans
      ^────────────────────── reply, None, list of values ──────┘

Results come back in the order of the requests, never in the order of arrival: with one concurrent call or with 64, the
groups, the accounts and the library are the same. See `toolkit.types.Plan` for what a plan may yield.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator
from dataclasses import replace
from typing import Any, Protocol

from edgewise.toolkit.tracking.events import Event, OnEvent, ReplyReceived, ignore_event
from edgewise.toolkit.types import AsyncHost, BlockingCall, Plan, Reply, Request, T

Drive = Callable[[Plan[Any]], Awaitable[Any]]
"""Runs a plan to its value; code in an `AsyncHost` receives one."""


class ModelClient(Protocol):
    """The part of a client that a driver needs."""

    async def ask(self, request: Request) -> Reply:
        """Answer one request."""
        ...


class Cancellation:
    """
    The end of a run before its time, by its first error or by the user.

    Code that is about to start something calls `check` first. Everything runs in the thread of the event loop, except a
    signal handler, which the loop calls between two steps: no lock is needed.
    """

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
        """Raise the error that cancelled the run, if there is one."""
        if self._error:
            raise self._error


class CancellableClient:
    """
    A client that starts no call after a cancellation.

    It is the innermost middleware: a call may have waited long, for its turn or its next attempt, before it starts.
    """

    def __init__(self, inner: Any, cancellation: Cancellation):
        self._inner, self._cancellation = inner, cancellation

    async def ask(self, request: Request) -> Reply:
        """Pass the request on, or raise the error that cancelled the run."""
        self._cancellation.check()
        return await self._inner.ask(request)

    async def aclose(self) -> None:
        """Close the inner client."""
        await self._inner.aclose()


class Driver:
    """
    Runs plans against a client.

    The first error cancels the run: running calls still finish, because they are paid and the client records them, no
    new call starts, and the error is raised. `cancellation` may be used from outside as well.
    """

    def __init__(self, client: ModelClient, on_event: OnEvent = ignore_event, cancellation: Cancellation | None = None):
        self._client, self._on_event = client, on_event
        self.cancellation = cancellation or Cancellation()

    async def run(self, plan: Plan[T]) -> T:
        """Drive a plan to its end and return its value. Raises the error that stopped it."""
        # A function without a yield returns a value, and `send` would fail far from the mistake.
        if not isinstance(plan, Generator):
            raise TypeError(f"{plan!r} is no plan: a plan is a generator, so the function needs a yield")
        answer: Any = None
        try:
            while True:
                self.cancellation.check()
                answer = await self._answer(plan.send(answer))
        except StopIteration as end:
            return end.value  # the value that the plan returned
        except Exception as error:
            self.cancellation.cancel(error)
            raise
        finally:
            # Plans may hold files or threads; their `finally` must run now and not at garbage collection.
            plan.close()

    async def _answer(self, item: Any) -> Any:
        """Return what a plan is sent for the item that it yielded."""
        match item:
            case Request():
                reply = await self._client.ask(item)
                self._on_event(ReplyReceived(reply))
                return reply
            case list():
                # All plans are waited for even when one fails: a reply on its way is paid.
                values = await asyncio.gather(*map(self.run, item), return_exceptions=True)
                for value in values:
                    if isinstance(value, BaseException):
                        # The first error in time, not in order; without one, a KeyboardInterrupt or the like.
                        self.cancellation.check()
                        raise value
                return values
            case BlockingCall(function, args) if inspect.iscoroutinefunction(function):
                return await function(*args)
            case BlockingCall(function, args):
                # A function that is not async itself may still return an awaitable, such as a partial of one.
                value = await asyncio.to_thread(function, *args)
                return await value if inspect.isawaitable(value) else value
            case AsyncHost():
                return await item.run(self.run)
            case Event():
                return self._on_event(item)
        raise TypeError(
            f"a plan yielded {item!r}; it may yield a Request, BlockingCall, AsyncHost, Event or a list of plans"
        )


async def drive(plan: Plan[T], client: ModelClient, on_event: OnEvent = ignore_event) -> T:
    """Run one plan against a client; see `Driver`."""
    return await Driver(client, on_event).run(plan)


def plan_request(request: Request) -> Plan[Reply]:
    """Return the plan of one call."""
    return (yield request)


def charge_to_step(plan: Plan[T], step: int) -> Plan[T]:
    """Return the plan with all its calls billed to a step (0: measuring, 1 and up: learning)."""
    answer: Any = None
    try:
        while True:
            answer = yield _charge_item(plan.send(answer), step)
    except StopIteration as end:
        return end.value


def _charge_item(item: Any, step: int) -> Any:
    match item:
        case Request():
            return replace(item, payer=replace(item.payer, step=step))
        case AsyncHost():
            # The plans that the host drives are billed as well.
            return AsyncHost(lambda drive: item.run(lambda plan: drive(charge_to_step(plan, step))))
        case list():
            return [charge_to_step(plan, step) for plan in item]
    return item
