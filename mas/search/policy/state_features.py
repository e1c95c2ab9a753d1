"""
States of a construction as arrays, so that one batched pass scores all moves of all graphs.

S states, K roles, N the most agents, F facts of an agent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.mas.graph.construction import BuildState, Move, Space, action_mask, apply, deletion_mask

FACTS = ("one", "unheard", "last", "heard by", "hears", "depth")
"""What is said of an agent beside its role; the policy starts from opinions on the first three."""


@dataclass(frozen=True, slots=True)
class StateBatch:
    """
    S states.

    `roles` (S, N), K where there is no agent; `hears` (S, N, N), who hears whom; `facts` (S, N, F) in
    the order of `FACTS`; `size` (S,) agents; `left` (S,) the share of moves that are left; `mask` (S, K + 2) the
    node actions that may be taken; `deletable` (S, N) the agents that DELETE may take.
    """

    roles: NDArray[np.int64]
    hears: NDArray[np.float64]
    facts: NDArray[np.float64]
    size: NDArray[np.int64]
    left: NDArray[np.float64]
    mask: NDArray[np.bool_]
    deletable: NDArray[np.bool_]

    @property
    def there(self) -> NDArray[np.bool_]:
        """(S, N) where there is an agent."""
        return np.arange(self.roles.shape[1]) < self.size[:, None]

    def unwired(self, space: Space) -> "StateBatch":
        """The states as they look before any edge is drawn, and without DELETE."""
        mask = self.mask.copy()
        mask[:, space.delete_action] = False
        hears = np.zeros_like(self.hears)
        facts = _facts(hears, self.size)
        return StateBatch(self.roles, hears, facts, self.size, self.left, mask, self.deletable)


def encode_states(space: Space, states: Sequence[BuildState]) -> StateBatch:
    """States as arrays."""
    count, n = len(states), space.agents
    roles = np.full((count, n), len(space.roles))
    hears = np.zeros((count, n, n))
    gone = np.zeros((count, n), bool)
    for row, state in enumerate(states):
        roles[row, : len(state)] = state.roles
        for place, heard in enumerate(state.inputs):
            hears[row, place, heard] = 1.0
        gone[row, : len(state)] = deletion_mask(space, state)
    size = np.array([len(state) for state in states])
    left = np.array([1 - state.moves / space.moves for state in states])
    mask = np.stack([action_mask(space, state) for state in states])
    return StateBatch(roles, hears, _facts(hears, size), size, left, mask, gone)


def _facts(hears: NDArray[np.float64], size: NDArray[np.int64]) -> NDArray[np.float64]:
    n = hears.shape[1]
    there = np.arange(n) < size[:, None]
    last = np.arange(n) == size[:, None] - 1
    by, of = hears.sum(1), hears.sum(2)
    depth = np.zeros_like(by)
    for place in range(n):  # edges run from old to new, so what is heard is done before
        depth[:, place] = (hears[:, place] * (depth + 1)).max(1)
    return np.stack([there, there & (by == 0), last, by / 4, of / 4, depth / 4], axis=2).astype(np.float64)


@dataclass(frozen=True, slots=True)
class MoveBatch:
    """
    M moves of several builds.

    `states` they were taken in, `build` (M,) whose move it is, `action` (M,), `chosen`
    (M, N) the agents of the move, `least` (M,) how many it must hear.
    """

    states: StateBatch
    build: NDArray[np.int64]
    action: NDArray[np.int64]
    chosen: NDArray[np.bool_]
    least: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.action)


def encode_moves(space: Space, builds: Sequence[Sequence[Move]]) -> MoveBatch:
    """All moves of all builds, with the states that they were taken in. ValueError for a move that is not allowed."""
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
    least = np.array([*space.min_inputs, 0, 0])[action]
    build = np.repeat(np.arange(len(builds)), [len(moves) for moves in builds])
    return MoveBatch(encode_states(space, states), build, action, chosen, least)
