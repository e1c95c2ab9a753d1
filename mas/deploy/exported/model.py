"""Nodes that ask a model."""

import asyncio
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from openai import AsyncOpenAI

from edgewise.mas.deploy.exported.settings import API_KEY, BASE_URL, MODEL, SAMPLING, Data
from edgewise.mas.deploy.exported.state import GraphState, received_replies
from edgewise.mas.runtime.node_text import check_reply, write_prompt

# One client for each event loop, as connections can't be shared between loops.
CLIENTS: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncOpenAI] = WeakKeyDictionary()


async def complete(messages: list[Any], model: str, **options: Any) -> Any:
    """Return the model's message. The openai package asks again where a server is busy."""
    loop = asyncio.get_running_loop()
    client = CLIENTS.get(loop) or CLIENTS.setdefault(loop, AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY))
    options = {key: value for key, value in {**SAMPLING, **options}.items() if value is not None}
    reply = await client.chat.completions.create(model=model or MODEL, messages=messages, **options)
    return reply.choices[0].message


def write_messages(name: str, state: GraphState, instruction: str, lessons: Sequence[str]) -> list[Data]:
    """Return the question, its last message followed by what the node receives, its lessons and its instruction."""
    *earlier, last = state["messages"]
    inputs = [(reply["node"], reply["text"]) for reply in received_replies(state, name)]
    return [*earlier, {**last, "content": write_prompt(last["content"], inputs, lessons, instruction)}]


def read_reply(text: str | None, gives: str, marked: bool) -> Data:
    """Return what a reply holds and what is wrong with it; other nodes receive it all the same."""
    text = (text or "").strip()
    check = check_reply(text, gives, marked)
    return {"text": text, "answer": check.result, "accepts": check.accepts, "error": check.problem}


async def run_model_node(
    name: str,
    state: GraphState,
    *,
    instruction: str = "",
    lessons: Sequence[str] = (),
    gives: str = "answer",
    marked: bool = False,
    model: str = "",
    **options: Any,
) -> Data:
    """Ask a model. `gives` says what its reply must be; one that is `marked` has its answer behind `RESULT:`."""
    message = await complete(write_messages(name, state, instruction, lessons), model, **options)
    return read_reply(message.content, gives, marked)
