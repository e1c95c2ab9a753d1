"""Graphs one edit away, as moves: for a searcher that looks around the best graphs it knows."""

from collections.abc import Sequence

import numpy as np

from edgewise.mas.graph.construction import Move, Space, replay

Agents = list[tuple[int, set[int]]]
"""The role of each agent, and the places of those that it hears."""

TRIES = 8


def mutate(space: Space, moves: Sequence[Move], rng: np.random.Generator) -> tuple[Move, ...]:
    """
    Moves of a graph one random edit away: another role, an edge more or less, an agent more or less.

    `moves` adds agents and ends, without DELETE (`mas.graph.construction.moves_of`). The moves as they are where no edit that
    was drawn is allowed.
    """
    for _ in range(TRIES):
        agents = _agents(moves)
        edit = EDITS[rng.integers(len(EDITS))]
        edit(space, agents, rng)
        if _allowed(space, found := _moves(space, agents)):
            return found
    return tuple(moves)


def graft(
    space: Space, moves: Sequence[Move], other: Sequence[Move], rng: np.random.Generator
) -> tuple[Move, ...]:
    """
    Moves of a graph in which a part of another one, up to one of its agents, takes the place of an agent.

    So what did well alone is tried inside. Agents of one role that hear the same become one. The moves as they are
    where no graft that was drawn is allowed.
    """
    for _ in range(TRIES):
        agents, scion = _agents(moves), _agents(other)
        part = _ended(scion[: 1 + int(rng.integers(len(scion)))])
        place, more = int(rng.integers(len(agents))), len(part)
        moved = [(role, {more - 1 if x == place else x + more for x in heard}) for role, heard in agents]
        whole = part + moved if place < len(agents) - 1 else part
        if _allowed(space, found := _moves(space, _ended(_merged(_ended(whole))))):
            return found
    return tuple(moves)


def join(
    space: Space, moves: Sequence[Move], other: Sequence[Move], rng: np.random.Generator
) -> tuple[Move, ...]:
    """
    Moves of two graphs side by side, and an agent of a role for several that hears the exits of both.

    Agents of one role that hear the same become one. The moves as they are where this is not allowed.
    """
    roles = [role for role, hears in enumerate(space.min_inputs) if hears > 1]
    if not roles:
        return tuple(moves)
    agents, more = _agents(moves), _agents(other)
    first = len(agents)
    beside = [(role, {x + first for x in heard}) for role, heard in more]
    last = (int(rng.choice(roles)), {first - 1, first + len(more) - 1})
    found = _moves(space, _ended(_merged([*agents, *beside, last])))
    return found if _allowed(space, found) else tuple(moves)


def list_prunings(space: Space, moves: Sequence[Move]) -> list[tuple[Move, ...]]:
    """Moves of all graphs with one agent or one edge less."""
    agents, found = _agents(moves), list[Agents]()
    for place, (_, heard) in enumerate(agents):
        if len(agents) > 1 and (place < len(agents) - 1 or len(heard) == 1):
            found.append(_agents(moves))
            _left_out(found[-1], place)
        for gone in heard:
            found.append([(r, h - {gone} if i == place else set(h)) for i, (r, h) in enumerate(agents)])
    return [made for each in found if _allowed(space, made := _moves(space, _ended(each)))]


def list_role_changes(space: Space, moves: Sequence[Move]) -> list[tuple[Move, ...]]:
    """Moves of all graphs in which one agent has another role."""
    agents = _agents(moves)
    found = [
        _moves(space, [*agents[:place], (role, heard), *agents[place + 1 :]])
        for place, (own, heard) in enumerate(agents)
        for role in range(len(space.roles))
        if role != own
    ]
    return [made for made in found if _allowed(space, made)]


def _agents(moves: Sequence[Move]) -> Agents:
    return [(move.action, set(move.agents)) for move in moves[:-1]]


def _moves(space: Space, agents: Agents) -> tuple[Move, ...]:
    return (*(Move(role, tuple(sorted(heard))) for role, heard in agents), Move(space.exit_action))


def _ended(agents: Agents) -> Agents:
    """Those that the last one hears, even through others, and the last one."""
    kept, todo = set[int](), [len(agents) - 1]
    while todo:
        place = todo.pop()
        if place not in kept:
            kept.add(place)
            todo.extend(agents[place][1])
    places = {old: new for new, old in enumerate(sorted(kept))}
    return [(agents[old][0], {places[x] for x in agents[old][1]}) for old in sorted(kept)]


def _merged(agents: Agents) -> Agents:
    """Agents of one role that hear the same are one."""
    found, place, known = Agents(), dict[int, int](), dict[tuple[int, frozenset[int]], int]()
    for old, (role, heard) in enumerate(agents):
        now = frozenset(place[x] for x in heard)
        if (role, now) not in known:
            known[role, now] = len(found)
            found.append((role, set(now)))
        place[old] = known[role, now]
    return found


def _allowed(space: Space, moves: Sequence[Move]) -> bool:
    try:
        replay(space, moves)
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
    _left_out(agents, int(rng.integers(len(agents))))


def _left_out(agents: Agents, gone: int) -> None:
    passed = agents[gone][1]
    rest = [(role, (heard - {gone}) | (passed if gone in heard else set())) for role, heard in agents]
    del rest[gone]
    agents[:] = [(role, {x - (x > gone) for x in heard}) for role, heard in rest]


EDITS = (_recast, _rewire, _add, _drop)
