"""
States of a construction as arrays, so that one batched pass scores all moves of all graphs.

B states, M moves, K roles, N the most agents, F facts of an agent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgewise.mas.graph.construction import BuildState, Move, Space, action_mask, apply, deletion_mask

# Features of an agent beside its role; the policy starts with weights on the first three.
FACTS = ("one", "no successor", "last", "successors", "inputs", "depth")


@dataclass(frozen=True, slots=True)
class StateBatch:
    """B states; `moves_left` is the share of the moves that are left."""

    roles: NDArray[np.int64]  # [B, N] K where there is no agent
    inputs: NDArray[np.float64]  # [B, N, N] 1 where the agent of the row has the agent of the column as an input
    facts: NDArray[np.float64]  # [B, N, F] in the order of FACTS
    size: NDArray[np.int64]  # [B] agents
    moves_left: NDArray[np.float64]  # [B]
    action_mask: NDArray[np.bool_]  # [B, K + 2] the node actions that may be taken
    can_delete: NDArray[np.bool_]  # [B, N] the agents that DELETE may take

    @property
    def is_agent(self) -> NDArray[np.bool_]:
        """[B, N] where there is an agent."""
        return np.arange(self.roles.shape[1]) < self.size[:, None]

    def without_edges(self, space: Space) -> "StateBatch":
        """Return the states as they look before any edge is chosen, and without DELETE."""
        mask = self.action_mask.copy()
        mask[:, space.delete_action] = False
        inputs = np.zeros_like(self.inputs)
        return replace(self, inputs=inputs, facts=_compute_facts(inputs, self.size), action_mask=mask)


def encode_states(space: Space, states: Sequence[BuildState]) -> StateBatch:
    """Return states as arrays."""
    count, n = len(states), space.agents
    roles = np.full((count, n), len(space.roles))
    inputs = np.zeros((count, n, n))
    can_delete = np.zeros((count, n), bool)
    for row, state in enumerate(states):
        roles[row, : len(state)] = state.roles
        for agent, own in enumerate(state.inputs):
            inputs[row, agent, own] = 1.0
        can_delete[row, : len(state)] = deletion_mask(space, state)
    size = np.array([len(state) for state in states])
    moves_left = np.array([1 - state.moves / space.moves for state in states])
    mask = np.stack([action_mask(space, state) for state in states])
    return StateBatch(roles, inputs, _compute_facts(inputs, size), size, moves_left, mask, can_delete)


def _compute_facts(inputs: NDArray[np.float64], size: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the facts [B, N, F] of agents; counts and depth are over 4, so that they are about 1 at most."""
    n = inputs.shape[1]
    is_agent = np.arange(n) < size[:, None]
    is_last = np.arange(n) == size[:, None] - 1
    outdegree, indegree = inputs.sum(1), inputs.sum(2)
    depth = np.zeros_like(indegree)
    for agent in range(n):  # edges run from old to new, so the depth of inputs is known before
        depth[:, agent] = (inputs[:, agent] * (depth + 1)).max(1)
    facts = [is_agent, is_agent & (outdegree == 0), is_last, outdegree / 4, indegree / 4, depth / 4]
    return np.stack(facts, axis=2).astype(np.float64)


@dataclass(frozen=True, slots=True)
class MoveBatch:
    """M moves of several builds, with the states that they were taken in."""

    states: StateBatch
    build: NDArray[np.int64]  # [M] the number of the build
    action: NDArray[np.int64]  # [M]
    chosen: NDArray[np.bool_]  # [M, N] the agents of the move
    min_inputs: NDArray[np.int64]  # [M] how many inputs the role of the action needs

    def __len__(self) -> int:
        return len(self.action)


def encode_moves(space: Space, builds: Sequence[Sequence[Move]]) -> MoveBatch:
    """Return all moves of all builds. Raises ValueError for a move that is not allowed."""
    states: list[BuildState] = []
    for moves in builds:
        state = BuildState()
        for move in moves:
            states.append(state)
            state = apply(space, state, move)
    flat = [move for moves in builds for move in moves]
    chosen = np.zeros((len(flat), space.agents), bool)
    for row, move in enumerate(flat):
        chosen[row, list(move.agents)] = True
    action = np.array([move.action for move in flat])
    min_inputs = np.array([*space.min_inputs, 0, 0])[action]
    build = np.repeat(np.arange(len(builds)), [len(moves) for moves in builds])
    return MoveBatch(encode_states(space, states), build, action, chosen, min_inputs)
