"""Nodes that ask a model."""

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from openai import AsyncOpenAI

from edgewise.mas.deploy.exported.settings import API_KEY, BASE_URL, MODEL, NODES, SAMPLING, Data
from edgewise.mas.deploy.exported.state import GraphState, received_replies
from edgewise.mas.runtime.node_text import check_reply, write_prompt

# One client for each event loop, as connections can't be shared between loops.
CLIENTS: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncOpenAI] = WeakKeyDictionary()


async def complete(row: Data, messages: list[Any], **more: Any) -> Any:
    """Return the model's message. The openai package asks again where a server is busy."""
    loop = asyncio.get_running_loop()
    client = CLIENTS.get(loop) or CLIENTS.setdefault(loop, AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY))
    # A row names only what differs from the run's sampling.
    own = {key: row[key] for key in ("temperature", "max_tokens") if key in row}
    options = {**SAMPLING, **own, **more}
    model = row.get("model", MODEL)
    reply = await client.chat.completions.create(model=model, messages=messages, **options)
    return reply.choices[0].message


def write_messages(name: str, state: GraphState) -> list[Data]:
    """Return the question, its last message followed by what the node receives, its lessons and its instruction."""
    row = NODES[name]
    *earlier, last = state["messages"]
    inputs = [(reply["node"], reply["text"]) for reply in received_replies(state, name)]
    prompt = write_prompt(last["content"], inputs, row.get("lessons", []), row.get("instruction"))
    return [*earlier, {**last, "content": prompt}]


def read_reply(row: Data, text: str | None) -> Data:
    """Return what a reply holds and what is wrong with it; other nodes receive it all the same."""
    text = (text or "").strip()
    check = check_reply(text, row.get("gives", "answer"), row.get("marked", False))
    return {"text": text, "answer": check.result, "accepts": check.accepts, "error": check.problem}


async def run_model_node(name: str, state: GraphState) -> Data:
    """Ask a model."""
    message = await complete(NODES[name], write_messages(name, state))
    return read_reply(NODES[name], message.content)
