"""
New roles: a model proposes them for a task, and those that measurably improve a graph are admitted.

The model sees the task, rows that went wrong, and the known roles. What it writes is learned text, so it is guarded
like a lesson before it is used. Then each role is put into the graph in every place where it fits, and the gate
compares these graphs with the graph as it was (`toolkit.evaluation.gate`). A role without a gain is refused, with the
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
from edgewise.mas.search.llm.graph_writer import object_schema
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.trials import measure_design, quality_of
from edgewise.toolkit.evaluation.gate import AlphaSpending, Scores, choose
from edgewise.toolkit.groups.sampling.row_selection import shuffle
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import RolesAdmitted, StageStarted
from edgewise.toolkit.types import BilledTo, Example, Message, Plan, Reply, Request, Rollout, Sampling
from edgewise.toolkit.util.extract import extract_json
from edgewise.toolkit.util.validation import describe_error

# Rows that are run to see what goes wrong.
PROBE_ROWS = 16
# Failed rows that the model sees.
MAX_FAILURES = 4
# Characters of a task or an answer that the model sees.
MAX_CHARS = 1500
# Words of a role's line on what it is for.
MAX_DOES_WORDS = 25
# Requests until a reply is readable.
ATTEMPTS = 3
PASS = 1.0

FailedRow = tuple[Example, Rollout]
Measure = Callable[[FixedDesign, Sequence[Example]], Plan[Scores]]

TEXT = {"type": "string"}
ROLE = object_schema(
    {
        "name": TEXT,
        "does": TEXT,
        "prompt": TEXT,
        "act": {"type": "string", "enum": ["ask", "program"]},
        "gives": {"type": "string", "enum": ["answer", "plan", "notes", "verdict", "parts"]},
        "hears": {"type": "integer", "minimum": 0},
        "tools": {"type": "array", "items": TEXT},
    }
)
SCHEMA = object_schema({"roles": {"type": "array", "items": ROLE}})

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
    The model that proposes roles, and its limits.

    `truth`: whether it sees reference answers and rewards. `roles`: the most it may propose. `words`: the longest a
    prompt may be.
    """

    model: str
    truth: bool = True
    roles: int = 3
    words: int = 150


@dataclass(frozen=True, slots=True)
class Proposals:
    """Roles that may be tried, and why others were refused, by name."""

    roles: tuple[Role, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Admission:
    """Admitted roles, the graph that they improved, and why others were refused, by name."""

    roles: Roles
    graph: Graph
    refused: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        roles = [role.model_dump(mode="json", exclude_defaults=True) for role in self.roles.values()]
        return {"admitted": roles, "graph": self.graph.to_json(), "refused": dict(self.refused)}


class ProposedRole(BaseModel):
    """A role as a model writes it: the keys that it may decide. Costs are not among them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    does: str
    prompt: str
    act: str = "ask"
    gives: str = "answer"
    hears: int = 0
    tools: tuple[str, ...] = ()


def recruit_roles(spec: GraphSpec, graph: Graph | None = None) -> Plan[Roles]:
    """
    Return roles that a model proposed and that improved `graph` (one plain agent); none if the settings ask for none.

    All rows are training rows, those of the comparison are new to the model: the validation rows must not choose what
    they test in the end. The event `RolesAdmitted` says what became of each role.
    """
    if not spec.config.recruit:
        return {}
    graph = graph or single()
    rows = shuffle(spec.task.train, spec.config.seed, 0)
    probe, fresh = rows[:PROBE_ROWS], rows[PROBE_ROWS:][: spec.config.gate_rows]

    # Propose roles from the rows that the graph fails.
    groups = yield from measure_design(spec, FixedDesign(graph), probe, "gate")
    rollouts = [(group.example, rollout) for group in groups for rollout in group.rollouts[:1]]
    failed = [(row, rollout) for row, rollout in rollouts if quality_of(rollout) < PASS]
    recruiter = Recruiter(spec.designer, roles=spec.config.recruit)
    proposals = yield from propose_roles(recruiter, spec.task, failed, spec.catalogue, spec.tools)

    # Admit those that improve the graph on the other rows.
    extended = replace(spec, extra_roles={**spec.extra_roles, **{role.name: role for role in proposals.roles}})
    yield StageStarted(f"comparing {len(proposals.roles)} proposed roles on {len(fresh)} training rows")

    def score(design: FixedDesign, rows: Sequence[Example]) -> Plan[Scores]:
        groups = yield from measure_design(extended, design, rows, "gate")
        return np.array([np.mean([quality_of(rollout) for rollout in group.rollouts]) for group in groups])

    admission = yield from admit_roles(graph, proposals, fresh, score, spec.config.alpha, extended.roles)
    yield RolesAdmitted(admission.to_json())
    return admission.roles


# ---- proposals -------------------------------------------------------------------------------------


def propose_roles(
    recruiter: Recruiter, task: Task, failed: Sequence[FailedRow], roles: Roles, tools: Collection[str]
) -> Plan[Proposals]:
    """
    Ask for roles that would have prevented failures; without failures no model is asked.

    A reply that cannot be read is answered with its problem, a few times. After that there are no proposals.
    """
    if not failed:
        return Proposals()
    system = Message("system", PROPOSE.format(roles=recruiter.roles, words=recruiter.words))
    prompt = (system, Message("user", render_failures(recruiter, task, failed, roles, tools)))
    messages, problem = prompt, ""
    for number in range(ATTEMPTS):
        reply: Reply = yield Request(
            recruiter.model,
            messages,
            Sampling(temperature=0.0),
            sample=number,
            schema=SCHEMA,
            payer=BilledTo("designer"),
        )
        try:
            return parse_roles(reply.message.content, recruiter, roles, tools, Guard.from_examples(task.train))
        except ValueError as error:
            problem = reply.error or str(error)
        messages = (*prompt, reply.message, Message("user", UNREADABLE.format(problem=problem)))
    return Proposals(refused={"reply": f"there was none that could be read: {problem}"})


def render_failures(
    recruiter: Recruiter, task: Task, failed: Sequence[FailedRow], roles: Roles, tools: Collection[str]
) -> str:
    """Return the task, its tools, the known roles and the first failures, for the model."""
    known = [f"- {r.name} (gives {r.gives}, hears {r.hears} or more): {r.does}" for r in roles.values()]
    parts = [
        "# Task\n" + "\n".join(filter(None, [task.system, task.prompt])),
        "# Tools\n" + ("\n".join(f"- {name}" for name in tools) or "(none)"),
        "# Roles that there are\n" + "\n".join(known),
        "# Failures",
    ]
    for number, (row, rollout) in enumerate(failed[:MAX_FAILURES], 1):
        question, answer = row.messages[-1].content[:MAX_CHARS], rollout.answer[:MAX_CHARS]
        lines = [f"## Failure {number}", question, f"Answer: {answer}"]
        if recruiter.truth and rollout.score is not None:
            lines.append(f"Reward {rollout.score.value:g}. {rollout.score.feedback}".rstrip())
        if recruiter.truth and row.target is not None:
            lines.append(f"Right answer: {row.target}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def parse_roles(text: str, recruiter: Recruiter, known: Roles, tools: Collection[str], guard: Guard) -> Proposals:
    """
    Return the roles in a reply, each either usable or refused with the reason.

    Raises ValueError for a reply without a list.
    """
    data = extract_json(text)
    items = data.get("roles") if isinstance(data, dict) else data
    if not isinstance(items, list):
        raise ValueError('there is no list of "roles"')
    usable: dict[str, Role] = {}
    refused: dict[str, str] = {}
    for number, item in enumerate(items, 1):
        name = str(item.get("name") or f"role {number}") if isinstance(item, dict) else f"role {number}"
        if number > recruiter.roles:
            refused[name] = f"more than {recruiter.roles} roles were proposed"
            continue
        try:
            role = read_role(item, recruiter.words, {**CATALOGUE, **known, **usable}, tools, guard)
            usable[role.name] = role
        except ValueError as error:
            reason = describe_error(error) if isinstance(error, ValidationError) else str(error)
            refused[f"{name} (again)" if name in usable else name] = reason
    return Proposals(tuple(usable.values()), refused)


def read_role(item: Any, max_words: int, known: Roles, tools: Collection[str], guard: Guard) -> Role:
    """
    Return the role that a model wrote, without secrets and personal data.

    Raises ValueError for a name that is invalid or taken, for keys that are missing or unknown, for a prompt that is
    empty or too long, for an unknown tool, and for text that the guard blocks.
    """
    proposed = ProposedRole.model_validate(item)
    if any(proposed.name.lower() == name.lower() for name in known):
        raise ValueError("there is a role of this name")
    if not proposed.prompt.strip():
        raise ValueError("it has no prompt")
    if missing := sorted(set(proposed.tools) - set(tools)):
        raise ValueError(f"there is no tool {missing[0]!r}")

    clean = {}
    for key, text, most in (("prompt", proposed.prompt, max_words), ("does", proposed.does, MAX_DOES_WORDS)):
        count = len(text.split())
        if count > most:
            raise ValueError(f"its {key} has {count} words, and {most} are allowed")
        checked = guard.check(text)
        if checked.is_blocked:
            raise ValueError(f"its {key} was blocked: {checked.reason}")
        clean[key] = checked.text

    is_answer = proposed.act == "ask" and proposed.gives == "answer"
    marked = is_answer and bool(re.search(r"\bRESULT:", proposed.prompt))
    role = Role.model_validate({**proposed.model_dump(), **clean, "marked": marked})
    if role.votes:
        raise ValueError(f"act {role.act!r} asks no model, and there are such roles")
    return role


# ---- admission -------------------------------------------------------------------------------------


def admit_roles(
    graph: Graph, proposals: Proposals, rows: Sequence[Example], score: Measure, alpha: float, roles: Roles
) -> Plan[Admission]:
    """
    Admit the roles that improve the graph, one after the other, on rows that they were not made from.

    The probability that a role without any gain is admitted is at most `alpha` for all roles together
    (`toolkit.evaluation.gate.AlphaSpending`). After an admission the next role has to beat the improved graph. `roles`
    are all known roles, the proposed ones among them.
    """
    best, admitted, refused = graph, {}, dict(proposals.refused)
    spending = AlphaSpending(alpha, max(1, len(proposals.roles)))
    for role in proposals.roles:
        places = {place: FixedDesign(placed) for place, placed in place_role(best, role, roles).items()}
        choice = yield from choose(FixedDesign(best), places, rows, score, spending.level)
        spending, verdict = spending.after(choice), choice.verdict
        if choice.winner:
            best, admitted[role.name] = choice.chosen.graph, role
        elif not verdict.rows:
            refused[role.name] = "it fits nowhere in the graph"
        else:
            refused[role.name] = (
                f"no gain was shown in its best place ({verdict.difference:+.3f} on {verdict.rows} rows, "
                f"p {verdict.p:.2g}; needed {verdict.level:.2g})"
            )
    return Admission(admitted, best, refused)


def place_role(graph: Graph, role: Role, roles: Roles) -> dict[str, Graph]:
    """
    Return the graph with an agent of a role, in every place where it fits, by the place.

        in the place of an agent    if it has inputs enough and its successors can use what it gives
        before the exit             beside the others, if it needs no inputs
        after the exit              as the new exit, if it answers

    An agent that votes keeps its place, and has only answers as inputs. The source of a loop must give a verdict.
    """
    node = Node(name=pick_name(role.name, {node.name for node in graph.nodes}), role=role.name)
    exit_, is_room = graph.exit, len(graph) < MAX_NODES

    def is_usable_by(name: str) -> bool:
        return role.answers or not roles[graph[name].role].votes

    def fits_for(name: str) -> bool:
        is_loop_source = any(loop.source == name for loop in graph.loops)
        return (
            not roles[graph[name].role].votes
            and len(graph.predecessors[name]) >= role.hears
            and (role.answers or name != exit_)
            and (role.gives == "verdict" or not is_loop_source)
            and all(map(is_usable_by, graph.successors[name]))
        )

    places = {f"for {n.name}": replace_node(graph, n.name, node) for n in graph.nodes if fits_for(n.name)}
    # A new input of the exit inside of a loop would not run again in its later rounds.
    in_loops = {name for loop in graph.loops for name in graph.loop_body(loop) if name != loop.target}
    if is_room and not role.hears and exit_ not in in_loops and is_usable_by(exit_):
        edges = (*graph.edges, (node.name, exit_))
        places[f"before {exit_}"] = replace(graph, nodes=(*graph.nodes, node), edges=edges)
    if is_room and role.answers and role.hears <= 1:
        edges = (*graph.edges, (exit_, node.name))
        places[f"after {exit_}"] = replace(graph, nodes=(*graph.nodes, node), edges=edges, exit=node.name)
    return places


def replace_node(graph: Graph, name: str, node: Node) -> Graph:
    """Return the graph with another agent in the place of one."""
    new = {name: node.name}
    loops = [
        loop.model_copy(
            update={"source": new.get(loop.source, loop.source), "target": new.get(loop.target, loop.target)}
        )
        for loop in graph.loops
    ]
    nodes = tuple(node if old.name == name else old for old in graph.nodes)
    edges = tuple((new.get(a, a), new.get(b, b)) for a, b in graph.edges)
    return Graph(nodes, edges, new.get(graph.exit, graph.exit), tuple(loops))
