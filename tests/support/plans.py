"""Drive a plan by hand: no client, no event loop, one thing after another."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from edgewise.toolkit.tracking.events import Event
from edgewise.toolkit.types import AsyncHost, BlockingCall, Message, Plan, Reply, Request


def play(plan: Plan[Any], answer: Callable[[Request], str | Reply], notes: list[Event] | None = None) -> Any:
    """Run a plan to its value; `answer` plays the model."""
    sent: Any = None
    while True:
        try:
            want = plan.send(sent)
        except StopIteration as done:
            return done.value
        match want:
            case Request():
                said = answer(want)
                sent = said if isinstance(said, Reply) else Reply(Message("assistant", said))
            case list():
                sent = [play(each, answer, notes) for each in want]
            case BlockingCall():
                sent = want.run(*want.args)
                sent = asyncio.run(sent) if inspect.iscoroutine(sent) else sent
            case AsyncHost():
                sent = asyncio.run(want.run(lambda inner: _played(inner, answer, notes)))
            case Event():
                sent = notes.append(want) if notes is not None else None


async def _played(
    plan: Plan[Any], answer: Callable[[Request], str | Reply], notes: list[Event] | None
) -> Any:
    return await asyncio.to_thread(play, plan, answer, notes)
