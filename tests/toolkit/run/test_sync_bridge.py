"""Code that is no plan, as one: what it asks for is done, and it ends when its plan ends."""

import asyncio
import contextlib
import threading
import time

import pytest

from edgewise.toolkit.errors import LimitReached
from edgewise.toolkit.run.driver import Driver, drive
from edgewise.toolkit.run.sync_bridge import bridge_to_plan
from edgewise.toolkit.types import BlockingCall, Message, Reply, Request
from tests.support.plans import play


def asking(text: str):
    reply = yield Request("m", (Message("user", text),))
    return reply.message.content


def both(*texts: str):
    return (yield [asking(text) for text in texts])


class Upper:
    """A client that answers in capitals, until it has been asked `most` times."""

    def __init__(self, most: int = 100):
        self.left = most

    async def ask(self, request: Request) -> Reply:
        self.left -= 1
        if self.left < 0:
            raise LimitReached("enough")
        return Reply(Message("assistant", request.messages[0].content.upper()))


def chain(ask):
    first = ask(asking("a"))
    return first, ask(both(f"{first}b", "c")), ask(asking("d"))


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "bridged"]


def test_bridge_executes_plans_and_returns_the_value():
    expected = ("A", ["AB", "C"], "D")
    assert play(bridge_to_plan(chain), lambda request: request.messages[0].content.upper()) == expected
    assert asyncio.run(drive(bridge_to_plan(chain), Upper())) == expected
    assert not threads()


@pytest.mark.parametrize("before", [0, 2])
def test_error_of_the_function_leaves_the_plan(before):
    def broken(ask):
        for _ in range(before):
            ask(asking("a"))
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        play(bridge_to_plan(broken), lambda request: "x")
    with pytest.raises(ZeroDivisionError, match="mine"):
        asyncio.run(drive(bridge_to_plan(broken), Upper()))
    assert not threads()


def stubborn(ask):
    """Goes on whatever happens, as libraries do."""
    for _ in range(50):
        with contextlib.suppress(Exception):
            ask(both("a", "b"))


def test_error_of_a_request_ends_even_a_stubborn_thread():
    with pytest.raises(LimitReached, match="enough"):
        asyncio.run(drive(bridge_to_plan(stubborn), Upper(5)))
    assert not threads()


def test_cancellation_ends_the_thread():
    driver = Driver(Upper())

    def pulls(ask):
        ask(asking("a"))
        driver.cancellation.cancel(LimitReached("by hand"))
        ask(asking("never asked"))

    with pytest.raises(LimitReached, match="by hand"):
        asyncio.run(driver.run(bridge_to_plan(pulls)))
    assert not threads()


@pytest.mark.parametrize("busy", [True, False], ids=["while it computes", "while it waits for a wish"])
def test_dropped_run_ends_the_thread(busy):
    def slow(ask):
        if busy:
            time.sleep(0.2)
        ask(waiting())

    def waiting():
        yield BlockingCall(asyncio.sleep, (60,))

    async def cancelled():
        async with asyncio.timeout(0.05):
            await drive(bridge_to_plan(slow), Upper())

    with pytest.raises(TimeoutError):
        asyncio.run(cancelled())
    assert not threads()


def test_closed_or_unstarted_plan_leaves_no_thread():
    plan = bridge_to_plan(chain)
    plan.close()
    plan = bridge_to_plan(chain)
    next(plan)
    assert threads()
    plan.close()
    assert not threads()
