"""
Axis 6, credit: the share of a rollout's advantage that each step receives. Table, (N,) -> (M,)

    broadcast      every step the advantage of its rollout                        GRPO (arXiv 2402.03300)
    action_wise    the same, plus the lead of a step over the group's steps       HRPO (arXiv 2506.08507)
    at_anchors     the same, plus its lead over steps from the same state         GiGPO (arXiv 2505.10978)
    merged         the mean of the rollouts that took the same step               SALT (arXiv 2510.20022)
    aligned        a step's own, and its effect on a partner's                    advantage alignment (2511.19405)

N rollouts, M steps, t the number of a step in its rollout. Steps of a rollout stand in order.

Columns, all (M,): `step_reward`, which sums to the rollout's reward; `action_reward`, the step's own reward, 0 where it
has none; `state`, the environment's text before the step; `action`; `observation`, its text after the step, None where
unknown. The last three may be of any type.
"""

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.groups import state_matching
from edgewise.toolkit.groups.table import Table, compute_group_means, reads_columns

Array = NDArray[np.float64]


def broadcast(table: Table, advantage: Array) -> Array:
    """Return the advantage of the rollout for each of its steps: (M,)."""
    return advantage[table.rollout]


@reads_columns("action_reward")
def action_wise(table: Table, advantage: Array, *, beta: float = 1.0) -> Array:
    """
    Return advantage + beta * (the step's own reward - the mean of those of the group's steps): (M,).

    The paper names the two levels; their sum is our reading. Where a task rewards no single step the second term is 0:
    the reward of a whole rollout belongs to no step.
    """
    own = table.column("action_reward")
    return broadcast(table, advantage) + beta * _subtract_mean(table.step_group, own)


@reads_columns("state", "step_reward")
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
    Return advantage + omega * (return - mean return of the group's steps from the same state), over std if `scaled`.

    (M,). Returns are discounted by `gamma`. States are the same where they are equal or, with a `threshold`, texts that
    are linked by that likeness; `greedy` clusters them as the authors do, in the order of steps.
    """
    # A(a_t) = A_episode + omega A_step, where A_step compares the actions taken from one anchor state.
    group, states = table.step_group, table.column("state")
    if threshold is None:
        anchor = state_matching.match_exact(group, states)
    else:
        anchor = state_matching.match_similar(group, list(states), threshold, is_greedy=greedy)

    step_advantage = _subtract_mean(anchor, discounted_returns(table, table.column("step_reward"), gamma))
    if scaled:
        squares, counts = np.bincount(anchor, step_advantage**2), np.bincount(anchor)
        deviation = np.sqrt(squares / np.maximum(1, counts - 1))
        step_advantage = step_advantage / np.where(deviation == 0, 1.0, deviation + eps)[anchor]
    return broadcast(table, advantage) + omega * step_advantage


@reads_columns("state", "action", "observation")
def merged(table: Table, advantage: Array, *, history: int = 3, threshold: float | None = None) -> Array:
    """
    Return the mean advantage of the group's steps with the same state, action and observation: (M,).

    The state is the last `history` pairs of action and observation, at first the text at the start. A rollout that took
    a step twice counts twice. A step with an unknown observation is like no other. Texts are the same where they are
    equal or, with a `threshold`, linked by that likeness (`toolkit.groups.state_matching.match_similar`).
    """
    # The trajectories of a group form a graph with states as nodes; a step is an edge, and edges that
    # several rollouts share get the mean of their advantages.
    group, columns = table.step_group, []
    for name in ("state", "action", "observation"):
        values = table.column(name)
        if threshold is None:
            numbers = state_matching.match_exact(group, values)
        else:
            texts = ["" if value is None else value for value in values]
            numbers = state_matching.match_similar(group, texts, threshold)
        columns.append(numbers.tolist())

    observations = table.column("observation")
    past: dict[int, tuple[int, ...]] = {}  # of each rollout, its latest pairs
    keys: list[tuple] = []
    for number, (run, state, action, after) in enumerate(zip(table.rollout.tolist(), *columns, strict=True)):
        before = past.get(run, (-1 - state,))
        past[run] = (*(before if run in past else ()), action, after)[-2 * history :]
        keys.append((before, action, past[run]) if observations[number] is not None else (number,))
    # Numbers of actions and observations are those of their group, so keys of two groups differ.
    edge = state_matching.number_keys(keys, len(table.rollout))

    own = broadcast(table, advantage)
    return own - _subtract_mean(edge, own)


@reads_columns("step_reward", "partner_reward")
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
    Return advantage + A_t + beta c_t B_t, A the step's own and B the partner's: return minus the others' mean at t.

    (M,). c_t = discount * (sum over k < t of discount^(t - k) A_k), as in the code, whose text leaves out the first
    factor. `inclusive` sums over k <= t, without that factor: the variant of the paper's first version. Reads
    `step_reward` and `partner_reward`, of both players of the game; others are those of the group.
    """
    # t of each step: its place in the order by rollouts, minus the place where its rollout begins.
    order, sizes = np.argsort(table.rollout, kind="stable"), np.bincount(table.rollout)
    t = np.empty(len(table.rollout), np.int64)
    t[order] = np.arange(len(t)) - (np.cumsum(sizes) - sizes)[table.rollout[order]]

    # Steps at the same t of a group are compared: each with the mean of the others, 0 where there is no other.
    _, place = np.unique(np.stack([table.step_group, t]), axis=1, return_inverse=True)
    place = place.reshape(-1)  # numpy 2.0 keeps the axis
    counts = np.bincount(place)

    def leave_one_out(column: str) -> Array:
        values = discounted_returns(table, table.column(column), gamma)
        return _subtract_mean(place, values) * (counts / np.maximum(1, counts - 1))[place]

    own, partner = leave_one_out("step_reward"), leave_one_out("partner_reward")
    shaped = shaped_by_partner(own, partner, table.rollout, beta, discount, inclusive)
    return broadcast(table, advantage) + shaped


def shaped_by_partner(
    own: Array, partner: Array, rollout: NDArray[np.int64], beta: float, discount: float, inclusive: bool = False
) -> Array:
    """Return own + beta c partner, with c of `aligned`: (M,)."""
    # past = sum over k <= t of discount^(t - k) A_k, updated step by step for each rollout.
    past: dict[int, float] = {}
    weight = np.zeros(len(own))
    for i, (run, value) in enumerate(zip(rollout.tolist(), own.tolist(), strict=True)):
        before = discount * past.get(run, 0.0)
        past[run] = before + value
        weight[i] = past[run] if inclusive else discount * before
    return own + beta * weight * partner


def discounted_returns(table: Table, reward: Array, gamma: float) -> Array:
    """Return G_t = r_t + gamma G_(t+1) of each step: (M,)."""
    # From the last step to the first; steps of several rollouts may alternate.
    latest = [0.0] * len(table)
    result = np.zeros(len(reward))
    for i in range(len(reward) - 1, -1, -1):
        run = table.rollout[i]
        latest[run] = result[i] = reward[i] + gamma * latest[run]
    return result


def _subtract_mean(key: NDArray[np.int64], values: Array) -> Array:
    """Return values minus the mean of those with the same key, exactly 0 where all of them are equal: (M,)."""
    # Equality is tested on the values, as the mean of equal floats can differ from them by rounding.
    size = int(key.max()) + 1 if len(key) else 0
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, key, values)
    np.maximum.at(high, key, values)
    return np.where((low == high)[key], 0.0, values - compute_group_means(key, values, size)[key])
