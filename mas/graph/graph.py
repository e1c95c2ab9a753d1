"""
An agent graph as a value: nodes with roles, directed edges, bounded loops, one exit.

Edges run without cycles; going back is a `Loop`, which says how often. Every node is asked the query; a node
without predecessors is an entry, and what the exit says is the answer. `Graph` checks all of this when it is made.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.util.import_by_name import did_you_mean

FORMAT = 1
MOST_ROUNDS = 8
MOST_NODES = 200


class Data(BaseModel):
    """What is read from and written to graph.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Node(Data):
    """
    One agent: its role and what is different from it.

    `model` "" is the task's model, `prompt` None the role's prompt, `tools` None the role's tools. `lessons` go into
    its prompt. `weight` is its say in a weighted vote.
    """

    name: str = Field(pattern=r"^[A-Za-z][\w-]*$", max_length=64)
    role: str
    model: str = ""
    prompt: str | None = None
    tools: tuple[str, ...] | None = None
    lessons: tuple[str, ...] = ()
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)


class Loop(Data):
    """After `source`, go back to `target`, at most `rounds` times, until the verdict of `source` accepts."""

    source: str
    target: str
    rounds: int = Field(ge=1, le=MOST_ROUNDS)


class Wire(Data):
    """graph.json as a whole."""

    format: int = FORMAT
    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...] = ()
    loops: tuple[Loop, ...] = ()
    exit: str


@dataclass(frozen=True)
class Graph:
    """
    Nodes, edges (from, to), loops, and the node whose word is the answer.

    Raises GraphError for no nodes or more than 200, names used twice, an edge to nowhere, a cycle, a node whose word
    never reaches the exit, and a loop that does not go back over a part of its own.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]
    exit: str
    loops: tuple[Loop, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    # ---- what follows from it --------------------------------------------------------------------

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        # What is kept stays behind: the hash of a string is another one in another process.
        return Graph, (self.nodes, self.edges, self.exit, self.loops)

    @cached_property
    def _hash(self) -> int:
        return hash((self.nodes, self.edges, self.exit, self.loops))

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def before(self) -> dict[str, tuple[str, ...]]:
        """The nodes that each node hears, in the order of `nodes`."""
        return self._linked((b, a) for a, b in self.edges)

    @cached_property
    def after(self) -> dict[str, tuple[str, ...]]:
        """The nodes that hear each node, in the order of `nodes`."""
        return self._linked(self.edges)

    def _linked(self, pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
        """By the first of each pair, all of its seconds, both in the order of `nodes`."""
        place = {node.name: number for number, node in enumerate(self.nodes)}
        found: dict[str, list[str]] = {name: [] for name in place}
        for one, other in pairs:
            found[one].append(other)
        return {name: tuple(sorted(others, key=place.__getitem__)) for name, others in found.items()}

    @cached_property
    def entries(self) -> tuple[str, ...]:
        """The nodes that hear nobody."""
        return tuple(name for name, heard in self.before.items() if not heard)

    @cached_property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Nodes by the length of the longest path that leads to them."""
        depth: dict[str, int] = {}
        for name in _sorted(self.before):
            depth[name] = 1 + max((depth[heard] for heard in self.before[name]), default=-1)
        count = 1 + max(depth.values())
        return tuple(tuple(n.name for n in self.nodes if depth[n.name] == level) for level in range(count))

    @cached_property
    def order(self) -> tuple[str, ...]:
        """All nodes, each after those that it hears."""
        return tuple(name for level in self.levels for name in level)

    def body(self, loop: Loop) -> tuple[str, ...]:
        """The nodes that a loop repeats, in order: those between its target and its source, with both."""
        below = _reach(self.after, loop.target)
        above = _reach(self.before, loop.source)
        return tuple(name for name in self.order if name in below and name in above)

    @cached_property
    def version(self) -> str:
        """A hash of what it does: nodes, edges, loops and exit; the order of edges and loops does not count."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def without(self, name: str) -> "Graph | None":
        """
        The graph without a node: whoever heard it hears those that it heard.

        Where it is the exit, the one node that it heard takes its place; None if there is no such one.
        """
        heard, exit_ = self.before[name], self.exit
        if name == exit_:
            if len(heard) != 1:
                return None
            exit_ = heard[0]
        bridges = ((a, b) for a in heard for b in self.after[name])
        kept = (e for e in self.edges if name not in e)
        return self._trimmed(dict.fromkeys([*kept, *bridges]), exit_)

    def without_edge(self, edge: tuple[str, str]) -> "Graph":
        """The graph without an edge, and without whatever then no longer reaches the exit."""
        return self._trimmed([e for e in self.edges if e != edge], self.exit)

    def up_to(self, name: str) -> "Graph":
        """The graph that ends at a node: the node, and all that it hears, even through others."""
        return self._trimmed(self.edges, name)

    def _trimmed(self, edges: Iterable[tuple[str, str]], exit_: str) -> "Graph":
        edges = tuple(edges)
        before = {n.name: tuple(a for a, b in edges if b == n.name) for n in self.nodes}
        kept = _reach(before, exit_)
        edges = tuple(e for e in edges if set(e) <= kept)
        smaller = replace(
            self, nodes=tuple(n for n in self.nodes if n.name in kept), edges=edges, exit=exit_, loops=()
        )
        return replace(smaller, loops=tuple(x for x in self.loops if not _why_no_loop(smaller, x)))

    # ---- in and out ------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain data; equal graphs give equal data."""
        wire = Wire(
            nodes=self.nodes,
            edges=tuple(sorted(self.edges)),
            loops=tuple(sorted(self.loops, key=lambda x: (x.source, x.target))),
            exit=self.exit,
        )
        return wire.model_dump(mode="json", exclude_defaults=True) | {"format": FORMAT}

    @classmethod
    def from_json(cls, data: Any) -> "Graph":
        """Read plain data. Raises GraphError that names what is wrong."""
        written = data.get("format", FORMAT) if isinstance(data, dict) else FORMAT
        if isinstance(written, int) and written > FORMAT:
            raise GraphError(
                f"The graph has format {written}, this version reads {FORMAT}: upgrade edgewise."
            )
        try:
            wire = Wire.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "graph"
            raise GraphError(f"The graph is not readable: {place}: {first['msg']}.") from error
        return cls(wire.nodes, wire.edges, wire.exit, wire.loops)


def free_name(role: str, taken: Collection[str]) -> str:
    """A name for an agent of a role that nobody has: the role, with a number from the second of it on."""
    names = itertools.chain([role], (f"{role}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def named(roles: Iterable[str]) -> tuple[str, ...]:
    """Names for agents of these roles, in order."""
    found: list[str] = []
    for role in roles:
        found.append(free_name(role, found))
    return tuple(found)


def single(role: str = "solver", **different: Any) -> Graph:
    """One agent."""
    return Graph((Node(name=role, role=role, **different),), (), role)


# ---- checks ----------------------------------------------------------------------------------------


def _check(graph: Graph) -> None:
    names = [node.name for node in graph.nodes]
    if not names:
        raise GraphError("A graph needs at least one node.")
    if len(names) > MOST_NODES:
        raise GraphError(f"A graph has at most {MOST_NODES} nodes, not {len(names)}.")
    for name in names:
        if names.count(name) > 1:
            raise GraphError(f"Two nodes have the name {name!r}; give each a name of its own.")
    _check_ends(graph, set(names))
    _sorted(graph.before)
    lost = sorted(set(names) - _reach(graph.before, graph.exit))
    if lost:
        raise GraphError(
            f"Node {lost[0]!r} is unreachable from the exit {graph.exit!r}: nobody hears it. Add an edge, "
            "or leave it out."
        )
    for loop in graph.loops:
        if reason := _why_no_loop(graph, loop):
            raise GraphError(f"The loop from {loop.source!r} back to {loop.target!r} {reason}.")
    _check_apart(graph)


def _check_ends(graph: Graph, names: set[str]) -> None:
    ends = [("exit", graph.exit)]
    ends += [("edge", name) for edge in graph.edges for name in edge]
    ends += [("loop", name) for loop in graph.loops for name in (loop.source, loop.target)]
    for kind, name in ends:
        if name not in names:
            raise GraphError(
                f"The {kind} names a node {name!r}, and there is none{did_you_mean(name, sorted(names))}"
            )
    for (a, b), times in Counter(graph.edges).items():
        if times > 1:
            raise GraphError(f"The edge from {a!r} to {b!r} is there twice; leave one out.")


def _sorted(before: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Names, each after those before it. Raises GraphError that spells out a cycle."""
    from graphlib import CycleError, TopologicalSorter

    try:
        return list(TopologicalSorter(before).static_order())
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise GraphError(
            f"The edges run in a cycle, {cycle}: going back is a loop, which has a number of rounds."
        ) from error


def _reach(links: Mapping[str, tuple[str, ...]], start: str) -> set[str]:
    """All that can be reached from `start`, itself included."""
    found, todo = {start}, [start]
    while todo:
        for name in links[todo.pop()]:
            if name not in found:
                found.add(name)
                todo.append(name)
    return found


def _why_no_loop(graph: Graph, loop: Loop) -> str:
    """What is wrong with a loop; "" if nothing is."""
    names = {node.name for node in graph.nodes}
    if not {loop.source, loop.target} <= names:
        return "names a node that is not there"
    body = set(graph.body(loop))
    if loop.target not in body:
        return "does not go back: no path leads from the target to the source"
    for name in body - {loop.target}:
        if outside := set(graph.before[name]) - body:
            return f"is entered beside its target: {name!r} hears {min(outside)!r}"
    for name in body - {loop.source}:
        if outside := set(graph.after[name]) - body:
            return f"is left beside its source: {min(outside)!r} hears {name!r}"
    if graph.exit in body - {loop.source}:
        return f"has the exit {graph.exit!r} inside; only its source may be the exit"
    return ""


def _check_apart(graph: Graph) -> None:
    bodies = [set(graph.body(loop)) for loop in graph.loops]
    for i, first in enumerate(bodies):
        for second in bodies[i + 1 :]:
            if both := first & second:
                raise GraphError(f"Two loops share the node {min(both)!r}; loops may not overlap.")
