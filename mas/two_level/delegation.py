"""
A planner and its sub-agents, by strict call and return (M-GRPO, arXiv 2511.13288).

The planner has a tool `delegate(task, role)`. Each call is a rollout of a sub-agent that receives nothing but `task`,
and its last message goes back to the planner; calls of one turn run together:

    row ── planner ──┬─ delegate(task 0) ── sub-agent ── answer 0 ─┐
                     └─ delegate(task 1) ── sub-agent ── answer 1 ─┴─ planner ── answer

The whole is one rollout of the planner whose steps hold the sub-agents' rollouts, in the order of the calls.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgewise.experience.library.library import Library
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.rollout.agent import Agent, run_rollout
from edgewise.toolkit.rollout.tool_calls import Delegation, number_calls
from edgewise.toolkit.types import Example, Message, Plan, Rollout, Tool
from edgewise.toolkit.util.seeds import derive_seed

DELEGATE = "delegate"
SUB = "sub"

PLANNER_PROMPT = """\
You lead sub-agents. Split the task into parts, hand each part to a sub-agent with the tool `delegate`, and give the \
answer yourself once you have what you need. A sub-agent sees nothing but the text that you hand over: put into it all \
that the part needs, and say what you want back."""
SUB_PROMPT = """\
You do one part of a larger task for a planner, who sees nothing but your last message. Do just what is asked and end \
with the result."""


@dataclass(frozen=True, slots=True)
class DelegationSpec:
    """
    What a planner may ask for: `roles` with the instruction of each, at most `max_calls` calls in one rollout.

    With a single role, a call need not name it. Raises ConfigError for no roles or no calls.
    """

    roles: Mapping[str, str] = field(default_factory=lambda: {SUB: ""})
    max_calls: int = 8

    def __post_init__(self) -> None:
        if not self.roles or self.max_calls < 1:
            raise ConfigError("A planner needs at least one role to hand tasks to, and at least one call.")

    @property
    def tool(self) -> Tool:
        """The tool as the planner's model receives it."""
        task = {"type": "string", "description": "everything that the sub-agent needs to know and to do"}
        role = {"type": "string", "enum": list(self.roles)}
        required = ["task"] if len(self.roles) == 1 else ["task", "role"]
        schema = {"type": "object", "properties": {"task": task, "role": role}, "required": required}
        return Tool(DELEGATE, f"Hand a task to a sub-agent. At most {self.max_calls} calls in all.", schema)

    def parse(self, number: int, arguments: Mapping[str, Any]) -> "Subtask | str":
        """Return what call `number` (from 0) asks for, or the sentence that tells the planner what is wrong with it."""
        task, role = arguments.get("task"), arguments.get("role")
        if number >= self.max_calls:
            return f"error: no more than {self.max_calls} calls; answer with what you have"
        if not isinstance(task, str) or not task.strip():
            return 'error: wrong arguments: "task" must be a text that says what to do'
        if role is None and len(self.roles) == 1:
            role = next(iter(self.roles))
        if not isinstance(role, str) or role not in self.roles:
            return f"error: wrong arguments: there is no role {role!r}; there is {', '.join(self.roles)}"
        return Subtask(task, role)


@dataclass(frozen=True, slots=True)
class DelegateAgent:
    """The planner or a sub-agent: its model and sampling, its system prompt, its lessons."""

    agent: Agent
    prompt: str = ""
    library: Library = Library()

    def build_prompt(self, messages: tuple[Message, ...], instruction: str = "") -> tuple[Message, ...]:
        """Return the messages with this agent's prompt, `instruction` and lessons, after a row's own system text."""
        prompt = "\n\n".join(filter(None, (self.prompt, instruction)))
        if prompt and messages and messages[0].role == "system":
            messages = (Message("system", f"{messages[0].content}\n\n{prompt}"), *messages[1:])
        elif prompt:
            messages = (Message("system", prompt), *messages)
        return self.library.insert_lessons(messages)


@dataclass(frozen=True, slots=True)
class Subtask:
    """A part of a row's task, and the role that does it."""

    task: str
    role: str = SUB


def run_planner(
    planner: DelegateAgent,
    sub: DelegateAgent | None,
    example: Example,
    spec: DelegationSpec | None = None,
    *,
    sample: int,
    seed: int,
) -> Plan[Rollout]:
    """
    Run a planner on an example, with sub-agents to hand tasks to; without `sub`, one agent by itself.

    A call that breaks the spec starts no rollout: the planner receives what is wrong. A sub-agent's rollout that
    fails is recorded, and the planner receives that it failed. Sub-agents' rollouts have the planner's sample index,
    a seed derived from its seed and the number of the call, and the role that was asked for. `version` is that of
    each agent's library.
    """
    agent = planner.agent
    if sub:
        spec = spec or DelegationSpec()
        agent = replace(agent, tools=(*agent.tools, _delegate_tool(sub, example, spec, sample, seed)))
    rollout = yield from run_rollout(agent, example, planner.build_prompt(example.messages), sample=sample, seed=seed)
    return replace(rollout, version=planner.library.version)


def _delegate_tool(sub: DelegateAgent, example: Example, spec: DelegationSpec, sample: int, seed: int) -> Delegation:
    """Return the tool `delegate` for one rollout of a planner."""

    def run_call(number: int, arguments: Mapping[str, Any]) -> Plan[Rollout | str]:
        subtask = spec.parse(number, arguments)
        if isinstance(subtask, str):
            return subtask
        piece = subtask_example(example, subtask.task)
        rollout = yield from run_rollout(
            replace(sub.agent, role=subtask.role),
            piece,
            sub.build_prompt(piece.messages, spec.roles[subtask.role]),
            sample=sample,
            # The number of the call is in the seed, so that equal sub-tasks of one rollout are sampled apart.
            seed=derive_seed(seed, DELEGATE, number),
        )
        return replace(rollout, version=sub.library.version)

    return Delegation(spec.tool, run_call)


def sub_rollouts(rollout: Rollout) -> tuple[Rollout, ...]:
    """Return the sub-agents' rollouts of a planner's rollout, in the order of the calls."""
    return tuple(sub for step in rollout.steps for sub in step.subrollouts)


def read_subtasks(rollout: Rollout, spec: DelegationSpec) -> tuple[Subtask, ...]:
    """Return the sub-task of each of `sub_rollouts(rollout)`, read back from the planner's calls."""
    subtasks = []
    for calls in number_calls(rollout.steps):
        for call, number in calls:
            if call.name == DELEGATE:
                try:
                    arguments = json.loads(call.arguments or "{}")
                except ValueError:
                    arguments = {}
                subtasks.append(spec.parse(number, arguments if isinstance(arguments, dict) else {}))
    # A call that broke the spec has a sentence here, and started no rollout.
    return tuple(subtask for subtask in subtasks if isinstance(subtask, Subtask))


def subtask_example(example: Example, task: str) -> Example:
    """Return a sub-task as an example of its own, with the target and the metadata of the row that it is a part of."""
    return replace(example, messages=(Message("user", task),))
