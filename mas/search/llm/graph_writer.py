"""
Graphs as a model writes them: what it is told of them, how its reply is read, and a second try where that fails.

A reply that is no use is data: what was wrong with it is kept, and the caller goes on without it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgewise.mas.graph.edits import check_team
from edgewise.mas.graph.graph import Graph, Node
from edgewise.mas.graph.roles import Roles
from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.types import Message, Plan, Reply, Request
from edgewise.toolkit.util.extract import extract_json

FORM = """\
A team is a graph. Each node is an agent with a name of its own and one of these roles:
{roles}
An edge [a, b] means: b hears what a said. Agents that hear nobody begin; all of them see the task. The edges must not \
run in a cycle. A loop sends back from an agent that gives a verdict to an earlier one, for at most that many rounds. \
The exit is the agent whose answer counts; everybody else must be heard, directly or through others, by the exit. \
Choose only the roles that this needs, often one to three agents and never more than {most}: each one costs. \
A prompt of null is the prompt of the role.

Answer with JSON only: {{"why": one sentence, "graph": {{"nodes": [{{"name": ..., "role": ..., "prompt": null}}], \
"edges": [[a, b]], "loops": [{{"source": ..., "target": ..., "rounds": 1}}], "exit": ...}}}}
"""
TRIES = 2
UNUSABLE = "That can't be used: {problem} Answer again with the JSON only."


@dataclass(frozen=True, slots=True)
class WrittenGraph:
    """What came of asking for a graph: the graph, None if no try was usable; why it is so; what was wrong."""

    graph: Graph | None
    why: str = ""
    problems: tuple[str, ...] = ()


def render_instructions(roles: Roles, most: int) -> str:
    """What a model is told of graphs: the roles in a line each, and the form of its reply."""
    lines = [
        f"- {name}: {role.does}" + (f" (must hear {role.hears} or more)" if role.hears else "")
        for name, role in roles.items()
    ]
    return FORM.format(roles="\n".join(lines), most=most)


def reply_schema(roles: Roles, most: int) -> dict[str, Any]:
    """
    The JSON schema of a reply.

    Its lists have an end: where the server holds a small model to the schema, it can't go on through all roles.
    """
    text = {"type": "string"}
    node = {
        "name": text,
        "role": {"type": "string", "enum": list(roles)},
        "prompt": {"type": ["string", "null"]},
    }
    loop = {"source": text, "target": text, "rounds": {"type": "integer"}}
    graph = {
        "nodes": _list(_object(node), 1, most),
        "edges": _list(_list(text, 2, 2), 0, most * (most - 1) // 2),
        "loops": _list(_object(loop), 0, most // 2),
        "exit": text,
    }
    return _object({"why": text, "graph": _object(graph)})


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Mapping[str, Any], least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": dict(items), "minItems": least, "maxItems": most}


def render_graph(graph: Graph) -> str:
    """A graph in the form that a model answers in, on one line."""
    return json.dumps(
        {
            "nodes": [{"name": n.name, "role": n.role, "prompt": n.prompt} for n in graph.nodes],
            "edges": [list(edge) for edge in graph.edges],
            "loops": [loop.model_dump() for loop in graph.loops],
            "exit": graph.exit,
        }
    )


Fits = Callable[[Graph], Graph]
"""May change a graph, or raise GraphError where it is not wanted."""


def as_it_is(graph: Graph) -> Graph:
    """The graph."""
    return graph


def request_graph(request: Request, roles: Roles, most: int, fits: Fits = as_it_is) -> Plan[WrittenGraph]:
    """Ask for a graph that `check` and `fits` let pass; a reply that can't be used is answered once with why."""
    problems: list[str] = []
    request = replace(request, schema=reply_schema(roles, most))
    for _ in range(TRIES):
        reply: Reply = yield request
        if reply.failed:
            problems.append(f"The model did not answer: {reply.error or reply.stop}.")
            break
        try:
            graph, why = parse_reply(reply.message.content, roles, most)
            return WrittenGraph(fits(graph), why, tuple(problems))
        except GraphError as error:
            problems.append(str(error))
            complaint = Message("user", UNUSABLE.format(problem=error))
            request = replace(request, messages=(*request.messages, reply.message, complaint))
    return WrittenGraph(None, "", tuple(problems))


def _as_asked(graph: Graph) -> Graph:
    """The graph with what nodes were asked to say alone: a model does not choose models, tools or lessons."""
    nodes = (Node(name=node.name, role=node.role, prompt=node.prompt) for node in graph.nodes)
    return replace(graph, nodes=tuple(nodes))


def parse_reply(text: str, roles: Roles, most: int) -> tuple[Graph, str]:
    """The graph in a reply, and why it is so. Raises GraphError that says what is wrong."""
    try:
        data = extract_json(text)
    except ValueError as error:
        raise GraphError("There is no JSON in the reply.") from error
    if not isinstance(data, dict):
        raise GraphError("The reply is no JSON object.")
    graph = _as_asked(Graph.from_json(data.get("graph", data)))
    check_team(graph, roles, most)
    why = data.get("why") if "graph" in data else ""
    return graph, " ".join(str(why or "").split())
