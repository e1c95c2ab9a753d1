"""
Features of a graph: its roles, its edges by roles, and paths of roles into the exit.

An agent's output depends on what it is and on what it receives, so names and order don't matter: graphs of one shape
are one graph.

K roles, F = K + K^2 + BUCKETS features.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgewise.mas.graph.graph import Graph

FloatArray = NDArray[np.float64]

CACHE_SIZE = 4096
"""Graphs whose features are cached: a search meets the same ones again and again."""
MAX_PATH, BUCKETS = 5, 1024
"""Most roles of a path, and places that paths are hashed to."""
ROLES, EDGES, PATHS = 0.45, 0.45, 0.45
"""Prior standard deviation of a graph's reward by each kind of part; in standard deviations of rewards."""
AGENT, EDGE = 0.18, 0.045
"""Prior cost of one more agent and one more edge, in the same unit."""


@lru_cache(maxsize=CACHE_SIZE)
def extract_features(roles: tuple[str, ...], graph: Graph) -> FloatArray:
    """
    Return the features of a graph, (F,).

        0 ... K - 1          agents of each role
        K ... K + K^2 - 1    edges from each role to each role
        the last BUCKETS     paths of up to `MAX_PATH` roles that end in the exit, by hash

    Outputs depend on inputs, so graphs are alike as far as they are alike from the exit back. Counts are divided by the
    square root of their number (agents, edges, inputs): the squares of each kind then sum to about the same for all
    sizes, and a large graph is no more uncertain than a small one.
    """
    place = {node.name: roles.index(node.role) for node in graph.nodes}
    count = len(roles)
    features = np.zeros(count_features(count))
    np.add.at(features, list(place.values()), ROLES / len(place) ** 0.5)
    edges = [count + place[a] * count + place[b] for a, b in graph.edges]
    np.add.at(features, edges, EDGES / max(1, len(edges)) ** 0.5)

    # Depth first from the exit back; a path is shared out equally among the inputs of its first agent.
    todo: list[tuple[tuple[str, ...], float]] = [((graph.exit,), PATHS)]
    while todo:
        path, share = todo.pop()
        # The hash of a tuple of integers is the same in every process.
        features[-1 - hash(tuple(place[name] for name in path)) % BUCKETS] += share
        if len(path) < MAX_PATH:
            inputs = graph.predecessors[path[0]]
            todo += [((name, *path), share / len(inputs) ** 0.5) for name in reversed(inputs)]
    features.setflags(write=False)  # cached, so all callers share it
    return features


@lru_cache(maxsize=CACHE_SIZE)
def hash_shape(roles: tuple[str, ...], graph: Graph) -> int:
    """Return a number that is equal for graphs which differ in the names and the order of agents alone."""
    # One pass of colour refinement each way (Weisfeiler and Leman): `below` tells agents apart by all that leads to
    # them, `above` also by all that they lead to.
    place = {node.name: roles.index(node.role) for node in graph.nodes}
    below, above = dict[str, int](), dict[str, int]()
    for name in graph.order:
        below[name] = hash((place[name], *sorted(below[x] for x in graph.predecessors[name])))
    for name in reversed(graph.order):
        above[name] = hash((below[name], *sorted(above[x] for x in graph.successors[name])))
    return hash(tuple(sorted(above.values())))


@lru_cache(maxsize=CACHE_SIZE)
def inner_graphs(roles: tuple[str, ...], answers: tuple[bool, ...], graph: Graph) -> tuple[Graph, ...]:
    """Return the graphs that end at the inner agents that answer."""
    inner = (node for node in graph.nodes if node.name != graph.exit)
    return tuple(graph.subgraph_to(n.name) for n in inner if not answers or answers[roles.index(n.role)])


@lru_cache(maxsize=CACHE_SIZE)
def leave_one_out(graph: Graph) -> tuple[tuple[str, Graph], ...]:
    """Return each agent that can be left out, by its name, with the graph without it."""
    if len(graph) == 1:
        return ()
    # Without the exit there is no graph unless it has exactly one input.
    pairs = ((node.name, graph.without_node(node.name)) for node in graph.nodes)
    return tuple((name, smaller) for name, smaller in pairs if smaller)


def count_features(roles: int) -> int:
    """Return F for a number of roles."""
    return roles * (roles + 1) + BUCKETS


def expected_cost(graph: Graph) -> float:
    """Return the prior cost of a graph, in standard deviations of rewards."""
    return AGENT * len(graph) + EDGE * len(graph.edges)
