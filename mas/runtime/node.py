"""
One node: from the query and the outputs that it receives to an output of its own.

    query ─┐
           ├─► build_messages ─► agent, with tools ──────────────► check_reply ─┐
    inputs ┤                 └─► agent ─► program ─► run, repair ───────────────┼─► NodeOutput
           └─► choose_by_vote (asks no model) ──────────────────────────────────┘

Nothing that goes wrong in a node raises: its output says what happened, and nodes that receive it go on without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from edgewise.mas.graph.graph import Graph, Node
from edgewise.mas.graph.roles import ALL_TOOLS, Role, Roles, find_role
from edgewise.mas.runtime.node_text import (
    NO_ANSWER,
    NO_PROGRAM,
    PROGRAM_FAILED,
    PROGRAM_SECONDS,
    TURNS_USED_UP,
    check_reply,
    choose_by_vote,
    write_prompt,
)
from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.rollout import agent, tool_calls
from edgewise.toolkit.rollout.agent import Agent
from edgewise.toolkit.tools.python_tool import run_python
from edgewise.toolkit.tools.tool import FunctionTool
from edgewise.toolkit.types import BlockingCall, Example, Message, Plan, Rollout, Sampling, Step
from edgewise.toolkit.util.extract import BLOCK, extract_code

NodeStatus = Literal["ok", "contract", "failed", "timeout", "limit", "silent"]
"""
How a node ended: "ok"; "contract", its reply is not what its role gives; "failed", the model or its program broke;
"timeout"; "limit", a limit of the graph run stopped it; "silent", a vote that received no answer.
"""


@dataclass(frozen=True, slots=True)
class NodeOutput:
    """
    Result of one run of a node: `text` is what other nodes receive, "" for nothing.

    `result` is the answer alone, where its role sets it apart from the reasoning, else "". `accepts` is its verdict,
    None where its role gives none. `rollout` is the agent's run, None where no model was asked. `error` says what
    went wrong. `weight` counts in a weighted vote.
    """

    node: str
    status: NodeStatus
    text: str = ""
    accepts: bool | None = None
    rollout: Rollout | None = None
    error: str = ""
    weight: float = 1.0
    result: str = ""

    @property
    def answer(self) -> str:
        """Its answer to the task: the graph's answer if it is the exit, and what a vote counts."""
        return self.result or self.text

    @property
    def has_text(self) -> bool:
        """Whether other nodes receive something: they also receive a reply that breaks its contract."""
        return bool(self.text)


@dataclass(frozen=True, slots=True, eq=False)
class Team:
    """
    What all nodes of a graph share: roles, the model and sampling of those that name none, and tools by name.

    `task_tools` names the tools of the task itself, which a role gets by "*". `payer` is the role that their calls are
    billed to.
    """

    roles: Roles
    model: str
    sampling: Sampling = Sampling()
    tools: Mapping[str, FunctionTool] | None = None
    turns: int = 50
    calling: tool_calls.CallFormat = "auto"
    payer: str = "rollout"
    task_tools: tuple[str, ...] = ()

    def tool_names(self, node: Node) -> tuple[str, ...]:
        """Return the names of a node's tools: its own, else those of its role."""
        names = find_role(self.roles, node.role).tools if node.tools is None else node.tools
        expanded = (other for name in names for other in (self.task_tools if name == ALL_TOOLS else (name,)))
        return tuple(dict.fromkeys(expanded))

    def resolve_tools(self, node: Node) -> tuple[FunctionTool, ...]:
        """Return the tools of a node. Raises GraphError for an unknown role or a missing tool."""
        tools, names = self.tools or {}, self.tool_names(node)
        for name in names:
            if name not in tools:
                raise GraphError(
                    f"Node {node.name!r} wants a tool {name!r}, and the task has "
                    f"{', '.join(tools) or 'none'}; name it under tools in the task file."
                )
        return tuple(tools[name] for name in names)

    def check(self, graph: Graph) -> None:
        """Raise GraphError where a graph has an unknown role or wants a missing tool."""
        for node in graph.nodes:
            self.resolve_tools(node)


def run_node(
    team: Team, node: Node, example: Example, inputs: Sequence[NodeOutput], *, sample: int, seed: int
) -> Plan[NodeOutput]:
    """Run one node on a query, with the outputs of its predecessors in their order."""
    role = find_role(team.roles, node.role)
    inputs = [output for output in inputs if output.has_text]
    if role.votes:
        if not inputs:
            return NodeOutput(node.name, "silent", error=NO_ANSWER, weight=node.weight)
        weights = [output.weight if role.act == "weighted" else 1.0 for output in inputs]
        answer = choose_by_vote([output.answer for output in inputs], weights)
        return NodeOutput(node.name, "ok", answer, weight=node.weight)

    # A role may lower the run's limits, never raise them.
    limits = [most for most in (team.sampling.max_tokens, role.max_tokens) if most is not None]
    temperature = team.sampling.temperature if role.temperature is None else role.temperature
    runner = Agent(
        node.model or team.model,
        replace(team.sampling, temperature=temperature, max_tokens=min(limits, default=None)),
        team.resolve_tools(node) if role.act == "ask" else (),
        min(team.turns, role.turns),
        team.calling,
        role=node.name,
        payer=team.payer,
    )
    messages = build_messages(node, role, example.messages, inputs)
    if role.act == "program":
        output = yield from run_programs(runner, node, example, messages, sample, seed)
        return replace(output, weight=node.weight)

    run = yield from agent.run_rollout(runner, example, messages, sample=sample, seed=seed)
    status: NodeStatus = "ok"
    text, accepts, result, problem = "", None, "", ""
    if run.failed:
        status, problem = "failed", run.error or run.stop
    elif run.stop == "turns":
        # The last reply is a call of a tool and no answer.
        status, problem = "contract", TURNS_USED_UP
    else:
        text = run.answer.strip()
        accepts, result, problem = check_reply(text, role.gives, role.marked)
        status = "contract" if problem else "ok"
    return NodeOutput(node.name, status, text, accepts, run, problem, node.weight, result)


def build_messages(
    node: Node, role: Role, messages: tuple[Message, ...], inputs: Sequence[NodeOutput]
) -> tuple[Message, ...]:
    """Return the task's messages, the last one followed by what the node receives, its lessons and its prompt."""
    instruction = role.prompt if node.prompt is None else node.prompt
    # A plain solver is asked exactly what a plain agent is asked: it is the baseline.
    if not (inputs or node.lessons or instruction):
        return messages
    last = messages[-1]
    texts = [(output.node, output.text) for output in inputs]
    prompt = write_prompt(last.content, texts, node.lessons, instruction)
    return (*messages[:-1], replace(last, content=prompt))


def run_programs(
    runner: Agent, node: Node, example: Example, messages: tuple[Message, ...], sample: int, seed: int
) -> Plan[NodeOutput]:
    """Ask for a program and run it; one that fails goes back with its error, while there are turns."""
    steps: list[Step] = []
    runner, turns = replace(runner, turns=1), runner.turns
    while True:
        run = yield from agent.run_rollout(runner, example, messages, sample=sample, seed=seed)
        steps.extend(run.steps)
        rollout = replace(run, steps=tuple(steps))
        if run.failed:
            return NodeOutput(node.name, "failed", rollout=rollout, error=run.error or run.stop)

        # Run it outside the event loop, in the sandbox.
        printed, problem = "", NO_PROGRAM
        if BLOCK.search(run.answer):
            code = extract_code(run.answer)
            done = yield BlockingCall(partial(run_python, code, timeout=PROGRAM_SECONDS))
            printed = done.stdout.strip()
            problem = "" if printed else "it printed nothing"
            if done.timed_out:
                problem = f"it was stopped after {PROGRAM_SECONDS:g} seconds"
            elif done.exit_code:
                # The end of the traceback names the error; a whole one may be longer than the task.
                problem = done.stderr.strip()[-1000:] or f"it ended with exit code {done.exit_code}"

        if not problem:
            return NodeOutput(node.name, "ok", printed, rollout=rollout)
        if len(steps) >= turns:
            status: NodeStatus = "contract" if problem == NO_PROGRAM else "failed"
            return NodeOutput(node.name, status, rollout=rollout, error=problem)
        correction = Message("user", PROGRAM_FAILED.format(problem=problem))
        messages = (*messages, run.steps[-1].completion, correction)
