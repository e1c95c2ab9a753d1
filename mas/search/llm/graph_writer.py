"""
Ask a model for a graph: build the prompt, parse the reply, and ask once more if parsing fails.

A reply that cannot be used raises nothing: its problem is recorded, and the caller goes on without it.
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


# Returns a graph, changed or not, or raises GraphError for one that is not accepted.
AcceptGraph = Callable[[Graph], Graph]


@dataclass(frozen=True, slots=True)
class WrittenGraph:
    """The graph of a reply and the reason for it; None where no reply was usable, for `problems`."""

    graph: Graph | None
    why: str = ""
    problems: tuple[str, ...] = ()


def render_instructions(roles: Roles, max_agents: int) -> str:
    """Return what a model needs to know of graphs: a line for each role, and the form of its reply."""
    lines = [
        f"- {name}: {role.does}" + (f" (must hear {role.hears} or more)" if role.hears else "")
        for name, role in roles.items()
    ]
    return FORM.format(roles="\n".join(lines), most=max_agents)


def render_graph(graph: Graph) -> str:
    """Return a graph in the form of a reply, on one line."""
    return json.dumps(
        {
            "nodes": [{"name": n.name, "role": n.role, "prompt": n.prompt} for n in graph.nodes],
            "edges": [list(edge) for edge in graph.edges],
            "loops": [loop.model_dump() for loop in graph.loops],
            "exit": graph.exit,
        }
    )


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of an object with exactly these properties."""
    required = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": dict(properties), **required}


def reply_schema(roles: Roles, max_agents: int) -> dict[str, Any]:
    """
    Return the JSON schema of a reply.

    Its lists have a largest length: a small model that the server holds to the schema would go through all roles.
    """

    def make_list(items: Mapping[str, Any], min_items: int, max_items: int) -> dict[str, Any]:
        return {"type": "array", "items": dict(items), "minItems": min_items, "maxItems": max_items}

    text = {"type": "string"}
    role = {"type": "string", "enum": list(roles)}
    node = {"name": text, "role": role, "prompt": {"type": ["string", "null"]}}
    loop = {"source": text, "target": text, "rounds": {"type": "integer"}}
    graph = {
        "nodes": make_list(object_schema(node), 1, max_agents),
        "edges": make_list(make_list(text, 2, 2), 0, max_agents * (max_agents - 1) // 2),
        "loops": make_list(object_schema(loop), 0, max_agents // 2),
        "exit": text,
    }
    return object_schema({"why": text, "graph": object_schema(graph)})


def request_graph(
    request: Request, roles: Roles, max_agents: int, accept: AcceptGraph = lambda graph: graph
) -> Plan[WrittenGraph]:
    """Ask for a graph that `check_team` and `accept` let pass; a reply that fails is answered once with its problem."""
    problems: list[str] = []
    request = replace(request, schema=reply_schema(roles, max_agents))
    for _ in range(TRIES):
        reply: Reply = yield request
        if reply.failed:
            problems.append(f"The model did not answer: {reply.error or reply.stop}.")
            break
        try:
            graph, why = parse_reply(reply.message.content, roles, max_agents)
            return WrittenGraph(accept(graph), why, tuple(problems))
        except GraphError as error:
            problems.append(str(error))
            complaint = Message("user", UNUSABLE.format(problem=error))
            request = replace(request, messages=(*request.messages, reply.message, complaint))
    return WrittenGraph(None, "", tuple(problems))


def parse_reply(text: str, roles: Roles, max_agents: int) -> tuple[Graph, str]:
    """Return the graph in a reply and the model's reason. Raises GraphError that says what is wrong."""
    try:
        data = extract_json(text)
    except ValueError as error:
        raise GraphError("There is no JSON in the reply.") from error
    if not isinstance(data, dict):
        raise GraphError("The reply is no JSON object.")

    # Names, roles and prompts only: a model does not choose models, tools or lessons.
    graph = Graph.from_json(data.get("graph", data))
    nodes = (Node(name=node.name, role=node.role, prompt=node.prompt) for node in graph.nodes)
    graph = replace(graph, nodes=tuple(nodes))
    check_team(graph, roles, max_agents)
    why = data.get("why") if "graph" in data else ""
    return graph, " ".join(str(why or "").split())
