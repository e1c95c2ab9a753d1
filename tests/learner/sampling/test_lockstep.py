"""Plans that run in step: the same results as a driver's, in as few batches as can be."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.learner.sampling.lockstep import run_lockstep
from edgewise.toolkit.run.driver import Driver
from edgewise.toolkit.tracking.events import CallsPlanned, CallsSampled, Event, ReplyReceived, RolloutFinished
from edgewise.toolkit.types import BilledTo, BlockingCall, Message, Plan, Reply, Request, Usage

OURS = "torch/x"


def ask(text: str, model: str = OURS, example: str = "") -> Request:
    return Request(model, (Message("user", text),), payer=BilledTo("rollout", 3, example))


def reply_to(request: Request) -> Reply:
    return Reply(Message("assistant", f"<{request.messages[-1].content}>"), usage=Usage(2, 0, 1))


class Server:
    """A client that answers what is not for the policy."""

    def __init__(self) -> None:
        self.models: list[str] = []

    async def ask(self, request: Request) -> Reply:
        self.models.append(request.model)
        return reply_to(request)


def run(plans: Sequence[Plan[Any]]) -> tuple[list[Any], list[list[str]], list[Event], Server]:
    batches: list[list[str]] = []
    events: list[Event] = []
    server = Server()

    def answer(requests: Sequence[Request]) -> list[Reply]:
        batches.append([r.messages[-1].content for r in requests])
        return [reply_to(request) for request in requests]

    results = asyncio.run(Driver(server, events.append).run(run_lockstep(plans, OURS, answer)))
    return results, batches, events, server


def turns(name: str, count: int) -> Plan[str]:
    text = name
    for _ in range(count):
        text = (yield ask(text)).message.content
    return text


def graded(name: str) -> Plan[str]:
    first = yield ask(name)
    verdict = yield ask(first.message.content, "openai/judge")
    yield RolloutFinished(name)
    return verdict.message.content


def both(name: str) -> Plan[list[str]]:
    return (yield [turns(f"{name}{i}", i) for i in range(3)])


def test_simultaneous_requests_are_one_batch() -> None:
    results, batches, _, _ = run([turns("a", 2), turns("b", 1), turns("c", 3)])
    assert results == ["<<a>>", "<b>", "<<<c>>>"]
    assert batches == [["a", "b", "c"], ["<a>", "<c>"], ["<<c>>"]]


def test_plans_inside_plans_join_the_same_batches() -> None:
    results, batches, _, _ = run([both("x"), both("y"), turns("z", 1)])
    assert results == [["x0", "<x1>", "<<x2>>"], ["y0", "<y1>", "<<y2>>"], "<z>"]
    assert sorted(batches[0]) == ["x1", "x2", "y1", "y2", "z"]
    assert len(batches) == 2


def test_other_models_and_work_are_passed_on() -> None:
    def worked() -> Plan[int]:
        text = (yield ask("w")).message.content
        return (yield BlockingCall(len, (text,)))

    results, batches, events, server = run([graded("g"), worked()])
    assert results == ["<<g>>", 3]
    assert server.models == ["openai/judge"]
    assert batches == [["g", "w"]]
    assert [n.rollout for n in events if isinstance(n, RolloutFinished)] == ["g"]


def test_calls_are_planned_before_and_booked_after() -> None:
    _, _, events, _ = run([turns("a", 1), turns("b", 1)])
    kinds = [type(event) for event in events]
    assert kinds == [CallsPlanned, ReplyReceived, ReplyReceived, CallsSampled]
    (book,) = events[-1].usages
    assert (book.calls, book.usage, book.payer.step) == (2, Usage(4, 0, 2), 3)


def test_empty_lists_of_plans() -> None:
    def nothing() -> Plan[list[Any]]:
        return (yield [])

    assert run([nothing(), turns("a", 0)])[0] == [[], "a"]
    assert run([])[0] == []


def test_reached_limit_stops_before_the_batch() -> None:
    def refuse(event: Event) -> None:
        if isinstance(event, CallsPlanned):
            raise RuntimeError("limit")

    def never(requests: Sequence[Request]) -> list[Reply]:
        raise AssertionError

    with pytest.raises(RuntimeError, match="limit"):
        asyncio.run(Driver(Server(), refuse).run(run_lockstep([turns("a", 1)], OURS, never)))


def tree(shape: Any, name: str) -> Plan[Any]:
    if isinstance(shape, int):
        return (yield from turns(name, shape))
    return (yield [tree(child, f"{name}{i}") for i, child in enumerate(shape)])


@settings(deadline=None)
@given(st.lists(st.recursive(st.integers(0, 3), lambda inner: st.lists(inner, max_size=3), max_leaves=6)))
def test_results_are_those_of_a_driver(shapes: list[Any]) -> None:
    class Same:
        async def ask(self, request: Request) -> Reply:
            return reply_to(request)

    def all_of() -> Plan[list[Any]]:
        return (yield [tree(shape, "t") for shape in shapes])

    expected = asyncio.run(Driver(Same()).run(all_of()))
    assert run([tree(shape, "t") for shape in shapes])[0] == expected
