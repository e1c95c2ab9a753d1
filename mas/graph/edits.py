"""Rules that a designed graph must keep, and random edits of a graph that keep them."""

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from edgewise.mas.graph.graph import Graph, Node, pick_name
from edgewise.mas.graph.roles import Roles, find_role
from edgewise.toolkit.errors import GraphError

Edit = Callable[[], Graph | None]
"""An edit that may be impossible (None) or give no valid graph (GraphError)."""


def check_team(graph: Graph, roles: Roles, max_agents: int) -> None:
    """
    Raise GraphError for a valid graph whose agents can't work as a team.

    That is a role that does not exist, more agents than `max_agents`, an agent with too few inputs, an exit that gives
    no answer, or a loop without a verdict to end it.
    """
    # A designer is told the first problem only, so the cheapest to see comes first.
    if len(graph) > max_agents:
        raise GraphError(f"The graph has {len(graph)} agents; at most {max_agents} are allowed.")
    for node in graph.nodes:
        role, count = find_role(roles, node.role), len(graph.predecessors[node.name])
        if count < role.hears:
            raise GraphError(f"Node {node.name!r} hears {count}; a {role.name} must hear {role.hears} or more.")
    last = find_role(roles, graph[graph.exit].role)
    if not last.answers:
        raise GraphError(f"The exit {graph.exit!r} gives no answer, as a {last.name} gives a {last.gives}.")
    for loop in graph.loops:
        if find_role(roles, graph[loop.source].role).gives != "verdict":
            raise GraphError(f"The loop from {loop.source!r} has no end: its role gives no verdict.")


def random_edit(
    graph: Graph, roles: Roles, max_agents: int, rng: np.random.Generator, known: Collection[str] = ()
) -> Graph | None:
    """
    Return the graph after one random edit: an agent added, removed or given another role, an edge added or removed.

    Each of these kinds is equally likely where it is possible. The result passes `check_team` and its version is none
    of `known`; None if no edit gives one.
    """
    kinds = list_edits(graph, roles)
    # Kinds are drawn before edits, as there are many more ways to add an agent than to remove one.
    for kind in rng.permutation(len(kinds)):
        edits = kinds[kind]
        for number in rng.permutation(len(edits)):
            try:
                edited = edits[number]()
                if edited is None:
                    continue
                check_team(edited, roles, max_agents)
            except GraphError:
                continue
            edited = canonicalize(edited)
            if edited.version not in {graph.version, *known}:
                return edited
    return None


def canonicalize(graph: Graph) -> Graph:
    """Return the graph with its agents in order and named by their roles, so that equal teams have equal versions."""
    depth = {name: number for number, level in enumerate(graph.levels) for name in level}
    # Levels first, so that an agent stands after its inputs; the rest of the key only makes the order unique.
    nodes = sorted(graph.nodes, key=lambda n: (depth[n.name], n.role, n.model_dump_json(exclude={"name"})))
    names: dict[str, str] = {}
    for node in nodes:
        names[node.name] = pick_name(node.role, names.values())
    # Loops are not ordered: the version of a graph does not depend on their order.
    loops = [
        loop.model_copy(update={"source": names[loop.source], "target": names[loop.target]}) for loop in graph.loops
    ]
    return Graph(
        tuple(node.model_copy(update={"name": names[node.name]}) for node in nodes),
        tuple(sorted((names[a], names[b]) for a, b in graph.edges)),
        names[graph.exit],
        tuple(loops),
    )


def list_edits(graph: Graph, roles: Roles) -> tuple[list[Edit], ...]:
    """Return all edits of a graph by kind: agents to add, to remove and to recast, edges to add and to remove."""
    # Functions rather than graphs, as only the few that are drawn are made and checked. Their arguments are bound as
    # defaults: otherwise all would see the last value of the loop. Kinds and edits are drawn by their place in these
    # lists, so their order is part of a run.
    added: list[Edit] = []
    answers = [node.name for node in graph.nodes if roles[node.role].answers]
    for role in roles:
        name = pick_name(role, graph.nodes_by_name)
        nodes = (*graph.nodes, Node(name=name, role=role))
        for other in graph.order:
            # Beside another agent: with the same inputs and receivers. Before it: as one more input.
            beside = [(a, name) for a in graph.predecessors[other]]
            beside += [(name, b) for b in graph.successors[other]]
            for edges in (beside, [(name, other)]):
                added.append(lambda n=nodes, e=edges: replace(graph, nodes=n, edges=(*graph.edges, *e)))
        for inputs in ([graph.exit], answers):
            # As the exit: a vote or a judge wants all answers, a reviser only the last.
            all_edges = (*graph.edges, *((a, name) for a in inputs))
            added.append(lambda n=nodes, e=all_edges, x=name: replace(graph, nodes=n, edges=e, exit=x))

    # Inputs of a removed agent are linked to its receivers.
    removed: list[Edit] = []
    if len(graph) > 1:
        removed = [lambda n=node: graph.without_node(n.name) for node in graph.nodes]

    # An agent keeps only its name: prompt, tools and lessons belong to its old role.
    recast: list[Edit] = []
    for place, node in enumerate(graph.nodes):
        for role in roles:
            if role != node.role:
                nodes = (*graph.nodes[:place], Node(name=node.name, role=role), *graph.nodes[place + 1 :])
                recast.append(lambda n=nodes: replace(graph, nodes=n))

    # From earlier to later agents only, so that there is no cycle.
    pairs = [(a, b) for place, a in enumerate(graph.order) for b in graph.order[place + 1 :]]
    linked: list[Edit] = [
        lambda e=pair: replace(graph, edges=(*graph.edges, e)) for pair in pairs if pair not in graph.edges
    ]
    unlinked: list[Edit] = [lambda e=edge: graph.without_edge(e) for edge in graph.edges]
    return added, removed, recast, linked, unlinked
