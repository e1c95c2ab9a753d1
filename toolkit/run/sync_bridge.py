"""
Code that is no plan, as one.

A library may want its questions answered at once, deep inside its own loop. It runs in a thread then, and what it asks
for is wished for by the plan: journalled, budgeted, retried and replayed like everything else.
"""

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any

from edgewise.toolkit.types import BlockingCall, Plan, T

Ask = Callable[[Plan[Any]], Any]
"""`ask(plan)`: have a plan carried out, from code that is no plan; returns its value."""


class PlanEnded(BaseException):
    """Unwinds the thread of a plan that has ended. No Exception, so that nothing in between goes on regardless."""


def bridge_to_plan(function: Callable[[Ask], T]) -> Plan[T]:
    """
    Run `function(ask)` in a thread of its own, and carry out each plan that it asks for, one after another.

    Raises what the function raises. Where the plan ends early, `ask` raises `Ended` and the thread is waited for; so
    the function may catch any Exception, but must let this one through. It has to be deterministic to be resumed.
    """
    wishes: SimpleQueue[Any] = SimpleQueue()
    results: SimpleQueue[Any] = SimpleQueue()
    future: Future[T] = Future()
    future.add_done_callback(wishes.put)

    def ask(plan: Plan[Any]) -> Any:
        wishes.put(plan)
        found = results.get()
        if found is PlanEnded:
            raise PlanEnded
        return found

    def work() -> None:
        try:
            future.set_result(function(ask))
        except BaseException as error:
            future.set_exception(error)

    # A daemon: a plan that nobody closes must not keep the program from ending.
    thread = Thread(target=work, name="bridged", daemon=True)
    thread.start()
    try:
        while (wish := (yield BlockingCall(wishes.get))) is not future:
            results.put((yield from wish))
        return future.result()
    finally:
        results.put(PlanEnded)
        thread.join()
