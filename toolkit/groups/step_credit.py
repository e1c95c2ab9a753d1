"""
Axis 6, credit: what each step of a rollout gets of its advantage. Table, (N,) -> (M,)

    broadcast      every step the advantage of its rollout                          GRPO (arXiv 2402.03300)
    action_wise    the same, plus what single steps did better than the group's     HRPO (arXiv 2506.08507)
    at_anchors     the same, plus what they did better than others from one state   GiGPO (arXiv 2505.10978)
    merged         the mean of the rollouts that took the same step                 SALT (arXiv 2510.20022)
    aligned        a step's own, and what it does for a partner's                   advantage alignment (2511.19405)

Steps of a rollout stand in order. What they read, (M,): `step_reward`, which sums to the rollout's reward, and
`action_reward`, what is a step's own, 0 where nobody said; `state`, what an environment showed before the step;
`action`; `observation`, what it showed after it, None where nobody knows. The last three may be anything.
"""

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.groups import state_matching
from edgewise.toolkit.groups.table import Table, group_mean, reads

Array = NDArray[np.float64]


def broadcast(table: Table, advantage: Array) -> Array:
    """(M,) the advantage of the rollout, for each of its steps."""
    return advantage[table.rollout]


@reads("action_reward")
def action_wise(table: Table, advantage: Array, *, beta: float = 1.0) -> Array:
    """
    (M,) advantage + beta * (the step's own reward - the mean of those of the group's steps).

    The paper names the two levels; how they are joined is our reading. Where a task rewards no single step the second
    term is 0: the reward of a whole rollout is none of a step's own.
    """
    return broadcast(table, advantage) + beta * _above(table.step_group, table.column("action_reward"))


@reads("state", "step_reward")
def at_anchors(
    table: Table,
    advantage: Array,
    *,
    omega: float = 1.0,
    gamma: float = 0.95,
    eps: float = 1e-6,
    scaled: bool = True,
    threshold: float | None = None,
    greedy: bool = False,
) -> Array:
    """
    (M,) advantage + omega * (return - mean return of all steps of the group from the same state), over std if `scaled`.

    Returns are discounted by `gamma`. States are the same where they are equal or, with a `threshold`, texts that are
    linked by that likeness; `greedy` clusters them as the authors do, in the order of steps.
    """
    group, states = table.step_group, table.column("state")
    if threshold is None:
        anchor = state_matching.exact(group, states)
    else:
        anchor = (state_matching.greedy if greedy else state_matching.similar)(group, list(states), threshold)
    found = _above(anchor, returns(table, table.column("step_reward"), gamma))
    if scaled:
        spread = np.sqrt(np.bincount(anchor, found**2) / np.maximum(1, np.bincount(anchor) - 1))
        found = found / np.where(spread == 0, 1.0, spread + eps)[anchor]
    return broadcast(table, advantage) + omega * found


@reads("state", "action", "observation")
def merged(table: Table, advantage: Array, *, history: int = 3, threshold: float | None = None) -> Array:
    """
    (M,) the mean advantage of all steps of the group that did the same from the same state and saw the same after it.

    The state is the last `history` pairs of action and observation, at first what was shown at the start. A rollout
    that took a step twice counts twice. A step after which nobody knows what was seen is like no other. Texts are the
    same where they are equal or, with a `threshold`, linked by that likeness (`toolkit.groups.state_matching.similar`).
    """
    own = broadcast(table, advantage)
    edge = _edges(table, history, threshold)
    return own - _above(edge, own)


@reads("step_reward", "partner_reward")
def aligned(
    table: Table,
    advantage: Array,
    *,
    beta: float = 1.0,
    gamma: float = 0.9,
    discount: float = 0.9,
    inclusive: bool = False,
) -> Array:
    """
    (M,) advantage + A_t + beta c_t B_t, A the step's own and B the partner's: return minus the others' mean at t.

    c_t = discount * (sum over k < t of discount^(t - k) A_k), as in the code, whose text leaves out the first factor.
    `inclusive` sums over k <= t, without that factor: the variant of the paper's first version. Reads `step_reward` and
    `partner_reward`, of both players of the game; others are those of the group.
    """
    own, partner = (
        _without_one(table, returns(table, table.column(name), gamma))
        for name in ("step_reward", "partner_reward")
    )
    return broadcast(table, advantage) + shaped_by_partner(
        own, partner, table.rollout, beta, discount, inclusive
    )


def shaped_by_partner(
    own: Array,
    partner: Array,
    rollout: NDArray[np.int64],
    beta: float,
    discount: float,
    inclusive: bool = False,
) -> Array:
    """(M,) own + beta c partner; see `aligned`."""
    past: dict[int, float] = {}
    weight = np.zeros(len(own))
    for i, (run, value) in enumerate(zip(rollout.tolist(), own.tolist(), strict=True)):
        before = discount * past.get(run, 0.0)
        past[run] = before + value
        weight[i] = past[run] if inclusive else discount * before
    return own + beta * weight * partner


def returns(table: Table, reward: Array, gamma: float) -> Array:
    """(M,) the reward of each step, plus gamma times the return of the next one of its rollout."""
    total = [0.0] * len(table)
    found = np.zeros(len(reward))
    for i in range(len(reward) - 1, -1, -1):
        run = table.rollout[i]
        total[run] = found[i] = reward[i] + gamma * total[run]
    return found


def places(rollout: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,) the number of each step within its rollout, from 0."""
    order = np.argsort(rollout, kind="stable")
    counts = np.bincount(rollout)
    found = np.empty(len(rollout), np.int64)
    found[order] = np.arange(len(rollout)) - (np.cumsum(counts) - counts)[rollout[order]]
    return found


def _edges(table: Table, history: int, threshold: float | None) -> NDArray[np.int64]:
    """(M,) numbers of steps that are the same."""
    seen, count = table.column("observation"), len(table.rollout)

    def numbers(name: str) -> list[int]:
        group, values = table.step_group, table.column(name)
        if threshold is None:
            return state_matching.exact(group, values).tolist()
        known = ["" if value is None else value for value in values]
        return state_matching.similar(group, known, threshold).tolist()

    columns = map(numbers, ("state", "action", "observation"))
    past: dict[int, tuple[int, ...]] = {}
    keys: list[tuple] = []
    for number, (run, state, action, after) in enumerate(zip(table.rollout.tolist(), *columns, strict=True)):
        before = past.get(run, (-1 - state,))
        past[run] = (*(before if run in past else ()), action, after)[-2 * history :]
        keys.append((before, action, past[run]) if seen[number] is not None else (number,))
    # Numbers of actions and observations are those of their group, so keys of two groups differ.
    return state_matching.numbered(keys, count)


def _without_one(table: Table, values: Array) -> Array:
    """(M,) each value minus the mean of the others of its group at the same place; 0 where there is no other."""
    _, key = np.unique(np.stack([table.step_group, places(table.rollout)]), axis=1, return_inverse=True)
    key = key.reshape(-1)
    counts = np.bincount(key)
    return _above(key, values) * (counts / np.maximum(1, counts - 1))[key]


def _above(key: NDArray[np.int64], values: Array) -> Array:
    """(M,) each value minus the mean of those with the same key, exactly 0 where all of them are equal."""
    size = int(key.max()) + 1 if len(key) else 0
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, key, values)
    np.maximum.at(high, key, values)
    return np.where((low == high)[key], 0.0, values - group_mean(key, values, size)[key])
