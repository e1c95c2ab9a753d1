"""Drive a plan without a client or an event loop, one request after another."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from edgewise.toolkit.tracking.events import Event
from edgewise.toolkit.types import AsyncHost, BlockingCall, Message, Plan, Reply, Request


def play(plan: Plan[Any], answer: Callable[[Request], str | Reply], notes: list[Event] | None = None) -> Any:
    """Run a plan and return its value; `answer` plays the model, `notes` collects events."""
    result: Any = None
    while True:
        try:
            want = plan.send(result)
        except StopIteration as done:
            return done.value
        match want:
            case Request():
                reply = answer(want)
                result = reply if isinstance(reply, Reply) else Reply(Message("assistant", reply))
            case list():
                result = [play(inner, answer, notes) for inner in want]
            case BlockingCall():
                result = want.run(*want.args)
                result = asyncio.run(result) if inspect.iscoroutine(result) else result
            case AsyncHost():
                result = asyncio.run(want.run(lambda inner: asyncio.to_thread(play, inner, answer, notes)))
            case Event():
                result = notes.append(want) if notes is not None else None
