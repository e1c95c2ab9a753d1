"""
Building a graph as a Markov decision process (MasHost, arXiv 2506.08507, section on the search space).

The state is the query and the graph so far. A node action adds one of K roles, deletes an agent (DELETE) or ends
(EXIT); with a role comes the edge action: which of the agents that are there the new one hears. Edges run from old
to new, so there are no cycles. On EXIT the last agent that answers the task is the exit of the graph, and whatever it
does not hear, even through others, falls away. What the paper leaves open is filled in here; docs/decisions says how.

K roles, N agents so far.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.mas.graph.graph import Graph, Node, assign_names
from edgewise.mas.graph.roles import Roles

CACHE_SIZE = 4096
"""So many masks and agents are kept: a search comes to the same ones again and again."""


@dataclass(frozen=True, slots=True)
class Space:
    """
    What can be built: the names of the K roles in order, at most `agents` agents, at most `moves` moves.

    `hears` is the fewest agents that each role must hear; `answers` says which roles give answers to the task, "()"
    that all of them do.
    """

    roles: tuple[str, ...]
    min_inputs: tuple[int, ...]
    agents: int = 6
    moves: int = 12
    answers: tuple[bool, ...] = ()

    @classmethod
    def from_roles(cls, roles: Roles, agents: int = 6, moves: int | None = None) -> "Space":
        """The space over a catalogue, in its order."""
        hears, answers = (tuple(r.hears for r in roles.values()), tuple(r.answers for r in roles.values()))
        return cls(tuple(roles), hears, agents, moves or 2 * agents, answers)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        lists = {"roles": list(self.roles), "hears": list(self.min_inputs)}
        return {**lists, "agents": self.agents, "moves": self.moves, "answers": list(self.answers)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Space":
        """Read plain data. Raises KeyError or TypeError where something is missing or no list."""
        roles, min_inputs, answers = (tuple(data[key]) for key in ("roles", "hears", "answers"))
        return cls(roles, min_inputs, data["agents"], data["moves"], answers)

    @property
    def delete_action(self) -> int:
        """The number of the action DELETE."""
        return len(self.roles)

    @property
    def exit_action(self) -> int:
        """The number of the action EXIT."""
        return len(self.roles) + 1

    def answering_agents(self, state: "BuildState") -> list[int]:
        """The places of agents that answer."""
        return [place for place, role in enumerate(state.roles) if not self.answers or self.answers[role]]

    @property
    def num_actions(self) -> int:
        """K + 2."""
        return len(self.roles) + 2


@dataclass(frozen=True, slots=True)
class Move:
    """
    One atomic action.

    `action` is a role's number, DELETE or EXIT; `agents` are places (0 the first) of agents that are there: those that
    the new one hears, or the one that goes.
    """

    action: int
    agents: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildState:
    """The graph so far: the role of each agent, and whom it hears (places of earlier agents)."""

    roles: tuple[int, ...] = ()
    inputs: tuple[tuple[int, ...], ...] = ()
    moves: int = 0
    done: bool = False

    def __len__(self) -> int:
        return len(self.roles)


@lru_cache(maxsize=CACHE_SIZE)
def action_mask(space: Space, state: BuildState) -> NDArray[np.bool_]:
    """
    (K + 2,) which node actions may be taken.

    EXIT needs an agent that answers, DELETE two or more, one of which is `deletable`, and moves to spare; roles need
    room, a move to spare for EXIT, and as many agents as they must hear. While nobody answers, the last room and the
    last move before EXIT are for roles that do. Nothing is allowed when it is done.
    """
    n, left = len(state), space.moves - state.moves
    mask = np.zeros(space.num_actions, dtype=bool)
    if state.done:
        return _fixed(mask)
    room = n < space.agents and left > 1
    mask[: space.delete_action] = [room and n >= least for least in space.min_inputs]
    answered = bool(space.answering_agents(state))
    if space.answers and not answered and (left == 2 or n == space.agents - 1):
        mask[: space.delete_action] &= space.answers
    mask[space.delete_action] = n >= 2 and left > 2 and any(_can_go(space, state, gone) for gone in range(n))
    mask[space.exit_action] = answered
    return _fixed(mask)


def _fixed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The same array, which nobody may write to, as it is kept."""
    mask.setflags(write=False)
    return mask


def deletion_mask(space: Space, state: BuildState) -> list[bool]:
    """For each agent, whether those who hear it still hear as many as they must without it."""
    return [_can_go(space, state, gone) for gone in range(len(state))]


def _can_go(space: Space, state: BuildState, gone: int) -> bool:
    return all(_hears_enough(space, state, place, gone) for place in range(len(state)))


def _hears_enough(space: Space, state: BuildState, place: int, gone: int) -> bool:
    least, heard = space.min_inputs[state.roles[place]], state.inputs[place]
    return place == gone or not least or gone not in heard or len({*heard, *state.inputs[gone]}) > least


def apply(space: Space, state: BuildState, move: Move) -> BuildState:
    """The state after a move. ValueError where the move is not allowed."""
    if not action_mask(space, state)[move.action]:
        raise ValueError(f"{move} is not allowed with {len(state)} agents after {state.moves} moves")
    if any(place < 0 or place >= len(state) for place in move.agents):
        raise ValueError(f"{move} names an agent that is not there")
    if move.action == space.exit_action:
        return BuildState(state.roles, state.inputs, state.moves + 1, True)
    if move.action == space.delete_action:
        (gone,) = move.agents
        if not deletion_mask(space, state)[gone]:
            raise ValueError(f"{move} would leave an agent with fewer to hear than its role needs")
        return _deleted(state, gone)
    heard = tuple(sorted(set(move.agents)))
    if len(heard) < space.min_inputs[move.action]:
        raise ValueError(f"{move} hears too few: {space.roles[move.action]} needs {space.min_inputs[move.action]}")
    return BuildState((*state.roles, move.action), (*state.inputs, heard), state.moves + 1)


def _deleted(state: BuildState, gone: int) -> BuildState:
    """The state without an agent; whoever heard it hears those that it heard."""
    shift = [place - (place > gone) for place in range(len(state))]
    hears = []
    for place, heard in enumerate(state.inputs):
        if place != gone:
            passed = {*heard, *state.inputs[gone]} - {gone} if gone in heard else set(heard)
            hears.append(tuple(sorted(shift[x] for x in passed)))
    roles = state.roles[:gone] + state.roles[gone + 1 :]
    return BuildState(roles, tuple(hears), state.moves + 1)


def replay(space: Space, moves: Sequence[Move]) -> BuildState:
    """The state after all moves from the empty graph."""
    state = BuildState()
    for move in moves:
        state = apply(space, state, move)
    return state


def agent_names(space: Space, state: BuildState) -> tuple[str, ...]:
    """The name of each agent in the graph: its role, and a number from the second of a role on."""
    return assign_names(space.roles[role] for role in state.roles)


@lru_cache(maxsize=CACHE_SIZE)
def _agent(name: str, role: str) -> Node:
    return Node(name=name, role=role)


def build_graph(space: Space, state: BuildState) -> Graph:
    """The graph that a state stands for: the last agent that answers is the exit; what it does not hear falls away."""
    answering = space.answering_agents(state)
    if not answering:
        raise ValueError("a state in which nobody answers is no graph")
    kept, todo = set(), [answering[-1]]
    while todo:
        place = todo.pop()
        if place not in kept:
            kept.add(place)
            todo.extend(state.inputs[place])
    called = agent_names(space, state)
    nodes = tuple(_agent(called[p], space.roles[state.roles[p]]) for p in sorted(kept))
    edges = tuple((called[a], called[b]) for b in sorted(kept) for a in state.inputs[b])
    return Graph(nodes, edges, called[answering[-1]])


@dataclass(frozen=True, slots=True)
class Build:
    """
    A graph and the moves that made it.

    `made_by` names for each agent that is there at the end the number of the move that added it.
    """

    graph: Graph
    moves: tuple[Move, ...]
    move_numbers: dict[str, int] = field(default_factory=dict)


def build(space: Space, moves: Sequence[Move]) -> Build:
    """The build of a whole sequence of moves, which ends with EXIT."""
    state, made = BuildState(), []
    for number, move in enumerate(moves):
        if move.action == space.delete_action:
            del made[move.agents[0]]
        elif move.action != space.exit_action:
            made.append(number)
        state = apply(space, state, move)
    if not state.done:
        raise ValueError("the moves do not end with EXIT")
    found = build_graph(space, state)
    called = agent_names(space, state)
    present = {node.name for node in found.nodes}
    return Build(found, tuple(moves), {c: m for c, m in zip(called, made, strict=True) if c in present})


def moves_for(space: Space, graph: Graph) -> tuple[Move, ...]:
    """Moves that build a graph, its nodes in order. ValueError for roles that the space does not have."""
    order = [n for n in graph.order if n != graph.exit] + [graph.exit]
    places = {name: place for place, name in enumerate(order)}
    moves = [
        Move(space.roles.index(graph[name].role), tuple(sorted(places[x] for x in graph.predecessors[name])))
        for name in order
    ]
    return (*moves, Move(space.exit_action))
