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

from mas.graph import Node
from mas.roles import Role, Roles
from toolkit import agent
from toolkit.agent import Agent
from toolkit.extract import BLOCK, code_in
from toolkit.tools import Function
from toolkit.tools.python import run_python
from toolkit.types import Example, Message, Plan, Rollout, Sampling, Step, Stop, Work

Ended = Literal["ok", "contract", "failed", "timeout", "limit", "silent"]
"""
How a node ended: "ok"; "contract", its reply is not what its role gives; "failed", the model or its program broke;
"timeout"; "limit", the graph's own limit was reached before it; "silent", a vote that heard no answer.
"""

PROGRAM_SECONDS = 10.0
VERDICT = re.compile(r"^\W*verdict\W+(accept|revise)", re.IGNORECASE | re.MULTILINE)
LISTED = re.compile(r"^\s*(?:\d+[.)]|[-*])\s+\S", re.MULTILINE)
HEARD = "What others found"
FORM = "Now do your part for the task above."
PROBLEM = "The program did not work:\n{problem}\nWrite the whole program again, corrected."


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What came of a node: `text` is what others hear, "" where it has nothing to say.

    `accepts` is its verdict, None where its role gives none. `rollout` is the agent's run, None where no model was
    asked. `error` says what went wrong. `weight` is the node's say in a weighted vote.
    """

    node: str
    ended: Ended
    text: str = ""
    accepts: bool | None = None
    rollout: Rollout | None = None
    error: str = ""
    weight: float = 1.0

    @property
    def heard(self) -> bool:
        """Whether there is something to hear: a reply that breaks its contract is still heard."""
        return bool(self.text)


@dataclass(frozen=True, slots=True)
class Team:
    """
    What all nodes of a graph share: roles, the model and sampling of those that name none, and tools by name.

    `payer` is the role that their calls are booked on.
    """

    roles: Roles
    model: str
    sampling: Sampling = Sampling()
    tools: Mapping[str, Function] | None = None
    turns: int = 50
    calling: agent.Calling = "auto"
    payer: str = "rollout"

    def tools_of(self, node: Node) -> tuple[Function, ...]:
        """The tools of a node: its own, else those of its role."""
        names = self.roles[node.role].tools if node.tools is None else node.tools
        return tuple((self.tools or {})[name] for name in names)


def act(
    team: Team, node: Node, example: Example, heard: Sequence[Outcome], *, sample: int, seed: int
) -> Plan[Outcome]:
    """Run one node on a query, given what the nodes before it said, in their order."""
    outcome = yield from _acted(team, node, example, heard, sample, seed)
    return replace(outcome, weight=node.weight)


def _acted(
    team: Team, node: Node, example: Example, heard: Sequence[Outcome], sample: int, seed: int
) -> Plan[Outcome]:
    role = team.roles[node.role]
    saying = [outcome for outcome in heard if outcome.heard]
    if role.act in ("majority", "weighted"):
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
    node: Node, role: Role, messages: tuple[Message, ...], heard: Sequence[Outcome]
) -> tuple[Message, ...]:
    """
    The messages that a node is asked: the task's own, its role's prompt and lessons, and what it hears.

    A role without a prompt that hears nobody and has no lessons is asked the task as it stands.
    """
    told = role.prompt if node.prompt is None else node.prompt
    lessons = "\n".join(f"- {lesson}" for lesson in node.lessons)
    parts = [told, f"Lessons from earlier tasks:\n{lessons}" if lessons else ""]
    system = "\n\n".join(part for part in parts if part)
    said = "\n\n".join(f"## {outcome.node}\n{outcome.text}" for outcome in heard)
    if system:
        messages = _with_system(messages, system)
    if said:
        last = messages[-1]
        messages = (*messages[:-1], replace(last, content=f"{last.content}\n\n# {HEARD}\n\n{said}\n\n{FORM}"))
    return messages


def _with_system(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    if messages and messages[0].role == "system":
        return (Message("system", f"{messages[0].content}\n\n{text}"), *messages[1:])
    return (Message("system", text), *messages)


def _sampling(team: Team, role: Role) -> Sampling:
    """The run's sampling, within what the role may cost."""
    most = [limit for limit in (team.sampling.max_tokens, role.max_tokens) if limit is not None]
    sampling = replace(team.sampling, max_tokens=min(most, default=None))
    return sampling if role.temperature is None else replace(sampling, temperature=role.temperature)


def _judged(node: Node, role: Role, run: Rollout) -> Outcome:
    """The outcome of a run, held to what its role gives."""
    if run.failed:
        return Outcome(node.name, "failed", rollout=run, error=run.error or run.stop)
    text, verdict = run.answer.strip(), None
    if role.gives == "verdict" and (found := VERDICT.search(text)):
        verdict = found[1].lower() == "accept"
    if problem := _breach(role, text, verdict):
        return Outcome(node.name, "contract", text, verdict, run, problem)
    return Outcome(node.name, "ok", text, verdict, run)


def _breach(role: Role, text: str, verdict: bool | None) -> str:
    """What is wrong with a reply; "" if nothing is."""
    if not text:
        return "the reply is empty"
    if role.gives == "verdict" and verdict is None:
        return "there is no line VERDICT: ACCEPT or VERDICT: REVISE"
    if role.gives == "parts" and not LISTED.search(text):
        return "there is no list"
    return ""


# ---- programs --------------------------------------------------------------------------------------


def _program(
    runner: Agent, node: Node, example: Example, messages: tuple[Message, ...], sample: int, seed: int
) -> Plan[Outcome]:
    """Ask for a program and run it; one that fails goes back with its error, while there are turns."""
    steps: list[Step] = []
    ended, problem, stop = "contract", "", "stop"
    once = replace(runner, turns=1)
    for _ in range(runner.turns):
        run = yield from agent.rollout(once, example, messages, sample=sample, seed=seed)
        steps.extend(run.steps)
        stop = run.stop
        if run.failed:
            ended, problem = "failed", run.error or run.stop
            break
        printed, problem = yield from _executed(run.answer)
        ended = "contract" if problem == NO_PROGRAM else "failed"
        if not problem:
            return Outcome(node.name, "ok", printed, rollout=_whole(run, steps, run.stop))
        messages = (*messages, run.steps[-1].said, Message("user", PROBLEM.format(problem=problem)))
    return Outcome(node.name, ended, rollout=_whole(run, steps, stop), error=problem)


NO_PROGRAM = "there is no program in a ``` block"


def _executed(reply: str) -> Plan[tuple[str, str]]:
    """What the program in a reply printed, and what was wrong with it ("" if nothing was)."""
    if not BLOCK.search(reply):
        return "", NO_PROGRAM
    done = yield Work(partial(run_python, code_in(reply), timeout=PROGRAM_SECONDS))
    printed = done.stdout.strip()
    if done.timed_out:
        return "", f"it was stopped after {PROGRAM_SECONDS:g} seconds"
    if done.exit_code:
        return "", done.stderr.strip()[-1000:] or f"it ended with exit code {done.exit_code}"
    return printed, "" if printed else "it printed nothing"


def _whole(last: Rollout, steps: Sequence[Step], stop: Stop) -> Rollout:
    return replace(last, steps=tuple(steps), stop=stop)


# ---- votes -----------------------------------------------------------------------------------------


def _vote(node: Node, heard: Sequence[Outcome], *, weighted: bool) -> Outcome:
    """The answer with the most weight; of equals the one that was heard first."""
    if not heard:
        return Outcome(node.name, "silent", error="no answer was heard")
    count: dict[str, float] = defaultdict(float)
    for outcome in heard:
        count[same(outcome.text)] += outcome.weight if weighted else 1.0
    best = max(count, key=lambda answer: count[answer])
    return Outcome(node.name, "ok", next(x.text for x in heard if same(x.text) == best))


def same(text: str) -> str:
    """What two answers must share to count as one: their last line, without case, spaces and marks at its ends."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[-1]).strip(" .*`\"'").casefold() if lines else ""
