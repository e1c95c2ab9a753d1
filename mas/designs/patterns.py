"""Common agent graphs: chain, star, self-consistency, debate."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from edgewise.mas.designs.graph_features import hash_shape
from edgewise.mas.graph.construction import Space, build, moves_for
from edgewise.mas.graph.graph import Graph, Node, assign_names, single


def chain(*roles: str) -> Graph:
    """Return agents that each receive the output of the one before."""
    return link(roles, pairwise(assign_names(roles)))


def star(roles: Sequence[str], centre: str) -> Graph:
    """Return agents without inputs, and one that receives the outputs of them all."""
    *names, last = assign_names((*roles, centre))
    return link((*roles, centre), ((name, last) for name in names))


def self_consistency(times: int, role: str = "solver") -> Graph:
    """Return the same agent several times, and a vote of the majority on their answers."""
    return star([role] * times, "majority")


def debate(times: int, opening: str = "") -> Graph:
    """
    Return two rounds of debaters, and a judge who receives the second one.

        debater ───► debater-3 ──┐
                ╲ ╱              ├──► judge       times = 2; each receives all of the round before
                ╱ ╲              │
        debater-2 ─► debater-4 ──┘

    `opening` is the role of the first round, which has no inputs; "" for debaters too.
    """
    roles = [opening or "debater"] * times + ["debater"] * times + ["judge"]
    names = assign_names(roles)
    rounds = names[:times], names[times:-1], names[-1:]
    return link(roles, ((a, b) for first, second in pairwise(rounds) for a in first for b in second))


def link(roles: Sequence[str], edges: Iterable[tuple[str, str]]) -> Graph:
    """Return a graph of these roles, in order, with edges by the names that they get; the last one is the exit."""
    names = assign_names(roles)
    nodes = (Node(name=name, role=role) for name, role in zip(names, roles, strict=True))
    return Graph(tuple(nodes), tuple(edges), names[-1])


def standard_graphs(space: Space) -> tuple[Graph, ...]:
    """Return the common graphs that a space can build: of its roles, within its limits, with an exit that answers."""
    # Debaters need something to weigh where their role says so; then solvers open the debate.
    min_inputs = dict(zip(space.roles, space.min_inputs, strict=True))
    graphs = (
        *map(single, ("solver", "reasoner", "programmer")),
        self_consistency(3),
        chain("planner", "solver"),
        chain("solver", "critic", "reviser"),
        chain("solver", "verifier"),
        star(("solver", "reasoner", "programmer"), "judge"),
        debate(2, opening="solver" if min_inputs.get("debater") else ""),
    )
    buildable = []
    for graph in graphs:
        try:
            built = build(space, moves_for(space, graph)).graph
        except ValueError:
            continue
        # EXIT drops agents without a path to the last one that answers: then it is another graph.
        if hash_shape(space.roles, built) == hash_shape(space.roles, graph):
            buildable.append(graph)
    return tuple(buildable)
