"""Graphs one edit away, as moves: for a searcher that looks around the best graphs it knows."""

from collections.abc import Sequence

import numpy as np

from mas.actions import Move, Space, build

Agents = list[tuple[int, set[int]]]
"""The role of each agent, and the places of those that it hears."""

TRIES = 8


def neighbour(space: Space, moves: Sequence[Move], rng: np.random.Generator) -> tuple[Move, ...]:
    """
    Moves of a graph one random edit away: another role, an edge more or less, an agent more or less.

    `moves` adds agents and ends, without DELETE (`mas.actions.moves_of`). The moves as they are where no edit that
    was drawn is allowed.
    """
    for _ in range(TRIES):
        agents: Agents = [(move.action, set(move.agents)) for move in moves[:-1]]
        edit = EDITS[rng.integers(len(EDITS))]
        edit(space, agents, rng)
        found = (*(Move(role, tuple(sorted(heard))) for role, heard in agents), Move(space.exit))
        if _allowed(space, found):
            return found
    return tuple(moves)


def _allowed(space: Space, moves: Sequence[Move]) -> bool:
    try:
        build(space, moves)
    except ValueError:
        return False
    return True


def _recast(space: Space, agents: Agents, rng: np.random.Generator) -> None:
    place = int(rng.integers(len(agents)))
    agents[place] = (int(rng.integers(len(space.roles))), agents[place][1])


def _rewire(space: Space, agents: Agents, rng: np.random.Generator) -> None:
    if len(agents) > 1:
        place = int(rng.integers(1, len(agents)))
        agents[place][1].symmetric_difference_update({int(rng.integers(place))})


def _add(space: Space, agents: Agents, rng: np.random.Generator) -> None:
    """A new agent at any place: it hears up to two before it, and one after it hears it."""
    place = int(rng.integers(len(agents) + 1))
    later = [(role, {x + (x >= place) for x in heard}) for role, heard in agents[place:]]
    if later:
        later[int(rng.integers(len(later)))][1].add(place)
    heard = {int(x) for x in rng.permutation(place)[: int(rng.integers(3))]}
    agents[place:] = [(int(rng.integers(len(space.roles))), heard), *later]


def _drop(space: Space, agents: Agents, rng: np.random.Generator) -> None:
    """One agent less: whoever heard it hears those that it heard."""
    gone = int(rng.integers(len(agents)))
    passed = agents[gone][1]
    rest = [(role, (heard - {gone}) | (passed if gone in heard else set())) for role, heard in agents]
    del rest[gone]
    agents[:] = [(role, {x - (x > gone) for x in heard}) for role, heard in rest]


EDITS = (_recast, _rewire, _add, _drop)
