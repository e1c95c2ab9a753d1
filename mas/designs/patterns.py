"""Common agent graphs: chain, star, self-consistency, debate."""

from collections.abc import Sequence
from itertools import pairwise

from edgewise.mas.designs.graph_features import hash_shape
from edgewise.mas.graph.construction import Space, build, moves_for
from edgewise.mas.graph.graph import Graph, Node, assign_names, single


def chain(*roles: str) -> Graph:
    """Return agents that each receive the output of the one before."""
    names = assign_names(roles)
    return Graph(make_nodes(roles), tuple(pairwise(names)), names[-1])


def star(roles: Sequence[str], centre: str) -> Graph:
    """Return agents without inputs, and one that receives the outputs of them all."""
    names = assign_names((*roles, centre))
    return Graph(make_nodes((*roles, centre)), tuple((name, names[-1]) for name in names[:-1]), names[-1])


def self_consistency(times: int, role: str = "solver", vote: str = "majority") -> Graph:
    """Return the same agent several times, and a vote on their answers."""
    return star([role] * times, vote)


def debate(
    times: int, role: str = "debater", rounds: int = 2, judge: str = "judge", opening: str = ""
) -> Graph:
    """
    Return rounds of debaters, and a judge who receives the last round.

        debater ──► debater-3 ──┐
               ╲ ╱              ├──► judge       times = 2, rounds = 2; each receives all of the round before
               ╱ ╲              │
        debater-2 ► debater-4 ──┘

    `opening` is the role of the first round, which has no inputs; "" for debaters too.
    """
    roles = [opening or role] * times + [role] * (times * (rounds - 1)) + [judge]
    names = assign_names(roles)
    layers = [names[number * times : (number + 1) * times] for number in range(rounds)] + [names[-1:]]
    edges = [(a, b) for first, second in pairwise(layers) for a in first for b in second]
    return Graph(make_nodes(roles), tuple(edges), names[-1])


def standard_graphs(space: Space, times: int = 3) -> tuple[Graph, ...]:
    """Return the common graphs that a space can build: of its roles, within its limits, with an exit that answers."""
    min_inputs = dict(zip(space.roles, space.min_inputs, strict=True))
    graphs = (
        *map(single, ("solver", "reasoner", "programmer")),
        self_consistency(times),
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


def make_nodes(roles: Sequence[str]) -> tuple[Node, ...]:
    """Return a node for each role, in order."""
    return tuple(Node(name=name, role=role) for name, role in zip(assign_names(roles), roles, strict=True))
