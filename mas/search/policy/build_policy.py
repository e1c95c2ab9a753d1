"""
Policy that builds graphs move by move (MasHost, arXiv 2506.08507): log pi = log pi(action) + log pi(agents | action).

                 K roles: a set of inputs, each agent by itself, given that the role has inputs enough
    action   ->  DELETE:  one of the agents that may go
                 EXIT:    nothing

What the policy is made of only decides the probabilities: a network (`mas.search.policy.network`) or a table
(`mas.search.policy.tabular`). Sampling, the likeliest graphs and the version are here. None of it needs torch.

B states, K roles, N the most agents.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewise.mas.designs.interface import Query
from edgewise.mas.graph.construction import BuildState, Move, Space, apply, build_graph, replay
from edgewise.mas.graph.graph import Graph
from edgewise.mas.search.policy.state_features import StateBatch, encode_states
from edgewise.mas.search.policy.subset_sampling import Floats, Integers, pick_category, pick_subsets
from edgewise.toolkit.util.hashing import hash_json


@dataclass(frozen=True, slots=True)
class MoveProbabilities:
    """
    Probabilities of the next move in B states.

    `agents` takes an action [B] for each state, and returns for each agent the probability [B, N] that it becomes an
    input, and the probability [B, N] that it is the one that is deleted.
    """

    actions: Floats  # [B, K + 2]
    agents: Callable[[Integers], tuple[Floats, Floats]]


# Takes B indices of queries, and the states of their builds.
ReadProbabilities = Callable[[list[int], StateBatch], MoveProbabilities]


class BuildPolicy(ABC):
    """A design that builds a graph for each query; an immutable value."""

    space: Space
    joint: bool

    @property
    def version(self) -> str:
        """A hash of everything that the policy depends on."""
        return hash_json(self.to_json())

    def sample(self, queries: Sequence[Query], seeds: Sequence[int]) -> list[tuple[Move, ...]]:
        """Return a sampled build for each query; each depends on its own query and seed alone."""
        shape = self.space.moves, self.space.agents + 1
        uniform = np.stack([np.random.default_rng(seed).random(shape) for seed in seeds])
        return self._build_all(queries, uniform)

    def graphs(self, queries: Sequence[Query]) -> list[Graph]:
        """Return for each query the graph of the build whose moves are the likeliest, one after the other."""
        builds = self._build_all(queries, None)
        return [build_graph(self.space, replay(self.space, moves)) for moves in builds]

    def _build_all(self, queries: Sequence[Query], uniform: Floats | None) -> list[tuple[Move, ...]]:
        """Build a graph for each query, side by side; `uniform` is [query, turn, N + 1], None for the likeliest."""
        space, read = self.space, self.read_probabilities(queries)
        states = [BuildState() for _ in queries]
        moves: list[list[Move]] = [[] for _ in queries]
        for turn in range(space.moves):
            rows = [row for row, state in enumerate(states) if not state.done]
            if not rows:
                break
            probabilities = read(rows, encode_states(space, [states[row] for row in rows]))
            u = None if uniform is None else uniform[rows, turn]

            # The action by the first number. Then both ways of choosing agents, for every state: a set of inputs by
            # the other numbers, and an agent to delete by the second one.
            actions = pick_category(probabilities.actions, u if u is None else u[:, 0])
            p_input, p_delete = probabilities.agents(actions)
            min_inputs = np.array([*space.min_inputs, 0, 0])[actions]
            inputs = pick_subsets(p_input, min_inputs, u if u is None else u[:, 1:])
            deleted = pick_category(p_delete, u if u is None else u[:, 1])
            for i, (row, action) in enumerate(zip(rows, map(int, actions), strict=True)):
                agents = tuple(map(int, np.flatnonzero(inputs[i])))
                if action == space.delete_action:
                    agents = (int(deleted[i]),)
                moves[row].append(Move(action, () if action == space.exit_action else agents))
                states[row] = apply(space, states[row], moves[row][-1])
        return [tuple(build) for build in moves]

    @abstractmethod
    def read_probabilities(self, queries: Sequence[Query]) -> ReadProbabilities:
        """Return a function that reads the probabilities of moves on these queries."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return plain data; `mas.search.load_design` reads it back."""
