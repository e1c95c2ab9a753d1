"""
New roles: a model proposes them for a task, and those that make a graph measurably better are admitted.

The model sees the task, rows that went wrong and what roles there are. What it writes is learned text, so it is
guarded like a lesson before it is used. Then each role is put into the graph in every place where it fits, and the
gate compares these graphs with the graph as it was (`toolkit.evaluation.gate`): a role that shows no gain is refused, with the
figures.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from edgewise.experience.guard.guard import Guard
from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.graph.graph import MAX_NODES, Graph, Node, pick_name, single
from edgewise.mas.graph.roles import CATALOGUE, Role, Roles
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.trials import measure_design
from edgewise.toolkit.evaluation.comparison import valid_reward
from edgewise.toolkit.evaluation.gate import Scores, AlphaSpending, Verdict, choose
from edgewise.toolkit.groups.sampling.row_selection import shuffle
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import RolesAdmitted, StageStarted
from edgewise.toolkit.types import BilledTo, Example, Message, Plan, Reply, Request, Rollout, Sampling
from edgewise.toolkit.util.extract import extract_json

PROBE_ROWS = 16
"""Rows that are run to see what goes wrong."""
FAILURES = 4
"""Rows that went wrong, of those that the model is shown."""
LONGEST = 1500
"""Characters of a task or an answer that the model is shown."""
LINE = 25
"""The most words of a role's one line."""
PASS = 1.0

Failed = tuple[Example, Rollout]
Measure = Callable[[FixedDesign, Sequence[Example]], Plan[Scores]]

ROLE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "does": {"type": "string"},
        "prompt": {"type": "string"},
        "act": {"type": "string", "enum": ["ask", "program"]},
        "gives": {"type": "string", "enum": ["answer", "plan", "notes", "verdict", "parts"]},
        "hears": {"type": "integer", "minimum": 0},
        "tools": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "does", "prompt", "act", "gives", "hears", "tools"],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "properties": {"roles": {"type": "array", "items": ROLE}},
    "required": ["roles"],
    "additionalProperties": False,
}

PROPOSE = """\
Several assistants solve a task together; each has a role. Propose up to {roles} new roles that would have prevented \
the failures below. A role is general: its prompt must help with every task of this kind, and never mentions the \
names, numbers or answers of the tasks shown. Propose nothing that a role below already does.
Answer with JSON only: {{"roles": [{{"name": ..., "does": ..., "prompt": ..., "act": ..., "gives": ..., "hears": ..., \
"tools": [...]}}]}}
- name: small letters, digits and "-". does: one line on what it is for. prompt: what it is told, at most {words} words.
- act: "ask" (it answers in words) or "program" (it writes a Python program in a ```python block, which is run).
- gives: "answer" (to the task), "plan", "notes", "parts" (a numbered list), or "verdict" (its prompt must ask for a \
last line VERDICT: ACCEPT or VERDICT: REVISE). One that gives an answer and thinks aloud first must be asked for a \
last line RESULT: with the answer alone.
- hears: how many other assistants it must hear, 0 if it needs only the task. tools: names from the list of tools.
"""
UNREADABLE = "That could not be read: {problem}. Answer again with the JSON only."


@dataclass(frozen=True, slots=True)
class Recruiter:
    """
    The model that proposes roles, and what it may see and say.

    `truth`: whether it sees right answers and rewards. `roles`: the most it may propose. `words`: the longest a prompt
    may be. `attempts`: tries at a readable reply.
    """

    model: str
    sampling: Sampling = Sampling(temperature=0.0)
    truth: bool = True
    roles: int = 3
    words: int = 150
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class Proposals:
    """Roles that may be tried, and why the others may not, by name."""

    roles: tuple[Role, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Admission:
    """Roles that showed their worth, the graph that they made better, and why the others were refused, by name."""

    roles: Roles
    graph: Graph
    refused: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        roles = [role.model_dump(mode="json", exclude_defaults=True) for role in self.roles.values()]
        return {"admitted": roles, "graph": self.graph.to_json(), "refused": dict(self.refused)}


class ProposedRole(BaseModel):
    """A role as a model writes it: what it may decide of one. Costs are not among that."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    does: str
    prompt: str
    act: str = "ask"
    gives: str = "answer"
    hears: int = 0
    tools: tuple[str, ...] = ()


# ---- the whole of it -------------------------------------------------------------------------------


def recruit_roles(job: GraphSpec, graph: Graph | None = None) -> Plan[Roles]:
    """
    Roles that a model proposed for the job's task and that made `graph` (one plain agent) better; none if unasked.

    Everything happens on training rows, the comparison on those that the model did not see: the validation rows must
    not have chosen what they test in the end. What became of each role is noted as "recruited".
    """
    if not job.config.recruit:
        return {}
    graph = graph or single()
    rows = shuffle(job.task.train, job.config.seed, 0)
    seen, fresh = rows[:PROBE_ROWS], rows[PROBE_ROWS:][: job.config.gate_rows]
    groups = yield from measure_design(job, FixedDesign(graph), seen, "gate")
    runs = [(group.example, run) for group in groups for run in group.rollouts[:1]]
    wrong = [(row, run) for row, run in runs if (valid_reward(run) or 0.0) < PASS]
    recruiter = Recruiter(job.designer, roles=job.config.recruit)
    found = yield from propose_roles(recruiter, job.task, wrong, job.catalogue, job.tools)
    wider = replace(job, recruited={**job.extra_roles, **{role.name: role for role in found.roles}})
    yield StageStarted(f"comparing {len(found.roles)} proposed roles on {len(fresh)} training rows")

    def scores(design: FixedDesign, rows: Sequence[Example]) -> Plan[Scores]:
        measured = yield from measure_design(wider, design, rows, "gate")
        return np.array([np.mean([valid_reward(run) or 0.0 for run in group.rollouts]) for group in measured])

    admission = yield from admit_roles(graph, found, fresh, scores, job.config.alpha, wider.roles)
    yield RolesAdmitted(admission.to_json())
    return admission.roles


# ---- proposing -------------------------------------------------------------------------------------


def propose_roles(
    recruiter: Recruiter, task: Task, failed: Sequence[Failed], roles: Roles, tools: Collection[str]
) -> Plan[Proposals]:
    """
    Ask for roles that would have prevented failures. Without failures no model is asked.

    A reply that cannot be read is answered with what is wrong, a few times; after that there are no proposals.
    """
    if not failed:
        return Proposals()
    system = Message("system", PROPOSE.format(roles=recruiter.roles, words=recruiter.words))
    asked = (system, Message("user", _shown(recruiter, task, failed, roles, tools)))
    messages, problem = asked, ""
    for number in range(recruiter.attempts):
        reply: Reply = yield Request(
            recruiter.model,
            messages,
            recruiter.sampling,
            sample=number,
            schema=SCHEMA,
            payer=BilledTo("designer"),
        )
        try:
            return parse_roles(reply.message.content, recruiter, roles, tools, Guard.from_examples(task.train))
        except ValueError as error:
            problem = reply.error or str(error)
        messages = (*asked, reply.message, Message("user", UNREADABLE.format(problem=problem)))
    return Proposals(refused={"reply": f"there was none that could be read: {problem}"})


def _shown(
    recruiter: Recruiter, task: Task, failed: Sequence[Failed], roles: Roles, tools: Collection[str]
) -> str:
    known = [f"- {r.name} (gives {r.gives}, hears {r.hears} or more): {r.does}" for r in roles.values()]
    parts = [
        "# Task\n" + "\n".join(filter(None, [task.system, task.prompt])),
        "# Tools\n" + ("\n".join(f"- {name}" for name in tools) or "(none)"),
        "# Roles that there are\n" + "\n".join(known),
        "# Failures",
        *(_failure(recruiter, row, run, n) for n, (row, run) in enumerate(failed[:FAILURES], 1)),
    ]
    return "\n\n".join(parts)


def _failure(recruiter: Recruiter, row: Example, run: Rollout, number: int) -> str:
    lines = [f"## Failure {number}", row.messages[-1].content[:LONGEST], f"Answer: {run.answer[:LONGEST]}"]
    if recruiter.truth and run.score is not None:
        lines.append(f"Reward {run.score.value:g}. {run.score.feedback}".rstrip())
    if recruiter.truth and row.target is not None:
        lines.append(f"Right answer: {row.target}")
    return "\n".join(lines)


# ---- reading ---------------------------------------------------------------------------------------


def parse_roles(text: str, recruiter: Recruiter, known: Roles, tools: Collection[str], guard: Guard) -> Proposals:
    """
    The roles in a reply, each either usable or refused with the reason. Raises ValueError for a reply without a list.

    A role is refused for a name that is no name or taken, for a key too many or too few, for no prompt or one that is
    too long, for a tool that is not there, and for text that the guard blocks; the guard takes secrets and personal
    data out of the rest.
    """
    data = extract_json(text)
    listed = data.get("roles") if isinstance(data, dict) else data
    if not isinstance(listed, list):
        raise ValueError('there is no list of "roles"')
    usable: dict[str, Role] = {}
    refused: dict[str, str] = {}
    for number, item in enumerate(listed, 1):
        name = str(item.get("name") or f"role {number}") if isinstance(item, dict) else f"role {number}"
        if number > recruiter.roles:
            refused[name] = f"more than {recruiter.roles} roles were proposed"
            continue
        try:
            role = _read(item, recruiter.words, {**CATALOGUE, **known, **usable}, tools, guard)
            usable[role.name] = role
        except ValueError as error:
            refused[f"{name} (again)" if name in usable else name] = _reason(error)
    return Proposals(tuple(usable.values()), refused)


def _read(item: Any, words: int, known: Roles, tools: Collection[str], guard: Guard) -> Role:
    """The role that a model wrote. Raises ValueError that says why it is not to be used."""
    given = ProposedRole.model_validate(item)
    if any(given.name.lower() == name.lower() for name in known):
        raise ValueError("there is a role of this name")
    if not given.prompt.strip():
        raise ValueError("it has no prompt")
    if missing := sorted(set(given.tools) - set(tools)):
        raise ValueError(f"there is no tool {missing[0]!r}")
    texts = {"prompt": (given.prompt, words), "does": (given.does, LINE)}
    clean = {key: _clean(key, text, most, guard) for key, (text, most) in texts.items()}
    marked = given.act == "ask" and given.gives == "answer" and bool(re.search(r"\bRESULT:", given.prompt))
    role = Role.model_validate({**given.model_dump(), **clean, "marked": marked})
    if role.votes:
        raise ValueError(f"act {role.act!r} asks no model, and there are such roles")
    return role


def _clean(key: str, text: str, most: int, guard: Guard) -> str:
    count = len(text.split())
    if count > most:
        raise ValueError(f"its {key} has {count} words, and {most} are allowed")
    checked = guard.check(text)
    if checked.is_blocked:
        raise ValueError(f"its {key} was blocked: {checked.reason}")
    return checked.text


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")


# ---- admitting -------------------------------------------------------------------------------------


def admit_roles(
    graph: Graph, found: Proposals, rows: Sequence[Example], scores: Measure, alpha: float, roles: Roles
) -> Plan[Admission]:
    """
    Admit the roles that make the graph better, on rows that they were not made from, one after the other.

    The chance that any role is admitted that helps nowhere is at most `alpha`; they share it as the tests of a run do
    (`toolkit.evaluation.gate.Spending`). Once a role is admitted, the graph with it is what the next one has to beat. `roles` are
    all that there are, the proposed ones among them.
    """
    best, kept, refused = graph, {}, dict(found.refused)
    spending = AlphaSpending(alpha, max(1, len(found.roles)))
    for role in found.roles:
        places = {where: FixedDesign(each) for where, each in place_role(best, role, roles).items()}
        choice = yield from choose(FixedDesign(best), places, rows, scores, spending.level)
        spending = spending.after(choice)
        if choice.winner:
            best, kept[role.name] = choice.chosen.graph, role
        else:
            refused[role.name] = _shortfall(choice.verdict)
    return Admission(kept, best, refused)


def _shortfall(verdict: Verdict) -> str:
    if not verdict.rows:
        return "it fits nowhere in the graph"
    return (
        f"no gain was shown in its best place ({verdict.difference:+.3f} on {verdict.rows} rows, p {verdict.p:.2g}; "
        f"needed {verdict.level:.2g})"
    )


def place_role(graph: Graph, role: Role, roles: Roles) -> dict[str, Graph]:
    """
    The graph with an agent of a role, in every place where it fits, by where that is.

    In the place of an agent; beside the others before the exit, if it hears nobody; and after the exit, as the new
    exit, if it answers. An agent that votes keeps its place, and hears only answers; where a loop goes back, a verdict
    is given.
    """
    node, exit_ = (
        Node(name=pick_name(role.name, {node.name for node in graph.nodes}), role=role.name),
        graph.exit,
    )
    room = len(graph) < MAX_NODES
    places = {
        f"for {old.name}": _exchanged(graph, old.name, node)
        for old in graph.nodes
        if _fits(graph, old.name, role, roles)
    }
    inside = {name for loop in graph.loops for name in graph.loop_body(loop) if name != loop.target}
    if room and not role.hears and exit_ not in inside and _takes(graph, exit_, role, roles):
        edges = (*graph.edges, (node.name, exit_))
        places[f"before {exit_}"] = replace(graph, nodes=(*graph.nodes, node), edges=edges)
    if room and role.answers and role.hears <= 1:
        edges = (*graph.edges, (exit_, node.name))
        places[f"after {exit_}"] = replace(graph, nodes=(*graph.nodes, node), edges=edges, exit=node.name)
    return places


def _fits(graph: Graph, name: str, role: Role, roles: Roles) -> bool:
    """Whether a role can take an agent's place: it hears enough, and is heard as what it gives."""
    if roles[graph[name].role].votes or len(graph.predecessors[name]) < role.hears:
        return False
    if name == graph.exit and not role.answers:
        return False
    if role.gives != "verdict" and any(loop.source == name for loop in graph.loops):
        return False
    return all(_takes(graph, hearer, role, roles) for hearer in graph.successors[name])


def _takes(graph: Graph, hearer: str, role: Role, roles: Roles) -> bool:
    return role.answers or not roles[graph[hearer].role].votes


def _exchanged(graph: Graph, name: str, node: Node) -> Graph:
    """The graph with another agent in the place of one."""

    def called(each: str) -> str:
        return node.name if each == name else each

    return replace(
        graph,
        nodes=tuple(node if each.name == name else each for each in graph.nodes),
        edges=tuple((called(a), called(b)) for a, b in graph.edges),
        exit=called(graph.exit),
        loops=tuple(
            x.model_copy(update={"source": called(x.source), "target": called(x.target)}) for x in graph.loops
        ),
    )
