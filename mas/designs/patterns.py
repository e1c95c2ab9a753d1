"""The usual agent graphs: chain, star, self-consistency, debate."""

from collections.abc import Sequence
from itertools import pairwise

from edgewise.mas.designs.graph_features import hash_shape
from edgewise.mas.graph.construction import Space, build, moves_for
from edgewise.mas.graph.graph import Graph, Node, assign_names, single


def chain(*roles: str) -> Graph:
    """Each agent hears the one before it."""
    names = assign_names(roles)
    return Graph(_nodes(roles), tuple(pairwise(names)), names[-1])


def star(roles: Sequence[str], centre: str) -> Graph:
    """Agents that hear nobody, and one that hears them all."""
    names = assign_names((*roles, centre))
    return Graph(_nodes((*roles, centre)), tuple((name, names[-1]) for name in names[:-1]), names[-1])


def self_consistency(times: int, role: str = "solver", vote: str = "majority") -> Graph:
    """The same agent several times, and the answer that most gave."""
    return star([role] * times, vote)


def debate(
    times: int, role: str = "debater", rounds: int = 2, judge: str = "judge", opening: str = ""
) -> Graph:
    """
    Several debaters; in each later round each hears all of the round before; a judge hears the last round.

    `opening` is the role of those in the first round, who hear nobody; "" for debaters too.
    """
    roles = [opening or role] * times + [role] * (times * (rounds - 1)) + [judge]
    names = assign_names(roles)
    tables = [names[i * times : (i + 1) * times] for i in range(rounds)] + [names[-1:]]
    edges = [(a, b) for first, second in pairwise(tables) for a in first for b in second]
    return Graph(_nodes(roles), tuple(edges), names[-1])


def standard_graphs(space: Space, times: int = 3) -> tuple[Graph, ...]:
    """The usual designs that a space can build: of its roles, not larger than it allows, with an exit that answers."""
    debaters_hear = dict(zip(space.roles, space.min_inputs, strict=True)).get("debater", 0)
    usual = (
        *map(single, ("solver", "reasoner", "programmer")),
        self_consistency(times),
        chain("planner", "solver"),
        chain("solver", "critic", "reviser"),
        chain("solver", "verifier"),
        star(("solver", "reasoner", "programmer"), "judge"),
        debate(2, opening="solver" if debaters_hear else ""),
    )
    return tuple(graph for graph in usual if _can_build(space, graph))


def _can_build(space: Space, graph: Graph) -> bool:
    try:
        built = build(space, moves_for(space, graph)).graph
    except ValueError:
        return False
    return hash_shape(space.roles, built) == hash_shape(space.roles, graph)


def _nodes(roles: Sequence[str]) -> tuple[Node, ...]:
    return tuple(Node(name=name, role=role) for name, role in zip(assign_names(roles), roles, strict=True))
