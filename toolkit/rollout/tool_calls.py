"""
Tool calls of an agent: native ones, calls written as text, and delegation to other agents.

A model that calls tools natively is served natively. Others get a description of the tools in the prompt, and their
completions are parsed for calls. With "auto", text is used once a server refuses native tools.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from edgewise.toolkit.tools.tool import FunctionTool
from edgewise.toolkit.types import BlockingCall, Message, Plan, Reply, Request, Rollout, Step, Tool, ToolCall
from edgewise.toolkit.util.detached import run_detached

CallFormat = Literal["auto", "native", "text"]
CALL_INSTRUCTIONS = """\
You can use tools. To call one, write exactly one block like this and then stop:
<tool>{{"name": "NAME", "arguments": {{...}}}}</tool>
The result is sent to you in <result> tags. When you know the answer, give it without a block.

{tools}"""

BLOCK = re.compile(r"<tool>\s*(\{.*?\})\s*</tool>", re.DOTALL)
UNREADABLE = ""
"""Name of a call in text that could not be parsed."""


@dataclass(frozen=True, slots=True)
class Delegation:
    """
    Tool whose calls are rollouts of other agents.

    `run(number, arguments)` is the plan of one call: it returns the rollout, or the reason why there is none. `number`
    counts the calls of this tool within a rollout, from 0. Calls of one turn run concurrently. The caller receives
    the rollout's answer, or that it failed, and its step stores the rollout in `subrollouts`.
    """

    tool: Tool
    run: Callable[[int, Mapping[str, Any]], Plan[Rollout | str]]


def is_tools_refusal(reply: Reply, request: Request) -> bool:
    """Return whether a server refused a request because of its tools."""
    # Providers have no code for it: the word in the error's text is all there is.
    return bool(reply.stop == "refused" and request.tools and "tool" in reply.error.lower())


def add_call_instructions(
    messages: tuple[Message, ...], tools: tuple[FunctionTool | Delegation, ...]
) -> tuple[Message, ...]:
    """Return the messages with a description of the tools, and how to call them, in the system message."""
    if not tools:
        return messages
    descriptions = "\n".join(
        f"- {f.tool.name}: {f.tool.description} Arguments: {json.dumps(dict(f.tool.parameters))}" for f in tools
    )
    instructions = CALL_INSTRUCTIONS.format(tools=descriptions)
    if messages and messages[0].role == "system":
        return (Message("system", f"{messages[0].content}\n\n{instructions}"), *messages[1:])
    return (Message("system", instructions), *messages)


def parse_calls(completion: Message, turn: int) -> Message:
    """Return the message with the calls that its text contains; ids name the turn and the block."""
    calls = []
    for index, block in enumerate(BLOCK.findall(completion.content)):
        try:
            call = json.loads(block)
            name, arguments = str(call["name"]), call.get("arguments", {})
        except (ValueError, KeyError):
            name, arguments = UNREADABLE, block
        # Some models write the arguments as a string of JSON, as the native format has them.
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        calls.append(ToolCall(f"call-{turn}-{index}", name, text))
    return replace(completion, tool_calls=tuple(calls))


def number_calls(steps: Sequence[Step]) -> list[list[tuple[ToolCall, int]]]:
    """Return the tool calls of each step, each with its number among the calls of the same tool, from 0."""
    counts: Counter[str] = Counter()
    rows = []
    for step in steps:
        rows.append([])
        for call in step.completion.tool_calls:
            rows[-1].append((call, counts[call.name]))
            counts[call.name] += 1
    return rows


def execute_call(tools: tuple[FunctionTool | Delegation, ...], call: ToolCall, number: int) -> Plan[Rollout | str]:
    """Return the result of a tool call; errors are results too, since the model may correct its call."""
    tool = next((f for f in tools if f.tool.name == call.name), None)
    if call.name == UNREADABLE:
        return 'error: the block is not JSON of the form {"name": "NAME", "arguments": {...}}'
    if tool is None:
        return f"error: there is no tool {call.name!r}; there is {', '.join(f.tool.name for f in tools)}"
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError as error:
        return f"error: the arguments are not JSON: {error}"
    if not isinstance(arguments, dict):
        return "error: the arguments must be a JSON object"

    if isinstance(tool, Delegation):
        return (yield from tool.run(number, arguments))
    run = partial(tool.run, **arguments)
    # The run must be able to end while a tool hangs, unless the tool has a time limit of its own.
    return (yield BlockingCall(run) if tool.is_bounded else BlockingCall(run_detached, (run,)))


def render_result(call: ToolCall, result: Rollout | str, is_text: bool) -> Message:
    """Return the message that answers a call."""
    if isinstance(result, str):
        text = result
    elif result.failed:
        text = f"error: the agent failed ({result.stop}): {result.error}"
    elif result.stop == "turns" or not result.answer.strip():
        text = f"error: the agent gave no answer ({result.stop})"
    else:
        text = result.answer
    if is_text:
        return Message("user", f"<result>\n{text}\n</result>")
    return Message("tool", text, tool_call_id=call.id)
