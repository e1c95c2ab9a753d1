"""
Limits of a graph run on the plan of one node, and failures of the node as values.

A plan is a generator that yields requests and receives replies. `meter_plan` stands between it and the driver:

    plan ──Request──► meter ──► ledger of the graph run: is there room? ──► driver
    plan ◄──Reply──── meter ◄── booked ◄──────────────────────────────────── reply

What breaks in the node itself (its plan, a tool) becomes a value, `NodeFailure`: an exception in one plan would make
the driver cancel the whole program. Errors of Edgewise (limits of the program, a client that is down) do concern the
program, and pass.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edgewise.toolkit.budget.ledger import Ledger, Reservation
from edgewise.toolkit.errors import EdgewiseError, LimitReached
from edgewise.toolkit.model.middleware import settle_call
from edgewise.toolkit.run.driver import Drive, plan_request
from edgewise.toolkit.types import AsyncHost, BlockingCall, Message, Plan, Reply, Request, T

Call = tuple[Request, Reply]


@dataclass(frozen=True, slots=True)
class NodeFailure:
    """An exception that a plan or a tool raised."""

    error: Exception


@dataclass(slots=True)
class Meter:
    """
    The calls of one node, in the order in which they were answered.

    `ledger` is that of the graph run, None where nothing is limited; `stopped` says which limit stopped the node, ""
    for none. `emitted` holds the process rewards that code of the node emitted.
    """

    ledger: Ledger | None = None
    calls: list[Call] = field(default_factory=list)
    emitted: list[float] = field(default_factory=list)
    stopped: str = ""

    async def reserve(self, ledger: Ledger, request: Request) -> Reservation | None:
        """Set a call's largest cost aside; None if a limit of the graph run leaves no room for it."""
        try:
            return await ledger.reserve(request)
        except LimitReached as reached:
            self.stopped = f"{str(reached).partition(':')[0]} in this graph run"
            return None

    async def ask(self, ledger: Ledger, request: Request, drive: Drive) -> Reply:
        """Ask if the limits allow it; else return a failed reply that names the limit."""
        # Waits while calls under way could still free room, so what a run may use is not left unused.
        ticket = await self.reserve(ledger, request)
        if ticket is None:
            return Reply(Message("assistant", ""), "failed", error=self.stopped)
        return await settle_call(ledger, ticket, drive(plan_request(request)))

    async def charge(self, calls: list[Call]) -> None:
        """Book calls that another run paid for as if this one had made them; stop at the first too many."""
        for request, reply in calls:
            if self.ledger is not None:
                ticket = await self.reserve(self.ledger, request)
                if ticket is None:
                    return
                self.ledger.settle(ticket, reply)
            self.calls.append((request, reply))


def meter_plan(plan: Plan[T], meter: Meter) -> Plan[T | NodeFailure]:
    """Run a plan with its calls metered; return `NodeFailure` in place of its value if it raises."""
    answer: Any = None
    try:
        while True:
            # One step of the plan. A failure of what it yielded is raised inside it, so that it may handle it.
            try:
                want = plan.throw(answer.error) if isinstance(answer, NodeFailure) else plan.send(answer)
            except StopIteration as done:
                return done.value
            except EdgewiseError:
                raise
            except Exception as error:
                return NodeFailure(error)

            match want:
                case Request():
                    ledger = meter.ledger
                    answer = yield want if ledger is None else AsyncHost(partial(meter.ask, ledger, want))
                    meter.calls.append((want, answer))
                case list():
                    results = yield [meter_plan(other, meter) for other in want]
                    answer = next((x for x in results if isinstance(x, NodeFailure)), results)
                case BlockingCall():
                    answer = yield BlockingCall(catch_failures(want.run), want.args)
                case AsyncHost():
                    answer = yield AsyncHost(partial(host_metered, want, meter))
                case _:
                    answer = yield want
    finally:
        plan.close()


def catch_failures(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with `NodeFailure` in place of an exception; async if it is."""
    # The driver awaits an async function in its loop and calls any other in a thread. So the wrapper must be of the
    # same kind, and a function that returns an awaitable has that one wrapped too.
    if inspect.iscoroutinefunction(run):

        async def run_async(*args: Any) -> Any:
            return await catch_failure(run(*args))

        return run_async

    def run_in_thread(*args: Any) -> Any:
        try:
            result = run(*args)
        except EdgewiseError:
            raise
        except Exception as error:
            return NodeFailure(error)
        return catch_failure(result) if inspect.isawaitable(result) else result

    return run_in_thread


async def catch_failure(result: Awaitable[Any]) -> Any:
    """Await a result; return `NodeFailure` if it raises."""
    try:
        return await result
    except EdgewiseError:
        raise
    except Exception as error:
        return NodeFailure(error)


async def host_metered(host: AsyncHost, meter: Meter, drive: Drive) -> Any:
    """Run async code of a plan, the plans that it runs metered too."""

    async def drive_metered(plan: Plan[Any]) -> Any:
        value = await drive(meter_plan(plan, meter))
        if isinstance(value, NodeFailure):
            raise value.error
        return value

    return await catch_failure(host.run(drive_metered))
