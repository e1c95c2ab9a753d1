"""
Bridge from synchronous code to a plan.

A library such as GEPA wants replies at once, deep inside its own loop. It runs in a thread, and each plan that it asks
for is yielded by the plan around it: journaled, budgeted, retried and replayed like every other call.
"""

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any

from edgewise.toolkit.types import BlockingCall, Plan, T

Ask = Callable[[Plan[Any]], Any]
"""`ask(plan)` has a plan executed and returns its value, from code that is no plan."""


class PlanEnded(BaseException):
    """Unwinds the thread of a plan that has ended; no Exception, so that `except Exception` lets it through."""


def bridge_to_plan(function: Callable[[Ask], T]) -> Plan[T]:
    """
    Run `function(ask)` in a thread, and execute each plan that it asks for, one after another.

    Raises what the function raises. If the plan ends early, `ask` raises `PlanEnded` and the plan waits for the thread.
    The function must let that exception through, and has to be deterministic for a run to resume.
    """
    # The thread puts plans, and the future when it ends, into `requests`; the plan puts values into `values`.
    requests: SimpleQueue[Any] = SimpleQueue()
    values: SimpleQueue[Any] = SimpleQueue()
    future: Future[T] = Future()
    future.add_done_callback(requests.put)

    def ask(plan: Plan[Any]) -> Any:
        requests.put(plan)
        value = values.get()
        if value is PlanEnded:
            raise PlanEnded
        return value

    def work() -> None:
        # Also PlanEnded and SystemExit: they end the function, not the program.
        try:
            future.set_result(function(ask))
        except BaseException as error:
            future.set_exception(error)

    # A daemon thread: a plan that nobody closes must not keep the program from ending.
    thread = Thread(target=work, name="bridged", daemon=True)
    thread.start()
    try:
        # One plan at a time, in the order of the function's calls: that makes a resumed run deterministic.
        while (request := (yield BlockingCall(requests.get))) is not future:
            values.put((yield from request))
        return future.result()
    finally:
        # If the function still waits in `ask`, it gets this; if it has ended, nobody does.
        values.put(PlanEnded)
        thread.join()
