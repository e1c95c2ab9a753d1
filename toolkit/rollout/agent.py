"""
The turn loop of an agent, as a plan: ask, use the tools that were called, ask again.

A model that calls tools natively is served natively. One that does not is told in words how to call them
(`by_text`), and its answer is read for such calls; with "auto" words are used once a server refuses tools.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from edgewise.toolkit.environments.protocol import World
from edgewise.toolkit.reward.reward import Reward
from edgewise.toolkit.rollout.episode import check_starts, episode
from edgewise.toolkit.tools.tool import Function
from edgewise.toolkit.types import (
    Example,
    Group,
    Message,
    Note,
    Payer,
    Plan,
    Reply,
    Request,
    Rollout,
    Sampling,
    Step,
    Stop,
    Tool,
    ToolCall,
    Work,
)
from edgewise.toolkit.util.detached import apart
from edgewise.toolkit.util.seeds import seed as seed_of

Calling = Literal["auto", "native", "text"]

HOW_TO_CALL = """\
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


@dataclass(frozen=True, slots=True)
class Agent:
    """
    How a model is run on an example: its name, sampling, tools and the most turns it may take, and its world.

    `role` is the name under which its runs are grouped; `payer` the role they are booked on.
    """

    model: str
    sampling: Sampling = Sampling()
    tools: tuple[Function | Delegation, ...] = ()
    turns: int = 50
    calling: Calling = "auto"
    role: str = "solver"
    payer: str = "rollout"
    world: World | None = None


def rollout(
    agent: Agent, example: Example, messages: tuple[Message, ...], *, sample: int, seed: int
) -> Plan[Rollout]:
    """
    One run of `agent` on `messages`: until it answers without a tool call, fails, or is out of turns.

    One that has a world acts in it instead, see `toolkit.rollout.episode`.
    """
    payer = Payer(agent.payer, example=example.id)
    if agent.world:
        blank = Rollout(example.id, agent.role, sample, (), "stop", seed=seed)

        def ask(seen: tuple[Message, ...], turn: int) -> Request:
            # A seed for each turn: with one for all, who comes back to a state would do the same again for ever.
            return _request(agent, seen, sample, seed_of(seed, turn), payer, True)

        return (yield from episode(agent.world, ask, example, messages, turns=agent.turns, blank=blank))
    steps: list[Step] = []
    by_text = agent.calling == "text"
    seen = with_instructions(messages, agent.tools) if by_text else messages

    def ended(stop: Stop, error: str = "") -> Rollout:
        return Rollout(example.id, agent.role, sample, tuple(steps), stop, seed=seed, error=error)

    while len(steps) < agent.turns:
        request = _request(agent, seen, sample, seed, payer, by_text)
        reply: Reply = yield request
        if _refused_tools(reply, request) and agent.calling == "auto":
            # From the start again: a server may take the tools and then refuse the messages that answer them.
            by_text, seen = True, with_instructions(messages, agent.tools)
            steps.clear()
            continue
        if reply.failed:
            return ended(reply.stop, reply.error)
        said = _read_calls(reply.message, len(steps)) if by_text and agent.tools else reply.message
        steps.append(Step(seen, said, reply.usage, reply.latency, reply.encoded))
        if not said.tool_calls:
            return ended(reply.stop)
        results = yield [_result(agent.tools, call, number) for call, number in numbered(steps)[-1]]
        calls = tuple(result for result in results if isinstance(result, Rollout))
        steps[-1] = replace(steps[-1], calls=calls)
        told = [_told(call, result, by_text) for call, result in zip(said.tool_calls, results, strict=True)]
        seen = (*seen, reply.message, *told)
    return ended("turns")


def attempt(
    agent: Agent,
    example: Example,
    messages: tuple[Message, ...],
    reward: Reward,
    *,
    judge: str,
    sample: int,
    seed: int,
) -> Plan[Rollout]:
    """A rollout that is graded as soon as it ends, and noted."""
    run = yield from rollout(agent, example, messages, sample=sample, seed=seed)
    score = yield from reward.grade(example, run, judge)
    graded = replace(run, score=score)
    yield Note("rollout", graded)
    return graded


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one run is asked, and the version of what it was dressed with."""

    messages: tuple[Message, ...]
    version: str = ""


def runs(
    agent: Agent,
    example: Example,
    prompts: Sequence[Prompt],
    reward: Reward,
    *,
    judge: str,
    seed: int,
    start: int = 0,
    together: bool = False,
) -> Plan[tuple[Rollout, ...]]:
    """
    A graded run for each prompt, with the sample indices from `start` on.

    Each has a seed made of `seed`, the row and its index. `together` grades them against each other, where the
    reward can.
    """
    seeds = [seed_of(seed, example.id, sample) for sample in range(start, start + len(prompts))]
    numbered = list(zip(prompts, seeds, range(start, start + len(prompts)), strict=True))
    if not (together and reward.grade_group):
        found = yield [
            attempt(agent, example, prompt.messages, reward, judge=judge, sample=sample, seed=own)
            for prompt, own, sample in numbered
        ]
    else:
        plain = yield [
            rollout(agent, example, prompt.messages, sample=sample, seed=own)
            for prompt, own, sample in numbered
        ]
        scores = yield from reward.grade_group(example, plain, judge)
        found = [replace(run, score=score) for run, score in zip(plain, scores, strict=True)]
        for run in found:
            yield Note("rollout", run)
    if agent.world:
        check_starts(agent.world, found)
    return tuple(replace(run, version=p.version) for p, run in zip(prompts, found, strict=True))


def group(
    agent: Agent,
    example: Example,
    messages: tuple[Message, ...],
    reward: Reward,
    *,
    judge: str,
    size: int,
    seed: int,
    version: str = "",
) -> Plan[Group]:
    """`size` graded runs on one example, all asked the same."""
    prompts = [Prompt(messages, version)] * size
    return Group(
        example, agent.role, (yield from runs(agent, example, prompts, reward, judge=judge, seed=seed))
    )


def _request(
    agent: Agent, seen: tuple[Message, ...], sample: int, seed: int, payer: Payer, by_text: bool
) -> Request:
    tools: tuple[Tool, ...] = () if by_text else tuple(function.tool for function in agent.tools)
    return Request(agent.model, seen, replace(agent.sampling, seed=seed), tools, sample, payer=payer)


def _refused_tools(reply: Reply, request: Request) -> bool:
    return bool(reply.stop == "refused" and request.tools and "tool" in reply.error.lower())


def with_instructions(
    messages: tuple[Message, ...], tools: tuple[Function | Delegation, ...]
) -> tuple[Message, ...]:
    """The messages that a run begins with, where tools are called in words: how is said in the system message."""
    if not tools:
        return messages
    described = "\n".join(
        f"- {f.tool.name}: {f.tool.description} Arguments: {json.dumps(dict(f.tool.parameters))}"
        for f in tools
    )
    how = HOW_TO_CALL.format(tools=described)
    if messages and messages[0].role == "system":
        return (Message("system", f"{messages[0].content}\n\n{how}"), *messages[1:])
    return (Message("system", how), *messages)


def _read_calls(said: Message, turn: int) -> Message:
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


def numbered(steps: Sequence[Step]) -> list[list[tuple[ToolCall, int]]]:
    """The tool calls of each step, each with its number among the calls of the same tool, from 0."""
    count: Counter[str] = Counter()
    found = []
    for step in steps:
        found.append([])
        for call in step.said.tool_calls:
            found[-1].append((call, count[call.name]))
            count[call.name] += 1
    return found


def _told(call: ToolCall, result: Rollout | str, by_text: bool) -> Message:
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


def _result(tools: tuple[Function | Delegation, ...], call: ToolCall, number: int) -> Plan[Rollout | str]:
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
    return (yield Work(run) if chosen.ends else Work(apart, (run,)))
