"""
A planner and its sub-agents, by strict call and return (M-GRPO, arXiv 2511.13288).

The planner has a tool `delegate(task, role)`. Each call is a run of a sub-agent that sees nothing but `task`, and what
it says last goes back to the planner; calls of one turn run together. A run of the two is one rollout of the planner
whose steps hold the sub-agents' rollouts in `calls`, in the order of the calls.
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
    What a planner may ask for: names of roles with the instruction of each, and the `most` calls of one run.

    With a single role, a call need not name it. Raises ConfigError for no roles or no calls.
    """

    roles: Mapping[str, str] = field(default_factory=lambda: {SUB: ""})
    most: int = 8

    def __post_init__(self) -> None:
        if not self.roles or self.most < 1:
            raise ConfigError("A planner needs at least one role to hand tasks to, and at least one call.")

    @property
    def tool(self) -> Tool:
        """The tool as the planner sees it."""
        task = {"type": "string", "description": "everything that the sub-agent needs to know and to do"}
        role = {"type": "string", "enum": list(self.roles)}
        required = ["task"] if len(self.roles) == 1 else ["task", "role"]
        schema = {"type": "object", "properties": {"task": task, "role": role}, "required": required}
        return Tool(DELEGATE, f"Hand a task to a sub-agent. At most {self.most} calls in all.", schema)


@dataclass(frozen=True, slots=True)
class DelegateAgent:
    """One side of the two: how its model is run, what it is told, and its lessons."""

    agent: Agent
    prompt: str = ""
    library: Library = Library()

    def asked(self, messages: tuple[Message, ...], more: str = "") -> tuple[Message, ...]:
        """The messages with what this member is told, `more` included, and its lessons."""
        return self.library.insert_lessons(_told(messages, "\n\n".join(filter(None, (self.prompt, more)))))


@dataclass(frozen=True, slots=True)
class Order:
    """A sub-task, and the role that is to do it."""

    task: str
    role: str = SUB


def delegated(
    planner: DelegateAgent,
    sub: DelegateAgent | None,
    example: Example,
    terms: DelegationSpec | None = None,
    *,
    sample: int,
    seed: int,
) -> Plan[Rollout]:
    """
    One run of a planner on an example, with sub-agents to hand tasks to; without `sub`, of one agent by itself.

    A call that breaks the terms is no run: the planner is told what is wrong. A sub-agent's run that fails is kept, and
    the planner hears of it. Sub-agents' runs have the sample index of the planner's, a seed made of its seed and the
    number of the call, and the role that was asked for. `version` is that of each one's library.
    """
    agent = planner.agent
    if sub:
        terms = terms or DelegationSpec()
        agent = replace(agent, tools=(*agent.tools, _delegation(sub, example, terms, sample, seed)))
    asked = planner.asked(example.messages)
    run = yield from run_rollout(agent, example, asked, sample=sample, seed=seed)
    return replace(run, version=planner.library.version)


def sub_runs(run: Rollout) -> tuple[Rollout, ...]:
    """The sub-agents' runs of a planner's run, in the order of the calls."""
    return tuple(call for step in run.steps for call in step.subrollouts)


def orders(run: Rollout, terms: DelegationSpec) -> tuple[Order, ...]:
    """What each of `sub_runs(run)` was asked, read back from the planner's calls."""
    read = [
        _order(terms, number, _arguments(call.arguments))
        for calls in number_calls(run.steps)
        for call, number in calls
        if call.name == DELEGATE
    ]
    return tuple(order for order in read if isinstance(order, Order))


def part(example: Example, task: str) -> Example:
    """A sub-task as an example of its own: target and metadata are those of the row that it is a part of."""
    return replace(example, messages=(Message("user", task),))


def _delegation(
    sub: DelegateAgent, example: Example, terms: DelegationSpec, sample: int, seed: int
) -> Delegation:
    def run(number: int, arguments: Mapping[str, Any]) -> Plan[Rollout | str]:
        order = _order(terms, number, arguments)
        if isinstance(order, str):
            return order
        piece = part(example, order.task)
        agent = replace(sub.agent, role=order.role)
        asked = sub.asked(piece.messages, terms.roles[order.role])
        own = derive_seed(seed, DELEGATE, number)
        done = yield from run_rollout(agent, piece, asked, sample=sample, seed=own)
        return replace(done, version=sub.library.version)

    return Delegation(terms.tool, run)


def _order(terms: DelegationSpec, number: int, arguments: Mapping[str, Any]) -> Order | str:
    """What a call asks for, or what is wrong with it."""
    task, role = arguments.get("task"), arguments.get("role")
    if number >= terms.most:
        return f"error: no more than {terms.most} calls; answer with what you have"
    if not isinstance(task, str) or not task.strip():
        return 'error: wrong arguments: "task" must be a text that says what to do'
    if role is None and len(terms.roles) == 1:
        role = next(iter(terms.roles))
    if not isinstance(role, str) or role not in terms.roles:
        return f"error: wrong arguments: there is no role {role!r}; there is {', '.join(terms.roles)}"
    return Order(task, role)


def _arguments(written: str) -> Mapping[str, Any]:
    try:
        found = json.loads(written or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _told(messages: tuple[Message, ...], prompt: str) -> tuple[Message, ...]:
    """The messages with a prompt in their system message; a row's own system text comes first."""
    if not prompt:
        return messages
    if messages and messages[0].role == "system":
        return (Message("system", f"{messages[0].content}\n\n{prompt}"), *messages[1:])
    return (Message("system", prompt), *messages)
