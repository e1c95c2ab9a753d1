"""Concurrency changes nothing but the time: order, first error, threads, booking."""

import asyncio
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.toolkit.errors import Interrupted
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.run.driver import CancellableClient, Cancellation, Driver, charge_to_step, drive
from edgewise.toolkit.tracking.events import ReplyReceived, StageStarted
from edgewise.toolkit.types import BilledTo, BlockingCall, Message, Request
from tests.support.plans import play


def request(text: str) -> Request:
    return Request("scripted/x", (Message("user", text),))


def text(asked: Request) -> str:
    return asked.messages[-1].content


def ask(*texts: str):
    """A plan that asks one thing after another and returns the replies."""
    said = []
    for each in texts:
        reply = yield request(each)
        said.append(reply.message.content)
    return said


def together(plans):
    return (yield plans)


class Slow(ScriptedClient):
    """Answers "0.02 name" after 0.02 seconds, so that later questions overtake; raises for "bad"."""

    def __init__(self):
        super().__init__(self.answer)
        self.finished = []

    async def answer(self, asked: Request):
        seconds, name = text(asked).split()
        await asyncio.sleep(float(seconds))
        self.finished.append(name)
        return ValueError(name) if name == "bad" else name


def test_results_keep_the_order_of_requests():
    client = Slow()
    plans = [ask("0.03 a"), ask("0.0 b", "0.0 c"), ask("0.01 d")]
    assert asyncio.run(drive(together(plans), client)) == [["a"], ["b", "c"], ["d"]]
    assert client.finished == ["b", "c", "d", "a"]


def test_first_error_lets_running_calls_finish_and_starts_none():
    client = Slow()
    plans = [ask("0.0 bad", "0.0 never"), ask("0.4 late", "0.0 neither"), ask("0.01 bad")]
    with pytest.raises(ValueError, match="bad"):
        asyncio.run(drive(together(plans), client))
    assert client.finished == ["bad", "bad", "late"]


def test_error_closes_every_plan():
    closed = []

    def careful(text):
        try:
            yield request(text)
            yield request("0.0 never")
        finally:
            closed.append(text)

    with pytest.raises(ValueError):
        asyncio.run(drive(together([careful("0.0 bad"), careful("0.01 b")]), Slow()))
    assert sorted(closed) == ["0.0 bad", "0.01 b"]


def test_waiting_calls_do_not_start_after_an_error():
    class OneAtATime:
        def __init__(self, inner):
            self.inner, self.place = inner, asyncio.Semaphore(1)

        async def ask(self, asked):
            async with self.place:
                return await self.inner.ask(asked)

    client, brake = Slow(), Cancellation()
    waiting = OneAtATime(CancellableClient(client, brake))
    plans = [ask("0.0 a"), ask("0.0 bad"), *(ask(f"0.0 {n}") for n in range(20))]
    with pytest.raises(ValueError, match="bad"):
        asyncio.run(Driver(waiting, cancellation=brake).run(together(plans)))
    assert len(client.requests) <= 3


def test_cancellation_from_outside_stops_with_its_error():
    driver = Driver(Slow())
    driver.cancellation.cancel(Interrupted("enough"))
    driver.cancellation.cancel(ValueError("only the first error counts"))
    assert driver.cancellation.is_cancelled
    with pytest.raises(Interrupted, match="enough"):
        asyncio.run(driver.run(ask("0.0 a")))


def test_blocking_calls_get_threads_and_async_calls_the_loop():
    def blocking(number):
        return number + 1, threading.current_thread()

    async def waiting(number):
        await asyncio.sleep(0)
        return number + 2, threading.current_thread()

    def works():
        return (
            (yield BlockingCall(blocking, (1,))),
            (yield BlockingCall(waiting, (1,))),
            (yield BlockingCall(lambda: waiting(2))),
        )

    (two, thread), (three, loop), (four, _) = asyncio.run(drive(works(), Slow()))
    assert (two, three, four) == (2, 3, 4)
    assert thread is not threading.current_thread()
    assert loop is threading.current_thread()


def test_blocking_calls_of_several_plans_overlap():
    meeting = threading.Barrier(2, timeout=5)

    def meet():
        return (yield BlockingCall(meeting.wait))

    assert sorted(asyncio.run(drive(together([meet(), meet()]), Slow()))) == [0, 1]


def test_events_reach_the_observer_and_return_none():
    seen = []

    def noting():
        return (yield StageStarted("one"))

    assert asyncio.run(drive(noting(), Slow(), seen.append)) is None
    assert seen == [StageStarted("one")]


@pytest.mark.parametrize("nonsense", [42, "text", None, ("a", "tuple"), [42], [ask]])
def test_wrong_yield_lists_what_a_plan_may_yield(nonsense):
    def plan():
        yield nonsense

    with pytest.raises(TypeError, match=r"may yield a Request|is no plan"):
        asyncio.run(drive(plan(), Slow()))


def test_function_without_yield_is_no_plan():
    with pytest.raises(TypeError, match="is no plan"):
        asyncio.run(drive((lambda: 3)(), Slow()))


def test_charge_to_step_marks_nested_requests_only():
    def tree():
        first = yield request("a")
        rest = yield [ask("b"), together([ask("c", "d"), ask("e")])]
        yield StageStarted("n")
        done = yield BlockingCall(lambda: 5)
        return first.message.content, rest, done

    asked = []

    def answer(each: Request) -> str:
        asked.append(each)
        return text(each)

    assert play(charge_to_step(tree(), 7), answer) == ("a", [["b"], [["c", "d"], ["e"]]], 5)
    assert [each.payer for each in asked] == [BilledTo(step=7)] * 5


# A random plan: each part is a request, a work, a note, or a list of plans.
leaf = st.one_of(
    st.integers(0, 9).map(lambda n: ("ask", n)), st.integers(0, 9).map(lambda n: ("work", n)), st.just(("note", 0))
)
trees = st.recursive(
    st.lists(leaf, max_size=4),
    lambda inner: st.lists(st.one_of(leaf, st.tuples(st.just("all"), st.lists(inner, max_size=4))), max_size=4),
    max_leaves=25,
)


def grown(tree, path=()):
    """A plan of this shape; what it asks depends on everything it was told before."""
    told = []
    for index, (kind, what) in enumerate(tree):
        match kind:
            case "ask":
                reply = yield request(f"{path} {what} after {told}")
                told.append(reply.message.content)
            case "work":
                told.append((yield BlockingCall(pow, (what, 2))))
            case "note":
                told.append((yield StageStarted(path)))
            case "all":
                told.append((yield [grown(each, (*path, index, n)) for n, each in enumerate(what)]))
    return told


@settings(max_examples=60, deadline=None)
@given(tree=trees, seed=st.integers(0, 99))
def test_concurrent_plans_equal_sequential_ones(tree, seed):
    chance = random.Random(seed)

    async def whenever(asked):
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        return text(asked).upper()

    alone, at_once = [], []
    expected = play(grown(tree), lambda asked: text(asked).upper(), alone)
    assert asyncio.run(drive(grown(tree), ScriptedClient(whenever), at_once.append)) == expected
    # Replies are noted by the driver, all else by the plans themselves.
    noted = [note for note in at_once if not isinstance(note, ReplyReceived)]
    assert sorted(map(str, alone)) == sorted(map(str, noted))
