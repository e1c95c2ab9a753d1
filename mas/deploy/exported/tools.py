"""Nodes that ask a model which may call tools."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from edgewise.mas.deploy.exported.model import complete, read_reply, write_messages
from edgewise.mas.deploy.exported.python_process import run_python
from edgewise.mas.deploy.exported.settings import NODES, TOOL_SCHEMAS, Data
from edgewise.mas.deploy.exported.state import GraphState
from edgewise.mas.runtime.node_text import TURNS_USED_UP


async def python(code: str) -> str:
    """Run a program: the tool "python"."""
    return "\n".join(filter(None, await run_python(code))) or "(nothing was printed)"


async def missing_tool(name: str, /, **arguments: Any) -> str:
    """Stand for a tool that was not exported."""
    raise NotImplementedError(f"the tool {name} is not connected")


# Connect tools of your own here: an async function that returns a text, by the name of the tool.
FUNCTIONS: dict[str, Callable[..., Awaitable[str]]] = {"python": python}
TOOLS = {name: (schema, FUNCTIONS.get(name) or partial(missing_tool, name)) for name, schema in TOOL_SCHEMAS.items()}


async def run_tool_node(name: str, state: GraphState) -> Data:
    """Ask a model and run the tools that it calls, for at most `turns` calls of the model."""
    row = NODES[name]
    schemas = [{"type": "function", "function": TOOLS[tool][0]} for tool in row["tools"]]
    messages = write_messages(name, state)
    message = await complete(row, messages, tools=schemas)
    for _ in range(row["turns"] - 1):
        if not message.tool_calls:
            break
        # The model sees its own calls and their results, in the order of the calls.
        calls = [call.model_dump() for call in message.tool_calls]
        messages.append({"role": "assistant", "content": message.content, "tool_calls": calls})
        messages += await asyncio.gather(*(call_tool(call, row["tools"]) for call in message.tool_calls))
        message = await complete(row, messages, tools=schemas)
    return {"error": TURNS_USED_UP} if message.tool_calls else read_reply(row, message.content)


async def call_tool(call: Any, tools: Sequence[str]) -> Data:
    """Run one call of a tool. Errors become its result: the model may correct the call."""
    try:
        if call.function.name not in tools:
            raise ValueError(f"there is no tool {call.function.name!r}; there is {', '.join(tools)}")
        text = await TOOLS[call.function.name][1](**json.loads(call.function.arguments or "{}"))
    except Exception as error:
        text = f"error: {error}"
    return {"role": "tool", "tool_call_id": call.id, "content": text}
