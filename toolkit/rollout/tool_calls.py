"""Tool calls of an agent: native ones, those written as text, and delegation to other agents."""

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
"""Name of a call that was written in words and could not be read."""


@dataclass(frozen=True, slots=True)
class Delegation:
    """
    A tool whose calls are runs of other agents: `run(number, arguments)` is the plan of one, or of why there is none.

    `number` counts the calls of this tool within a rollout, from 0. Calls of one turn run together; the caller is told
    the run's answer, or that it failed, and its step keeps the run in `calls`.
    """

    tool: Tool
    run: Callable[[int, Mapping[str, Any]], Plan[Rollout | str]]


def is_tools_refusal(reply: Reply, request: Request) -> bool:
    return bool(reply.stop == "refused" and request.tools and "tool" in reply.error.lower())


def add_call_instructions(
    messages: tuple[Message, ...], tools: tuple[FunctionTool | Delegation, ...]
) -> tuple[Message, ...]:
    """The messages that a run begins with, where tools are called in words: how is said in the system message."""
    if not tools:
        return messages
    described = "\n".join(
        f"- {f.tool.name}: {f.tool.description} Arguments: {json.dumps(dict(f.tool.parameters))}"
        for f in tools
    )
    how = CALL_INSTRUCTIONS.format(tools=described)
    if messages and messages[0].role == "system":
        return (Message("system", f"{messages[0].content}\n\n{how}"), *messages[1:])
    return (Message("system", how), *messages)


def parse_calls(said: Message, turn: int) -> Message:
    """The message with the calls that its text contains."""
    calls = []
    for index, block in enumerate(BLOCK.findall(said.content)):
        try:
            call = json.loads(block)
            name, arguments = str(call["name"]), call.get("arguments", {})
        except (ValueError, KeyError):
            name, arguments = UNREADABLE, block
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        calls.append(ToolCall(f"call-{turn}-{index}", name, written))
    return replace(said, tool_calls=tuple(calls))


def number_calls(steps: Sequence[Step]) -> list[list[tuple[ToolCall, int]]]:
    """The tool calls of each step, each with its number among the calls of the same tool, from 0."""
    count: Counter[str] = Counter()
    found = []
    for step in steps:
        found.append([])
        for call in step.completion.tool_calls:
            found[-1].append((call, count[call.name]))
            count[call.name] += 1
    return found


def render_result(call: ToolCall, result: Rollout | str, by_text: bool) -> Message:
    """The message that answers a call."""
    text = result if isinstance(result, str) else _returned(result)
    if by_text:
        return Message("user", f"<result>\n{text}\n</result>")
    return Message("tool", text, tool_call_id=call.id)


def _returned(run: Rollout) -> str:
    """What a caller hears of a run that it delegated."""
    if run.failed:
        return f"error: the agent failed ({run.stop}): {run.error}"
    if run.stop == "turns" or not run.answer.strip():
        return f"error: the agent gave no answer ({run.stop})"
    return run.answer


def execute_call(tools: tuple[FunctionTool | Delegation, ...], call: ToolCall, number: int) -> Plan[Rollout | str]:
    """What a tool call gives; whatever goes wrong is told to the model, which may mend it."""
    chosen = next((f for f in tools if f.tool.name == call.name), None)
    if call.name == UNREADABLE:
        return 'error: the block is not JSON of the form {"name": "NAME", "arguments": {...}}'
    if chosen is None:
        return f"error: there is no tool {call.name!r}; there is {', '.join(f.tool.name for f in tools)}"
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError as error:
        return f"error: the arguments are not JSON: {error}"
    if not isinstance(arguments, dict):
        return "error: the arguments must be a JSON object"
    if isinstance(chosen, Delegation):
        return (yield from chosen.run(number, arguments))
    run = partial(chosen.run, **arguments)
    return (yield BlockingCall(run) if chosen.is_bounded else BlockingCall(run_detached, (run,)))
