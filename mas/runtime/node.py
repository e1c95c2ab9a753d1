"""
What a node does with the query and with what it hears: one plan from its role, its outcome as plain data.

Nothing that goes wrong in a node is an exception: its outcome says what happened, and whoever hears it goes on
without it.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from edgewise.mas.graph.graph import Graph, Node
from edgewise.mas.graph.roles import ALL_TOOLS, Role, Roles, find
from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.rollout import agent, tool_calls
from edgewise.toolkit.rollout.agent import Agent
from edgewise.toolkit.tools.python_tool import run_python
from edgewise.toolkit.tools.tool import Function
from edgewise.toolkit.types import BlockingCall, Example, Message, Plan, Rollout, Sampling, Step
from edgewise.toolkit.util.extract import BLOCK, code_in

Ended = Literal["ok", "contract", "failed", "timeout", "limit", "silent"]
"""
How a node ended: "ok"; "contract", its reply is not what its role gives; "failed", the model or its program broke;
"timeout"; "limit", the graph's own limit was reached before it; "silent", a vote that heard no answer.
"""

PROGRAM_SECONDS = 10.0
SHOWN = 8000
"""The most characters of a node's word that others are shown."""
VERDICT = re.compile(r"\bverdict\W+(accept|revise)\b", re.IGNORECASE)
RESULT = re.compile(r"^[\s*_#>]*result[*_]*:[*_]*", re.IGNORECASE | re.MULTILINE)
LISTED = re.compile(r"^\s*(?:\d+[.)]|[-*])\s+\S", re.MULTILINE)
HEARD = "What others found"
LESSONS = "Lessons from earlier tasks"
PART = "Your part"
FORM = "Now answer the task above, in the form that it asks for."
PROBLEM = "The program did not work:\n{problem}\nWrite the whole program again, corrected."


@dataclass(frozen=True, slots=True)
class NodeOutput:
    """
    What came of a node: `text` is what others hear, "" where it has nothing to say.

    `result` is the answer alone, where its role puts it apart from its reasoning, else "". `accepts` is its verdict,
    None where its role gives none. `rollout` is the agent's run, None where no model was asked. `error` says what
    went wrong. `weight` is the node's say in a weighted vote.
    """

    node: str
    ended: Ended
    text: str = ""
    accepts: bool | None = None
    rollout: Rollout | None = None
    error: str = ""
    weight: float = 1.0
    result: str = ""

    @property
    def answer(self) -> str:
        """Its answer to the task: what a graph says whose exit it is, and what a vote counts."""
        return self.result or self.text

    @property
    def heard(self) -> bool:
        """Whether there is something to hear: a reply that breaks its contract is still heard."""
        return bool(self.text)


@dataclass(frozen=True, slots=True, eq=False)
class Team:
    """
    What all nodes of a graph share: roles, the model and sampling of those that name none, and tools by name.

    `own` names the tools that the task itself gives, which a role gets by "*". `payer` is the role that their calls
    are booked on.
    """

    roles: Roles
    model: str
    sampling: Sampling = Sampling()
    tools: Mapping[str, Function] | None = None
    turns: int = 50
    calling: tool_calls.Calling = "auto"
    payer: str = "rollout"
    own: tuple[str, ...] = ()

    def tool_names(self, node: Node) -> tuple[str, ...]:
        """The names of a node's tools: its own, else those of its role."""
        wanted = find(self.roles, node.role).tools if node.tools is None else node.tools
        return tuple(
            dict.fromkeys(x for name in wanted for x in (self.own if name == ALL_TOOLS else (name,)))
        )

    def tools_of(self, node: Node) -> tuple[Function, ...]:
        """The tools of a node. Raises GraphError for one that is not there."""
        there, names = self.tools or {}, self.tool_names(node)
        for name in names:
            if name not in there:
                raise GraphError(
                    f"Node {node.name!r} wants a tool {name!r}, and the task has "
                    f"{', '.join(there) or 'none'}; name it under tools in the task file."
                )
        return tuple(there[name] for name in names)

    def check(self, graph: Graph) -> None:
        """Raise GraphError where a graph has a role or wants a tool that is not there."""
        for node in graph.nodes:
            self.tools_of(node)


def act(
    team: Team, node: Node, example: Example, heard: Sequence[NodeOutput], *, sample: int, seed: int
) -> Plan[NodeOutput]:
    """Run one node on a query, given what the nodes before it said, in their order."""
    outcome = yield from _acted(team, node, example, heard, sample, seed)
    return outcome if outcome.weight == node.weight else replace(outcome, weight=node.weight)


def _acted(
    team: Team, node: Node, example: Example, heard: Sequence[NodeOutput], sample: int, seed: int
) -> Plan[NodeOutput]:
    role = find(team.roles, node.role)
    saying = [outcome for outcome in heard if outcome.heard]
    if role.votes:
        return _vote(node, saying, weighted=role.act == "weighted")
    messages = dressed(node, role, example.messages, saying)
    runner = Agent(
        node.model or team.model,
        _sampling(team, role),
        team.tools_of(node) if role.act == "ask" else (),
        min(team.turns, role.turns),
        team.calling,
        role=node.name,
        payer=team.payer,
    )
    if role.act == "program":
        return (yield from _program(runner, node, example, messages, sample, seed))
    run = yield from agent.rollout(runner, example, messages, sample=sample, seed=seed)
    return _judged(node, role, run)


def dressed(
    node: Node, role: Role, messages: tuple[Message, ...], heard: Sequence[NodeOutput]
) -> tuple[Message, ...]:
    """
    The messages that a node is asked: the task's own, then what it hears, its lessons and its role's prompt.

    All of it stands behind the task: there it has the last word, where small models follow the task's own wish for
    a short answer, and all agents of a graph share the beginning, which providers keep in a cache. A role without
    a prompt that hears nobody and has no lessons is asked the task as it stands.
    """
    told = role.prompt if node.prompt is None else node.prompt
    said = "\n\n".join(f"## {outcome.node}\n{_cut(outcome.text)}" for outcome in heard)
    lessons = "\n".join(f"- {lesson}" for lesson in node.lessons)
    parts = [
        f"# {HEARD}\n\n{said}" if said else "",
        f"# {LESSONS}\n\n{lessons}" if lessons else "",
        f"# {PART}\n\n{told or FORM}" if told or said else "",
    ]
    added = "\n\n".join(part for part in parts if part)
    if not added:
        return messages
    last = messages[-1]
    return (*messages[:-1], replace(last, content=f"{last.content}\n\n{added}"))


def _cut(text: str) -> str:
    """What others are shown of a text: a program may print thousands of lines, and a model may rave."""
    half = SHOWN // 2
    return text if len(text) <= SHOWN else f"{text[:half]}\n[...]\n{text[-half:]}"


def _sampling(team: Team, role: Role) -> Sampling:
    """The run's sampling, within what the role may cost."""
    most = [limit for limit in (team.sampling.max_tokens, role.max_tokens) if limit is not None]
    temperature = team.sampling.temperature if role.temperature is None else role.temperature
    longest = min(most, default=None)
    if (temperature, longest) == (team.sampling.temperature, team.sampling.max_tokens):
        return team.sampling
    return replace(team.sampling, temperature=temperature, max_tokens=longest)


def _judged(node: Node, role: Role, run: Rollout) -> NodeOutput:
    """The outcome of a run, held to what its role gives."""
    if run.failed:
        return NodeOutput(node.name, "failed", rollout=run, error=run.error or run.stop)
    if run.stop == "turns":
        return NodeOutput(
            node.name, "contract", rollout=run, error="its turns were used up by calls of tools"
        )
    text = run.answer.strip()
    verdict = _verdict(text) if role.gives == "verdict" else None
    result = _result(text) if role.marked else ""
    problem = _breach(role, text, verdict, result)
    ended: Ended = "contract" if problem else "ok"
    return NodeOutput(node.name, ended, text, verdict, run, problem, result=result)


def _verdict(text: str) -> bool | None:
    """Whether the last verdict in a text accepts, None where there is none: a model may name both before it decides."""
    found = VERDICT.findall(text)
    return found[-1].lower() == "accept" if found else None


def _result(text: str) -> str:
    """What follows the last `RESULT:`, "" where there is none."""
    parts = RESULT.split(text)
    return parts[-1].strip() if len(parts) > 1 else ""


def _breach(role: Role, text: str, verdict: bool | None, result: str) -> str:
    """What is wrong with a reply; "" if nothing is."""
    if not text:
        return "the reply is empty"
    if role.marked and not result:
        return "there is no line RESULT: with an answer"
    if role.gives == "verdict" and verdict is None:
        return "there is no line VERDICT: ACCEPT or VERDICT: REVISE"
    if role.gives == "parts" and not LISTED.search(text):
        return "there is no list"
    return ""


# ---- programs --------------------------------------------------------------------------------------


def _program(
    runner: Agent, node: Node, example: Example, messages: tuple[Message, ...], sample: int, seed: int
) -> Plan[NodeOutput]:
    """Ask for a program and run it; one that does not work goes back with its error, while there are turns."""
    steps: list[Step] = []
    once = replace(runner, turns=1)
    while True:
        run = yield from agent.rollout(once, example, messages, sample=sample, seed=seed)
        steps.extend(run.steps)
        whole = replace(run, steps=tuple(steps))
        if run.failed:
            return NodeOutput(node.name, "failed", rollout=whole, error=run.error or run.stop)
        printed, problem = yield from _executed(run.answer)
        if not problem:
            return NodeOutput(node.name, "ok", printed, rollout=whole)
        if len(steps) >= runner.turns:
            ended: Ended = "contract" if problem == NO_PROGRAM else "failed"
            return NodeOutput(node.name, ended, rollout=whole, error=problem)
        messages = (*messages, run.steps[-1].said, Message("user", PROBLEM.format(problem=problem)))


NO_PROGRAM = "there is no program in a ``` block"


def _executed(reply: str) -> Plan[tuple[str, str]]:
    """What the program in a reply printed, and what was wrong with it ("" if nothing was)."""
    if not BLOCK.search(reply):
        return "", NO_PROGRAM
    done = yield BlockingCall(partial(run_python, code_in(reply), timeout=PROGRAM_SECONDS))
    printed = done.stdout.strip()
    if done.timed_out:
        return "", f"it was stopped after {PROGRAM_SECONDS:g} seconds"
    if done.exit_code:
        return "", done.stderr.strip()[-1000:] or f"it ended with exit code {done.exit_code}"
    return printed, "" if printed else "it printed nothing"


# ---- votes -----------------------------------------------------------------------------------------


def _vote(node: Node, heard: Sequence[NodeOutput], *, weighted: bool) -> NodeOutput:
    """The answer with the most weight; of equals the one that was heard first."""
    if not heard:
        return NodeOutput(node.name, "silent", error="no answer was heard")
    count: dict[str, float] = defaultdict(float)
    for outcome in heard:
        count[same(outcome.answer)] += outcome.weight if weighted else 1.0
    best = max(count, key=lambda answer: count[answer])
    return NodeOutput(node.name, "ok", next(x.answer for x in heard if same(x.answer) == best))


def same(text: str) -> str:
    """
    What two answers must share to count as one: their last line, without case, spaces and marks at its ends.

    Of an answer that ends in a block of several lines, such as a program, it is the block.
    """
    text = text.strip()
    if text.endswith("```"):
        text = "\n".join(line.rstrip() for line in code_in(text).strip().splitlines())
        if "\n" in text and "```" not in text:
            return text
    lines = [re.sub(r"\s+", " ", line).strip(" .*`\"'") for line in text.splitlines()]
    return next((line.casefold() for line in reversed(lines) if line), "")
