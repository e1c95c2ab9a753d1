"""What a designed graph must keep to, and random edits of a graph that keep to it."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

import numpy as np

from edgewise.mas.graph.graph import Graph, Node, pick_name
from edgewise.mas.graph.roles import Roles, find_role
from edgewise.toolkit.errors import GraphError


def check_team(graph: Graph, roles: Roles, most: int) -> None:
    """
    Raise GraphError for what is no team that can work, though it is a graph.

    That is a role that does not exist, more agents than `most`, an agent that hears too few, an exit that gives no
    answer, or a loop without a verdict to end it.
    """
    if len(graph) > most:
        raise GraphError(f"The graph has {len(graph)} agents; at most {most} are allowed.")
    for node in graph.nodes:
        role, heard = find_role(roles, node.role), len(graph.predecessors[node.name])
        if heard < role.hears:
            raise GraphError(
                f"Node {node.name!r} hears {heard}; a {role.name} must hear {role.hears} or more."
            )
    last = find_role(roles, graph[graph.exit].role)
    if not last.answers:
        raise GraphError(f"The exit {graph.exit!r} gives no answer, as a {last.name} gives a {last.gives}.")
    for loop in graph.loops:
        if find_role(roles, graph[loop.source].role).gives != "verdict":
            raise GraphError(f"The loop from {loop.source!r} has no end: its role gives no verdict.")


def random_edit(
    graph: Graph, roles: Roles, most: int, rng: np.random.Generator, known: Collection[str] = ()
) -> Graph | None:
    """
    The graph after one random edit: an agent added, removed or given another role, an edge added or removed.

    Each of these is as likely as the others, where it is possible. The result passes `check` and its version is none
    of `known`; None if no edit gives one.
    """
    kinds = (_added, _removed, _recast, _linked, _unlinked)
    for kind in rng.permutation(len(kinds)):
        ways = list(kinds[kind](graph, roles))
        for way in rng.permutation(len(ways)):
            found = _legal(ways[way], roles, most)
            if found is not None and found.version not in {graph.version, *known}:
                return found
    return None


def canonicalize(graph: Graph) -> Graph:
    """The graph with its agents in order and named by their roles, so that equal teams have equal versions."""
    depth = {name: i for i, level in enumerate(graph.levels) for name in level}
    nodes = sorted(graph.nodes, key=lambda n: (depth[n.name], n.role, n.model_dump_json(exclude={"name"})))
    names: dict[str, str] = {}
    for node in nodes:
        names[node.name] = pick_name(node.role, names.values())
    return Graph(
        tuple(node.model_copy(update={"name": names[node.name]}) for node in nodes),
        tuple(sorted((names[a], names[b]) for a, b in graph.edges)),
        names[graph.exit],
        tuple(
            x.model_copy(update={"source": names[x.source], "target": names[x.target]}) for x in graph.loops
        ),
    )


Way = Callable[[], Graph | None]


def _legal(way: Way, roles: Roles, most: int) -> Graph | None:
    try:
        found = way()
        if found is None:
            return None
        check_team(found, roles, most)
    except GraphError:
        return None
    return canonicalize(found)


def _added(graph: Graph, roles: Roles) -> Iterator[Way]:
    """An agent beside another one, one before it, and one after the exit, or after all that answer."""
    answers = [node.name for node in graph.nodes if roles[node.role].answers]
    taken = {node.name for node in graph.nodes}
    for role in roles:
        name = pick_name(role, taken)
        node = Node(name=name, role=role)
        for other in graph.order:
            beside = [(a, name) for a in graph.predecessors[other]] + [(name, b) for b in graph.successors[other]]
            for edges in (beside, [(name, other)]):
                yield lambda n=node, e=edges: _with(graph, n, e, graph.exit)
        for heard in ([graph.exit], answers):
            yield lambda n=node, h=heard: _with(graph, n, [(a, n.name) for a in h], n.name)


def _with(graph: Graph, node: Node, edges: list[tuple[str, str]], exit_: str) -> Graph:
    return replace(graph, nodes=(*graph.nodes, node), edges=(*graph.edges, *edges), exit=exit_)


def _removed(graph: Graph, roles: Roles) -> Iterator[Way]:
    return ((lambda n=node: graph.without_node(n.name)) for node in graph.nodes if len(graph) > 1)


def _recast(graph: Graph, roles: Roles) -> Iterator[Way]:
    for node in graph.nodes:
        for role in roles:
            if role != node.role:
                yield lambda n=node, r=role: _with_role(graph, n.name, r)


def _with_role(graph: Graph, name: str, role: str) -> Graph:
    nodes = (Node(name=name, role=role) if node.name == name else node for node in graph.nodes)
    return replace(graph, nodes=tuple(nodes))


def _linked(graph: Graph, roles: Roles) -> Iterator[Way]:
    order = graph.order
    for i, a in enumerate(order):
        for b in order[i + 1 :]:
            if (a, b) not in graph.edges:
                yield lambda e=(a, b): replace(graph, edges=(*graph.edges, e))


def _unlinked(graph: Graph, roles: Roles) -> Iterator[Way]:
    return ((lambda e=edge: graph.without_edge(e)) for edge in graph.edges)
