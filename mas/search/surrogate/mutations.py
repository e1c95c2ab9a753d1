"""
Graphs one edit away, as moves: proposals near the best graphs known.

All functions take and return moves that add agents and end, without DELETE (`mas.graph.construction.moves_for`). Agents
are in the order of their moves; each has inputs from earlier ones only, and the last is the exit.
"""

from collections.abc import Sequence

import numpy as np

from edgewise.mas.graph.construction import Move, Space, replay

# The role of each agent, and the indices of its inputs.
Agents = list[tuple[int, set[int]]]
Moves = tuple[Move, ...]

# Edits that are sampled until one is valid.
TRIES = 8


def mutate(space: Space, moves: Sequence[Move], rng: np.random.Generator) -> Moves:
    """
    Return a graph one random edit away: another role, an edge more or less, an agent more or less.

    Returns the same moves where no sampled edit is valid.
    """
    for _ in range(TRIES):
        edited = _to_moves(space, edit_randomly(space, _to_agents(moves), rng))
        if is_valid(space, edited):
            return edited
    return tuple(moves)


def edit_randomly(space: Space, agents: Agents, rng: np.random.Generator) -> Agents:
    """Return agents after one of four edits, each as likely; the result may be invalid in the space."""
    edit, count = rng.integers(4), len(agents)
    if edit == 0:  # another role
        index = int(rng.integers(count))
        agents[index] = (int(rng.integers(len(space.roles))), agents[index][1])
    elif edit == 1 and count > 1:  # one edge more or less
        index = int(rng.integers(1, count))
        agents[index][1].symmetric_difference_update({int(rng.integers(index))})
    elif edit == 2:  # a new agent with up to two inputs, itself an input of one later agent
        index = int(rng.integers(count + 1))
        later = [(role, {x + (x >= index) for x in inputs}) for role, inputs in agents[index:]]
        if later:
            later[int(rng.integers(len(later)))][1].add(index)
        inputs = {int(x) for x in rng.permutation(index)[: int(rng.integers(3))]}
        agents = [*agents[:index], (int(rng.integers(len(space.roles))), inputs), *later]
    elif edit == 3:
        agents = _remove(agents, int(rng.integers(count)))
    return agents


def graft(space: Space, moves: Sequence[Move], other: Sequence[Move], rng: np.random.Generator) -> Moves:
    """
    Return a graph in which a part of another one, up to one of its agents, replaces an agent.

    So what did well alone is tried inside. Agents of one role with the same inputs become one. Returns the same moves
    where no sampled graft is valid.

        planner -> solver       grafted in place of      solver -> critic
                                the solver of            gives planner -> solver -> critic
    """
    for _ in range(TRIES):
        agents, donor = _to_agents(moves), _to_agents(other)
        part = _keep_ancestors(donor[: 1 + int(rng.integers(len(donor)))])
        index, size = int(rng.integers(len(agents))), len(part)
        if index < len(agents) - 1:
            # The part comes first; edges from the replaced agent start at the part's last agent instead.
            part += [(role, {size - 1 if x == index else x + size for x in xs}) for role, xs in agents]
        grafted = _to_moves(space, _keep_ancestors(_merge_twins(_keep_ancestors(part))))
        if is_valid(space, grafted):
            return grafted
    return tuple(moves)


def join(space: Space, moves: Sequence[Move], other: Sequence[Move], rng: np.random.Generator) -> Moves:
    """
    Return two graphs side by side, and an agent that takes the outputs of both.

    The new agent has a random role for two or more inputs. Agents of one role with the same inputs become one. Returns
    the same moves where there is no such role or the result is invalid.
    """
    roles = [role for role, min_inputs in enumerate(space.min_inputs) if min_inputs > 1]
    if not roles:
        return tuple(moves)
    agents, more = _to_agents(moves), _to_agents(other)
    first = len(agents)
    shifted = [(role, {x + first for x in inputs}) for role, inputs in more]
    exit_ = (int(rng.choice(roles)), {first - 1, first + len(more) - 1})
    joined = _to_moves(space, _keep_ancestors(_merge_twins([*agents, *shifted, exit_])))
    return joined if is_valid(space, joined) else tuple(moves)


def list_prunings(space: Space, moves: Sequence[Move]) -> list[Moves]:
    """Return all valid graphs with one agent or one edge less."""
    agents, smaller = _to_agents(moves), list[Agents]()
    for index, (role, inputs) in enumerate(agents):
        # The exit can go only if one agent is there to take its place.
        if len(agents) > 1 and (index < len(agents) - 1 or len(inputs) == 1):
            smaller.append(_remove(agents, index))
        smaller += [[*agents[:index], (role, inputs - {x}), *agents[index + 1 :]] for x in inputs]
    pruned = [_to_moves(space, _keep_ancestors(rest)) for rest in smaller]
    return [graph for graph in pruned if is_valid(space, graph)]


def list_role_changes(space: Space, moves: Sequence[Move]) -> list[Moves]:
    """Return all valid graphs in which one agent has another role."""
    agents = _to_agents(moves)
    changed = [
        _to_moves(space, [*agents[:index], (role, inputs), *agents[index + 1 :]])
        for index, (own, inputs) in enumerate(agents)
        for role in range(len(space.roles))
        if role != own
    ]
    return [graph for graph in changed if is_valid(space, graph)]


def is_valid(space: Space, moves: Sequence[Move]) -> bool:
    """Return whether the space allows these moves."""
    try:
        replay(space, moves)
    except ValueError:
        return False
    return True


def _to_agents(moves: Sequence[Move]) -> Agents:
    return [(move.action, set(move.agents)) for move in moves[:-1]]


def _to_moves(space: Space, agents: Agents) -> Moves:
    return (*(Move(role, tuple(sorted(inputs))) for role, inputs in agents), Move(space.exit_action))


def _remove(agents: Agents, index: int) -> Agents:
    """Return agents without one; its successors get its inputs."""
    passed_on = agents[index][1]
    rest = [(role, (xs - {index}) | (passed_on if index in xs else set())) for role, xs in agents]
    del rest[index]
    return [(role, {x - (x > index) for x in inputs}) for role, inputs in rest]


def _keep_ancestors(agents: Agents) -> Agents:
    """Return the last agent and those whose output reaches it, even through others."""
    ancestors, todo = set[int](), [len(agents) - 1]
    while todo:
        index = todo.pop()
        if index not in ancestors:
            ancestors.add(index)
            todo.extend(agents[index][1])
    new_index = {old: new for new, old in enumerate(sorted(ancestors))}
    return [(agents[old][0], {new_index[x] for x in agents[old][1]}) for old in sorted(ancestors)]


def _merge_twins(agents: Agents) -> Agents:
    """Return agents with those of one role and the same inputs made one."""
    merged, new_index, index_of = Agents(), dict[int, int](), dict[tuple[int, frozenset[int]], int]()
    for old, (role, inputs) in enumerate(agents):
        key = role, frozenset(new_index[x] for x in inputs)
        if key not in index_of:
            index_of[key] = len(merged)
            merged.append((role, set(key[1])))
        new_index[old] = index_of[key]
    return merged
