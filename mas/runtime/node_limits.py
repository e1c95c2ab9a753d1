"""
A node's plan, held to the limits of its graph run and kept from breaking it.

Whatever breaks in the node itself (its plan, a tool) becomes a value, `Broke`: as an exception it would stop the
whole program. Errors of the driver and the client are not touched: they are the program's.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edgewise.toolkit.budget.ledger import Ledger
from edgewise.toolkit.errors import EdgewiseError, LimitReached
from edgewise.toolkit.run.driver import Drive, plan_request
from edgewise.toolkit.types import AsyncHost, BlockingCall, Message, Plan, Reply, Request, Step, T

Call = tuple[Request, Reply]


@dataclass(frozen=True, slots=True)
class Broke:
    """What a plan or a tool raised."""

    error: Exception


@dataclass(slots=True)
class Meter:
    """
    The calls of one node, in the order in which they were answered.

    `ledger` is that of the graph run, None where nothing is limited; `stopped` says which limit stopped the node.
    `emitted` are the process rewards that it emitted.
    """

    ledger: Ledger | None = None
    calls: list[Call] = field(default_factory=list)
    emitted: list[float] = field(default_factory=list)
    stopped: str = ""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The calls as steps of a rollout: of a node that ended before it could tell."""
        return tuple(Step(asked.messages, got.message, got.usage, got.latency) for asked, got in self.calls)

    async def ask(self, request: Request, drive: Drive) -> Reply:
        """Ask if the run's limits allow it; a reply that failed says that they do not."""
        if self.ledger is None:
            return await drive(plan_request(request))
        try:
            ticket = await self.ledger.reserve(request)
        except LimitReached as reached:
            self.stopped = _short(reached)
            return Reply(Message("assistant", ""), "failed", error=self.stopped)
        try:
            reply = await drive(plan_request(request))
        except asyncio.CancelledError:
            # It may be billed all the same, so it counts as the most that it can be.
            self.ledger.settle(ticket, Reply(Message("assistant", ""), "timeout"))
            raise
        except BaseException:
            self.ledger.release(ticket)
            raise
        self.ledger.settle(ticket, reply)
        return reply

    async def charge(self, calls: list[Call]) -> None:
        """Book calls that another run paid for, as if this one had made them; ends at the first too many."""
        for request, reply in calls:
            if self.ledger is not None:
                try:
                    ticket = await self.ledger.reserve(request)
                except LimitReached as reached:
                    self.stopped = _short(reached)
                    return
                self.ledger.settle(ticket, reply)
            self.calls.append((request, reply))


def metered(plan: Plan[T], meter: Meter) -> Plan[T | Broke]:
    """The same plan with its calls metered; `Broke` in place of its value where it raised an exception."""
    answer: Any = None
    try:
        while True:
            try:
                want = plan.throw(answer.error) if isinstance(answer, Broke) else plan.send(answer)
            except StopIteration as done:
                return done.value
            except EdgewiseError:
                raise
            except Exception as error:
                return Broke(error)
            answer = yield from _got(want, meter)
    finally:
        plan.close()


def _got(want: Any, meter: Meter) -> Plan[Any]:
    match want:
        case Request():
            reply = yield want if meter.ledger is None else AsyncHost(partial(meter.ask, want))
            meter.calls.append((want, reply))
            return reply
        case list():
            results = yield [metered(plan, meter) for plan in want]
            return next((x for x in results if isinstance(x, Broke)), results)
        case BlockingCall():
            return (yield BlockingCall(_careful(want.run), want.args))
        case AsyncHost():
            return (yield AsyncHost(partial(_hosted, want, meter)))
    return (yield want)


def _careful(run: Callable[..., Any]) -> Callable[..., Any]:
    """The function with `Broke` in place of an exception; async if it is."""
    if inspect.iscoroutinefunction(run):

        async def later(*args: Any) -> Any:
            return await _caught(run(*args))

        return later

    def now(*args: Any) -> Any:
        try:
            result = run(*args)
        except EdgewiseError:
            raise
        except Exception as error:
            return Broke(error)
        return _caught(result) if inspect.isawaitable(result) else result

    return now


async def _caught(result: Awaitable[Any]) -> Any:
    try:
        return await result
    except EdgewiseError:
        raise
    except Exception as error:
        return Broke(error)


async def _hosted(want: AsyncHost, meter: Meter, drive: Drive) -> Any:
    async def driven(plan: Plan[Any]) -> Any:
        value = await drive(metered(plan, meter))
        if isinstance(value, Broke):
            raise value.error
        return value

    return await _caught(want.run(driven))


def _short(reached: LimitReached) -> str:
    return f"{str(reached).partition(':')[0]} in this graph run"
