"""
What is in a graph, as numbers: which roles, who hears whom by roles, and paths of roles into the exit.

An agent says what it says by what it is and what it hears, so names and order are no matter: graphs of one shape are
one graph.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgewise.mas.graph.graph import Graph

Features = NDArray[np.float64]

LONGEST, BUCKETS = 5, 1024
CACHE_SIZE = 4096
"""Of so many graphs what is in them is kept: a search meets the same ones again and again."""
ROLES, EDGES, PATHS = 0.45, 0.45, 0.45
"""How much of a graph's worth is expected in each kind of part; in standard deviations of rewards."""
AGENT, EDGE = 0.18, 0.045
"""What an agent and an edge more are expected to cost, in the same unit."""


@lru_cache(maxsize=CACHE_SIZE)
def extract_features(roles: tuple[str, ...], graph: Graph) -> Features:
    """
    (F,) what is in a graph.

    How many agents of each role, how many edges between each two roles, and how many paths of each sequence of up to
    `LONGEST` roles end in the exit. What an agent says depends on what it hears, so graphs are alike as far
    as they are alike from the exit back. Paths are hashed to `BUCKETS` places. Counts are over the square root of how
    many there are (agents, edges, agents heard), so that a large graph is no more uncertain than a small one.
    """
    place = {node.name: roles.index(node.role) for node in graph.nodes}
    count = len(roles)
    found = np.zeros(count_features(count))
    np.add.at(found, list(place.values()), ROLES / len(place) ** 0.5)
    edges = [count + place[a] * count + place[b] for a, b in graph.edges]
    np.add.at(found, edges, EDGES / max(1, len(edges)) ** 0.5)
    for path, share in _paths(graph, (graph.exit,), PATHS):
        found[-1 - hash(tuple(place[name] for name in path)) % BUCKETS] += share
    found.setflags(write=False)
    return found


@lru_cache(maxsize=CACHE_SIZE)
def hash_shape(roles: tuple[str, ...], graph: Graph) -> int:
    """A number that is equal for graphs that differ in the names and the order of agents alone."""
    place = {node.name: roles.index(node.role) for node in graph.nodes}
    below, above = dict[str, int](), dict[str, int]()
    for name in graph.order:
        below[name] = hash((place[name], *sorted(below[x] for x in graph.predecessors[name])))
    for name in reversed(graph.order):
        above[name] = hash((below[name], *sorted(above[x] for x in graph.successors[name])))
    return hash(tuple(sorted(above.values())))


@lru_cache(maxsize=CACHE_SIZE)
def inner_graphs(roles: tuple[str, ...], answers: tuple[bool, ...], graph: Graph) -> tuple[Graph, ...]:
    """The graphs that end at the inner agents that answer."""
    inner = (node for node in graph.nodes if node.name != graph.exit)
    return tuple(graph.subgraph_to(n.name) for n in inner if not answers or answers[roles.index(n.role)])


@lru_cache(maxsize=CACHE_SIZE)
def leave_one_out(graph: Graph) -> tuple[tuple[str, Graph], ...]:
    """Each agent that can be left out, by its name, and the graph without it."""
    if len(graph) == 1:
        return ()
    left = ((node.name, graph.without_node(node.name)) for node in graph.nodes)
    return tuple((name, rest) for name, rest in left if rest)


def count_features(roles: int) -> int:
    """F, how many numbers `described` has."""
    return roles * (roles + 1) + BUCKETS


def expected_cost(graph: Graph) -> float:
    """What it is expected to cost, in standard deviations of rewards."""
    return AGENT * len(graph) + EDGE * len(graph.edges)


def _paths(graph: Graph, path: tuple[str, ...], share: float) -> Iterator[tuple[tuple[str, ...], float]]:
    """A path into the exit, and all that are longer by what its first agent hears, with their shares."""
    yield path, share
    heard = graph.predecessors[path[0]]
    if len(path) < LONGEST:
        for name in heard:
            yield from _paths(graph, (name, *path), share / len(heard) ** 0.5)
