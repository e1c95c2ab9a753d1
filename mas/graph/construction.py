"""
Building a graph as a Markov decision process (MasHost, arXiv 2506.08507, section on the search space).

The state is the query and the graph so far. A node action adds one of K roles, deletes an agent (DELETE) or ends
(EXIT); with a role comes the edge action: the agents that are there whose output the new one receives.

    move    Move(solver)    Move(critic, (0,))    Move(reviser, (0, 1))        Move(EXIT)
    graph   solver          solver ► critic       solver ► critic ► reviser    the same, done
                                                    └───────────────►┘

Edges run from old agents to new ones, so there are no cycles. On EXIT the last agent that answers the task is the exit
of the graph, and all agents without a path to it are dropped. What the paper leaves open is filled in here;
docs/decisions says how.

K roles, N agents so far. A "place" is the number of an agent, from 0, in the order of their moves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.mas.graph.graph import Graph, Node, assign_names, find_reachable
from edgewise.mas.graph.roles import Roles

CACHE_SIZE = 4096
"""Masks that are cached: a search comes to the same states again and again."""


@dataclass(frozen=True, slots=True)
class Space:
    """
    All graphs that can be built: from the names of K roles in order, with at most `agents` agents in `moves` moves.

    `min_inputs` is the fewest inputs of each role; `answers` says which roles give answers to the task, "()" that all
    of them do.
    """

    roles: tuple[str, ...]
    min_inputs: tuple[int, ...]
    agents: int = 6
    moves: int = 12
    answers: tuple[bool, ...] = ()

    @classmethod
    def from_roles(cls, roles: Roles, agents: int = 6) -> "Space":
        """Return the space over a catalogue, in its order, with two moves for each agent."""
        min_inputs = tuple(role.hears for role in roles.values())
        answers = tuple(role.answers for role in roles.values())
        return cls(tuple(roles), min_inputs, agents, 2 * agents, answers)

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

    @property
    def num_actions(self) -> int:
        """K + 2."""
        return len(self.roles) + 2

    def answering_agents(self, state: "BuildState") -> list[int]:
        """Return the places of agents that answer the task."""
        return [place for place, role in enumerate(state.roles) if not self.answers or self.answers[role]]


@dataclass(frozen=True, slots=True)
class Move:
    """
    One atomic action.

    `action` is a role's number, DELETE or EXIT; `agents` are places of agents that are there: the inputs of the new
    agent, or the agent to delete.
    """

    action: int
    agents: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildState:
    """The graph so far: the role of each agent, and its inputs (places of earlier agents)."""

    roles: tuple[int, ...] = ()
    inputs: tuple[tuple[int, ...], ...] = ()
    moves: int = 0
    done: bool = False

    def __len__(self) -> int:
        return len(self.roles)


@lru_cache(maxsize=CACHE_SIZE)
def action_mask(space: Space, state: BuildState) -> NDArray[np.bool_]:
    """
    Return which node actions may be taken, (K + 2,).

    EXIT needs an agent that answers. DELETE needs two agents or more, one of them deletable, and moves to spare. Roles
    need room, a move to spare for EXIT, and as many agents as their inputs. While no agent answers, the last room and
    the last move before EXIT are for roles that do. Nothing is allowed in a state that is done.
    """
    count, left = len(state), space.moves - state.moves
    mask = np.zeros(space.num_actions, dtype=bool)
    if not state.done:
        has_room = count < space.agents and left > 1
        mask[: space.delete_action] = [has_room and count >= least for least in space.min_inputs]
        # Without this, a policy could use up its moves and be left without any allowed action.
        has_answer = bool(space.answering_agents(state))
        if space.answers and not has_answer and (left == 2 or count == space.agents - 1):
            mask[: space.delete_action] &= space.answers
        mask[space.delete_action] = count >= 2 and left > 2 and any(deletion_mask(space, state))
        mask[space.exit_action] = has_answer
    mask.setflags(write=False)  # cached, so all callers share it
    return mask


def deletion_mask(space: Space, state: BuildState) -> list[bool]:
    """Return for each agent whether the agents that receive its output have enough inputs without it."""
    mask = [True] * len(state)
    for role, inputs in zip(state.roles, state.inputs, strict=True):
        least = space.min_inputs[role]
        for deleted in inputs:
            # It would receive the inputs of the deleted agent in its place, and here still counts the agent itself.
            if least and len({*inputs, *state.inputs[deleted]}) <= least:
                mask[deleted] = False
    return mask


def apply(space: Space, state: BuildState, move: Move) -> BuildState:
    """Return the state after a move. Raises ValueError for a move that is not allowed."""
    if not action_mask(space, state)[move.action]:
        raise ValueError(f"{move} is not allowed with {len(state)} agents after {state.moves} moves")
    if any(place < 0 or place >= len(state) for place in move.agents):
        raise ValueError(f"{move} names an agent that is not there")

    moves = state.moves + 1
    if move.action == space.exit_action:
        return BuildState(state.roles, state.inputs, moves, True)

    if move.action == space.delete_action:
        (deleted,) = move.agents
        if not deletion_mask(space, state)[deleted]:
            raise ValueError(f"{move} would leave an agent with fewer inputs than its role needs")
        rows = []
        for place, inputs in enumerate(state.inputs):
            if place == deleted:
                continue
            # Agents that received its output receive its inputs; later agents move up by one place.
            bridged = {*inputs, *state.inputs[deleted]} - {deleted} if deleted in inputs else inputs
            rows.append(tuple(sorted(other - (other > deleted) for other in bridged)))
        return BuildState(state.roles[:deleted] + state.roles[deleted + 1 :], tuple(rows), moves)

    inputs = tuple(sorted(set(move.agents)))
    least = space.min_inputs[move.action]
    if len(inputs) < least:
        raise ValueError(f"{move} has too few inputs: {space.roles[move.action]} needs {least}")
    return BuildState((*state.roles, move.action), (*state.inputs, inputs), moves)


def replay(space: Space, moves: Sequence[Move]) -> BuildState:
    """Return the state after all moves from the empty graph."""
    state = BuildState()
    for move in moves:
        state = apply(space, state, move)
    return state


def agent_names(space: Space, state: BuildState) -> tuple[str, ...]:
    """Return the name of each agent: its role, from the second of a role on with a number."""
    return assign_names(space.roles[role] for role in state.roles)


@lru_cache(maxsize=CACHE_SIZE)
def make_node(name: str, role: str) -> Node:
    """Return an agent. Equal agents are one object, as validating a node costs more than the rest of a graph."""
    return Node(name=name, role=role)


def build_graph(space: Space, state: BuildState) -> Graph:
    """Return the graph of a state: the last agent that answers is the exit; agents without a path to it are dropped."""
    # Agents that came after the last answer, such as a critic that nobody listened to, lead nowhere and are dropped.
    answering = space.answering_agents(state)
    if not answering:
        raise ValueError("a state in which nobody answers is no graph")
    names = agent_names(space, state)
    inputs = {name: tuple(names[place] for place in row) for name, row in zip(names, state.inputs, strict=True)}
    exit_ = names[answering[-1]]
    members = find_reachable(inputs, exit_)
    pairs = [(name, space.roles[role]) for name, role in zip(names, state.roles, strict=True)]
    nodes = tuple(make_node(name, role) for name, role in pairs if name in members)
    edges = tuple((other, name) for name in names if name in members for other in inputs[name])
    return Graph(nodes, edges, exit_)


@dataclass(frozen=True, slots=True)
class Build:
    """
    A graph and the moves that made it.

    `move_numbers` holds, for each agent of the graph, the number of the move that added it.
    """

    graph: Graph
    moves: tuple[Move, ...]
    move_numbers: dict[str, int] = field(default_factory=dict)


def build(space: Space, moves: Sequence[Move]) -> Build:
    """Return the build of a whole sequence of moves. Raises ValueError if it does not end with EXIT."""
    state, numbers = BuildState(), []
    for number, move in enumerate(moves):
        # Deleting shifts the places of later agents, in this list as in the state.
        if move.action == space.delete_action:
            del numbers[move.agents[0]]
        elif move.action != space.exit_action:
            numbers.append(number)
        state = apply(space, state, move)
    if not state.done:
        raise ValueError("the moves do not end with EXIT")
    graph = build_graph(space, state)
    # Agents that were dropped at EXIT have no number: their moves earn no reward of their own.
    by_name = zip(agent_names(space, state), numbers, strict=True)
    members = graph.nodes_by_name.keys()
    return Build(graph, tuple(moves), {name: number for name, number in by_name if name in members})


def moves_for(space: Space, graph: Graph) -> tuple[Move, ...]:
    """Return moves that build a graph, its exit last. Raises ValueError for roles that the space does not have."""
    order = [name for name in graph.order if name != graph.exit] + [graph.exit]
    places = {name: place for place, name in enumerate(order)}
    moves = []
    for name in order:
        inputs = tuple(sorted(places[other] for other in graph.predecessors[name]))
        moves.append(Move(space.roles.index(graph[name].role), inputs))
    return (*moves, Move(space.exit_action))
