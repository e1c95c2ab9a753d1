"""
An agent graph as a value: nodes with roles, directed edges, bounded loops, one exit.

    planner ──► solver ──► critic ──► writer        edges (planner, solver), (solver, critic), (critic, writer)
                   ▲          │                     loop from critic back to solver, at most `rounds` times
                   └──────────┘                     exit writer

Edges form no cycle; going back is a `Loop`, which has a number of rounds. Every node receives the query and the outputs
of its predecessors. A node without predecessors is an entry; the exit's output is the answer. `Graph` checks all of
this when it is made.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.util.hashing import hash_json
from edgewise.toolkit.util.import_by_name import did_you_mean
from edgewise.toolkit.util.validation import describe_error

FORMAT = 1
MAX_ROUNDS = 8
MAX_NODES = 200

# The texts of GraphError are part of prompts, as a model that writes graphs is told what was wrong: runs are resumed
# from their journal only while these texts stay as they are.


class GraphModel(BaseModel):
    """Data of graph.json. The names of fields are the keys of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Node(GraphModel):
    """
    One agent: its role, and where it differs from it.

    `model` "" is the task's model, `prompt` None the role's prompt, `tools` None the role's tools. `lessons` go into
    its prompt. `weight` counts in a weighted vote.
    """

    name: str = Field(pattern=r"^[A-Za-z][\w-]*$", max_length=64)
    role: str
    model: str = ""
    prompt: str | None = None
    tools: tuple[str, ...] | None = None
    lessons: tuple[str, ...] = ()
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)


class Loop(GraphModel):
    """After `source`, go back to `target`, at most `rounds` times, until the verdict of `source` accepts."""

    source: str
    target: str
    rounds: int = Field(ge=1, le=MAX_ROUNDS)


class GraphFile(GraphModel):
    """All of graph.json."""

    format: int = FORMAT
    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...] = ()
    loops: tuple[Loop, ...] = ()
    exit: str


@dataclass(frozen=True)
class Graph:
    """
    Nodes, edges (from, to), loops, and the node whose output is the answer.

    The order of `nodes` counts: in this order a node receives the outputs of its predecessors.

    Raises GraphError for no nodes or more than 200, names used twice, an edge to nowhere, a cycle, a node without a
    path to the exit, and a loop that does not go back over a part of its own.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]
    exit: str
    loops: tuple[Loop, ...] = ()

    def __post_init__(self) -> None:
        # In this order, as each check relies on those before it: paths need known names, and loop bodies an order.
        names = [node.name for node in self.nodes]
        if not names:
            raise GraphError("A graph needs at least one node.")
        if len(names) > MAX_NODES:
            raise GraphError(f"A graph has at most {MAX_NODES} nodes, not {len(names)}.")
        for name, times in Counter(names).items():
            if times > 1:
                raise GraphError(f"Two nodes have the name {name!r}; give each a name of its own.")

        # Every name that is used must be the name of a node.
        references = [("exit", self.exit)]
        references += [("edge", name) for edge in self.edges for name in edge]
        references += [("loop", name) for loop in self.loops for name in (loop.source, loop.target)]
        for kind, name in references:
            if name not in names:
                raise GraphError(
                    f"The {kind} names a node {name!r}, and there is none{did_you_mean(name, sorted(names))}"
                )
        # An edge twice would show a node the same output twice, and give the graph a version of its own.
        for (a, b), times in Counter(self.edges).items():
            if times > 1:
                raise GraphError(f"The edge from {a!r} to {b!r} is there twice; leave one out.")

        sort_topologically(self.predecessors)
        lost = sorted(set(names) - find_reachable(self.predecessors, self.exit))
        if lost:
            raise GraphError(
                f"Node {lost[0]!r} is unreachable from the exit {self.exit!r}: nobody hears it. Add an edge, "
                "or leave it out."
            )

        bodies = []
        for loop in self.loops:
            if problem := find_loop_problem(self, loop):
                raise GraphError(f"The loop from {loop.source!r} back to {loop.target!r} {problem}.")
            bodies.append(set(self.loop_body(loop)))
        for first, second in itertools.combinations(bodies, 2):
            if both := first & second:
                raise GraphError(f"Two loops share the node {min(both)!r}; loops may not overlap.")

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, name: str) -> Node:
        return self.nodes_by_name[name]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Graphs are keys of many caches, and hashing 200 nodes anew for each look-up would cost more than it saves.
        return hash((self.nodes, self.edges, self.exit, self.loops))

    def __reduce__(self) -> tuple[Any, ...]:
        # Cached properties stay behind: the hash of a string differs between processes.
        return Graph, (self.nodes, self.edges, self.exit, self.loops)

    # ---- structure -------------------------------------------------------------------------------

    @cached_property
    def nodes_by_name(self) -> dict[str, Node]:
        """All nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def predecessors(self) -> dict[str, tuple[str, ...]]:
        """The nodes whose output each node receives, in the order of `nodes`."""
        return self._group_by_first((b, a) for a, b in self.edges)

    @cached_property
    def successors(self) -> dict[str, tuple[str, ...]]:
        """The nodes that receive each node's output, in the order of `nodes`."""
        return self._group_by_first(self.edges)

    def _group_by_first(self, pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
        # In the order of nodes, whatever the order of edges: so equal versions mean equal prompts.
        place = {node.name: number for number, node in enumerate(self.nodes)}
        groups: dict[str, list[str]] = {name: [] for name in place}
        for first, second in pairs:
            groups[first].append(second)
        return {name: tuple(sorted(others, key=place.__getitem__)) for name, others in groups.items()}

    @cached_property
    def entries(self) -> tuple[str, ...]:
        """The nodes without predecessors."""
        return tuple(name for name, inputs in self.predecessors.items() if not inputs)

    @cached_property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Nodes by the length of the longest path that leads to them."""
        depth: dict[str, int] = {}
        for name in sort_topologically(self.predecessors):
            depth[name] = 1 + max((depth[other] for other in self.predecessors[name]), default=-1)
        count = 1 + max(depth.values())
        return tuple(tuple(n.name for n in self.nodes if depth[n.name] == level) for level in range(count))

    @cached_property
    def order(self) -> tuple[str, ...]:
        """All nodes, each after its predecessors."""
        return tuple(name for level in self.levels for name in level)

    def loop_body(self, loop: Loop) -> tuple[str, ...]:
        """Return the nodes that a loop repeats, in order: its target, its source and all between them."""
        below = find_reachable(self.successors, loop.target)
        above = find_reachable(self.predecessors, loop.source)
        return tuple(name for name in self.order if name in below and name in above)

    @cached_property
    def version(self) -> str:
        """A hash of nodes, edges, loops and exit; the order of edges and loops does not count."""
        return hash_json(self.to_json())

    # ---- smaller graphs --------------------------------------------------------------------------

    def without_node(self, name: str) -> "Graph | None":
        """
        Return the graph without a node, its predecessors linked to its successors.

        Without the exit, the exit's only predecessor takes its place; None where there is not exactly one.
        """
        inputs, exit_ = self.predecessors[name], self.exit
        if name == exit_:
            if len(inputs) != 1:
                return None
            exit_ = inputs[0]
        # Each input of the node is linked to each receiver, so that nothing is cut off by leaving it out.
        rest = (edge for edge in self.edges if name not in edge)
        bridges = ((a, b) for a in inputs for b in self.successors[name])
        return self._trim(dict.fromkeys([*rest, *bridges]), exit_)

    def without_edge(self, edge: tuple[str, str]) -> "Graph":
        """Return the graph without an edge, and without all nodes that then have no path to the exit."""
        return self._trim([other for other in self.edges if other != edge], self.exit)

    def subgraph_to(self, name: str) -> "Graph":
        """Return the graph that ends at a node: the node and all that have a path to it."""
        return self._trim(self.edges, name)

    def _trim(self, edges: Iterable[tuple[str, str]], exit_: str) -> "Graph":
        """Return the part that leads to an exit, with the loops that are still valid in it."""
        edges = tuple(edges)
        # Not `predecessors`, as these are not the edges of this graph.
        before = {node.name: tuple(a for a, b in edges if b == node.name) for node in self.nodes}
        names = find_reachable(before, exit_)
        nodes = tuple(node for node in self.nodes if node.name in names)
        edges = tuple(edge for edge in edges if names.issuperset(edge))
        smaller = replace(self, nodes=nodes, edges=edges, exit=exit_, loops=())
        return replace(smaller, loops=tuple(loop for loop in self.loops if not find_loop_problem(smaller, loop)))

    # ---- JSON ------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return plain data; equal graphs have equal data."""
        data = GraphFile(
            nodes=self.nodes,
            edges=tuple(sorted(self.edges)),
            loops=tuple(sorted(self.loops, key=lambda loop: (loop.source, loop.target))),
            exit=self.exit,
        )
        return data.model_dump(mode="json", exclude_defaults=True) | {"format": FORMAT}

    @classmethod
    def from_json(cls, data: Any) -> "Graph":
        """Read plain data. Raises GraphError that names what is wrong."""
        # The version comes first: a newer format has fields that this one would refuse as unknown.
        version = data.get("format", FORMAT) if isinstance(data, dict) else FORMAT
        if isinstance(version, int) and version > FORMAT:
            raise GraphError(f"The graph has format {version}, this version reads {FORMAT}: upgrade edgewise.")
        try:
            file = GraphFile.model_validate(data)
        except ValidationError as error:
            raise GraphError(f"The graph is not readable: {describe_error(error, 'graph')}.") from error
        return cls(file.nodes, file.edges, file.exit, file.loops)


def single(role: str = "solver", **options: Any) -> Graph:
    """Return a graph of one agent; `options` are fields of `Node`."""
    return Graph((Node(name=role, role=role, **options),), (), role)


def pick_name(role: str, taken: Collection[str]) -> str:
    """Return a free name for an agent of a role: the role, from the second agent on with a number."""
    # Not numbered from the first on: most graphs have one agent of a role, and its name is then the role's.
    names = itertools.chain([role], (f"{role}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def assign_names(roles: Iterable[str]) -> tuple[str, ...]:
    """Return names for agents of these roles, in order."""
    names: list[str] = []
    for role in roles:
        names.append(pick_name(role, names))
    return tuple(names)


# ---- checks ----------------------------------------------------------------------------------------


def sort_topologically(predecessors: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return all names, each after its predecessors. Raises GraphError that spells out a cycle."""
    try:
        return list(TopologicalSorter(predecessors).static_order())
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise GraphError(
            f"The edges run in a cycle, {cycle}: going back is a loop, which has a number of rounds."
        ) from error


def find_reachable(links: Mapping[str, tuple[str, ...]], start: str) -> set[str]:
    """Return all that can be reached from `start` by links, itself included."""
    reachable, todo = {start}, [start]
    while todo:
        for name in links[todo.pop()]:
            if name not in reachable:
                reachable.add(name)
                todo.append(name)
    return reachable


def find_loop_problem(graph: Graph, loop: Loop) -> str:
    """
    Return what is wrong with a loop, "" if nothing is.

    A body is entered at its target and left at its source only. So a round is over when the source has run, and no
    node outside ever waits for one round of a node inside:

              ┌──────── body ────────┐
        ──►   target ──► ... ──► source   ──►
    """
    if not {loop.source, loop.target} <= graph.nodes_by_name.keys():
        return "names a node that is not there"
    # The body is empty or lacks the target where no path leads from the target to the source.
    body = set(graph.loop_body(loop))
    if loop.target not in body:
        return "does not go back: no path leads from the target to the source"
    for name in body - {loop.target}:
        if outside := set(graph.predecessors[name]) - body:
            return f"is entered beside its target: {name!r} hears {min(outside)!r}"
    for name in body - {loop.source}:
        if outside := set(graph.successors[name]) - body:
            return f"is left beside its source: {min(outside)!r} hears {name!r}"
    # An exit inside would end the run in the middle of a round.
    if graph.exit in body - {loop.source}:
        return f"has the exit {graph.exit!r} inside; only its source may be the exit"
    return ""
