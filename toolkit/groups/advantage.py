"""
Axis 5, advantage: how much better each rollout is than its group. Table -> (N,)

    centred             reward - mean                                        Dr. GRPO (arXiv 2503.20783)
    standardised        (reward - mean) / (std + eps)                        GRPO (arXiv 2402.03300)
    leave_one_out       reward - mean of the others                          RLOO (arXiv 2402.14740)
    length_weighted     reward - mean by length                              OPO (arXiv 2505.23585)
    amplified           centred, by the share of groups with signal          GPG (arXiv 2504.02546)
    best_only           the lead of the best over the second best            pass@k (arXiv 2503.19595)
    whitened            (reward - mean) / std of the batch                   REINFORCE++ (arXiv 2501.03262)
    centred_whitened    the same of centred rewards                          REINFORCE++-baseline
    calibrated          standardised beside a virtual best reward            NGRPO (arXiv 2509.18851)
    decoupled           right ones by length, wrong ones evenly              DRPO (arXiv 2510.04474)
    referred            beside a reference answer                            GRAO (arXiv 2508.07750)
    by_hardness         centred, more where most are wrong                   Confucius3-Math (arXiv 2506.18330)
    distinctive         standardised, 0 for look-alikes                      DaGRPO (arXiv 2512.06337)
    sharpened           standardised, more for unlikely good ones            XRPO (arXiv 2510.06672)
    stored              standardised, or the advantage of the buffer         Skywork R1V2 (arXiv 2504.16656)
    shared              standardised, each by its share                      M-GRPO (arXiv 2511.13288)
    by_steps            standardised over steps                              GiGPO's code (arXiv 2505.10978)
    zero                nothing at group level: for ablations

N rollouts, M steps, G groups, n rollouts of one group; R reward, A advantage. Columns, all (N,): `length`, the tokens
that the policy wrote in a rollout; `mean_logp`, the mean log-probability of one of them.

In a group whose rewards are exactly equal, all but the whitened parts are exactly 0, whatever the rounding of its mean.
A group of one is such a group (verl gives it its reward). `calibrated` is 0 only where all rewards are the best.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.errors import RewardError
from edgewise.toolkit.groups.table import Table, compute_group_means, reads_columns

Array = NDArray[np.float64]


def zero(table: Table) -> Array:
    """Return zeros: (N,)."""
    return np.zeros(len(table))


def centred(table: Table) -> Array:
    """Return the reward minus the mean of its group: (N,)."""
    return _subtract_baseline(table, compute_group_means(table.group, table.reward, table.n_groups))


def standardised(table: Table, *, eps: float = 1e-4, ddof: int = 1) -> Array:
    """Return the centred reward over the group's standard deviation + `eps`; `ddof` 1 divides by n - 1: (N,)."""
    # A = (R - mean) / std, section 4.1.2 of the paper, without eps. TRL adds 1e-4, verl 1e-6; both divide by n - 1.
    centred_reward = centred(table)
    return centred_reward / _group_deviation(table, centred_reward, eps, ddof)


def leave_one_out(table: Table) -> Array:
    """Return the reward minus the mean of the others of its group: (N,)."""
    # R_i - sum_{j != i} R_j / (n - 1) = n / (n - 1) (R_i - mean).
    counts = np.bincount(table.group, minlength=table.n_groups)
    return centred(table) * (counts / np.maximum(1, counts - 1))[table.group]


@reads_columns("length")
def length_weighted(table: Table) -> Array:
    """Return the reward minus the mean of its group by length: (N,)."""
    # b* = sum l_i R_i / sum l_i, the baseline of least variance if the squared gradient norm of a reply grows with its
    # length l, as it does for a sum over tokens.
    return _subtract_weighted_mean(table, table.column("length"))[0]


def amplified(table: Table, *, by_score: bool = False) -> Array:
    """
    Return the centred reward times N over the number of rollouts whose group has signal: (N,).

    `by_score` counts rollouts whose reward is not 0 instead, as verl does, for which all-right groups are signal.
    """
    # A mean over the batch is diluted by groups with zero advantage; the factor makes it a mean over those with signal.
    has_signal = table.reward != 0 if by_score else ~table.has_equal_rewards[table.group]
    return centred(table) * len(table) / max(1, int(has_signal.sum()))


def best_only(table: Table, *, eps: float = 1e-6, scaled: bool = True) -> Array:
    """
    Return, for the best of a group, its reward minus the second best's; 0 for others and where two are best: (N,).

    `scaled` divides by the group's standard deviation + `eps`, as verl does. The plain difference is the paper's
    estimate of the gradient of pass@k, each reply against the best of the others.
    """
    # Sorted by group, then reward: the best is the last of its group, the second best stands just before it.
    order = np.lexsort((table.reward, table.group))
    group, reward = table.group[order], table.reward[order]
    is_last = np.append(group[1:] != group[:-1], True)[: len(table)]
    has_second = np.insert(group[1:] == group[:-1], 0, False)[: len(table)]
    best = is_last & has_second

    lead = np.zeros(len(table))
    lead[order[best]] = (reward - np.roll(reward, 1))[best]
    return lead / _group_deviation(table, centred(table), eps, 1) if scaled else lead


@reads_columns("length")
def whitened(table: Table, *, eps: float = 1e-8) -> Array:
    """
    Return the reward minus the mean of the batch, over its standard deviation, both over tokens: (N,).

    A long reply counts more, as in verl; `eps` is added to the variance. All tokens have the return of their rollout:
    the discount is 1, as in the paper.
    """
    return _whiten_by_tokens(table.reward, table.column("length"), eps)


@reads_columns("length")
def centred_whitened(table: Table, *, eps: float = 1e-8) -> Array:
    """Return the same as `whitened`, of the reward minus the mean of its group: (N,)."""
    return _whiten_by_tokens(centred(table), table.column("length"), eps)


def calibrated(table: Table, *, best: float = 1.0, virtual: int = 1, eps: float = 1e-6, ddof: int = 1) -> Array:
    """
    Return reward minus mean, over std + `eps`, of a group to which `virtual` rewards of `best` are added: (N,).

    A group that is all wrong is pushed down as a whole; a group of one gets 0. Raises RewardError for a reward above
    `best`.
    """
    if len(table) and table.reward.max() > best:
        raise RewardError(
            f"A reward of {table.reward.max():g} is above the best one of {best:g}, which this method adds to every "
            "group: say what the best one is with plan.best, keep.best and advantage.best, the same for all three, or "
            "shape the reward."
        )
    # Mean and deviation over n + virtual rewards. The paper's equation 6 divides by all of them (ddof 0), its code
    # by one less.
    group, counts = table.group, np.bincount(table.group, minlength=table.n_groups)
    size = counts + virtual
    means = (np.bincount(group, table.reward, table.n_groups) + virtual * best) / np.maximum(1, size)
    above_mean = table.reward - means[group]
    squares = np.bincount(group, above_mean**2, table.n_groups) + virtual * (best - means) ** 2
    deviation = np.sqrt(squares / np.maximum(1, size - ddof)) + eps

    is_zero = (table.reward == best) | (counts[group] == 1) | (virtual == 0)
    is_zero &= table.has_equal_rewards[group]
    return np.where(is_zero, 0.0, above_mean) / np.where(is_zero, 1.0, deviation[group])


@reads_columns("length")
def decoupled(table: Table, *, limit: int = 8192, lam: float = 0.1) -> Array:
    """
    Return exp(- length / (lam limit)) over its sum for right answers, - 1 / n for the n wrong ones of the group: (N,).

    Length never touches wrong answers; length and `limit` are those of whole rollouts. Right is a reward of exactly 1,
    wrong of 0. Other rewards, replies without tokens, and groups that lack one kind get 0, as in the authors' code.
    lam = inf weighs right answers evenly.
    """
    length, group = table.column("length"), table.group
    right, wrong = ((table.reward == kind) & (length > 0) for kind in (1.0, 0.0))

    # The shortest right answer of a group is subtracted before exp: weights stay the same, and none underflows.
    shortest = np.full(table.n_groups, np.inf)
    np.minimum.at(shortest, group[right], length[right])
    weight = np.zeros(len(table))
    weight[right] = np.exp(-(length - shortest[group])[right] / (lam * limit))

    total = np.bincount(group, weight, table.n_groups)
    n_wrong = np.bincount(group, wrong, table.n_groups)
    has_both = ((total > 0) & (n_wrong > 0))[group]
    return has_both * (weight / np.maximum(total, 1e-300)[group] - wrong / np.maximum(1, n_wrong)[group])


@reads_columns("anchor")
def referred(table: Table, *, beta: float = 0.5, lam: float = 0.6, eps: float = 1e-8, pooled: bool = True) -> Array:
    """
    Return the factor of the mean log-probability J of each answer in GRAO's objective, times the group size: (N,).

    Reads `anchor` (N,), 1 for the reference answer y. `pooled` includes y in the group's statistics. Without it the J_y
    of the last term drops out, and y is far off where own answers are equal, which gives 0 here.
    """
    # The objective, with means over the policy's own answers and A standardised by n:
    #     mean(A J) + beta A_y J_y + lam mean(A (J - J_y))
    # so J_i has the factor (1 + lam) A_i / n, and J_y the factor beta A_y - lam mean(A).
    group, own = table.group, table.column("anchor") == 0
    members = table if pooled else table.select_rollouts(own)
    means = compute_group_means(members.group, members.reward, table.n_groups)
    above_mean = table.reward - means[group]
    squares = compute_group_means(members.group, (members.reward - means[members.group]) ** 2, table.n_groups)

    # Groups at the end of the table may have lost all their rollouts with the reference answers.
    no_signal = np.append(members.has_equal_rewards, np.ones(table.n_groups - members.n_groups, bool))
    advantage = np.where(no_signal[group], 0.0, above_mean)
    advantage = advantage / np.where(no_signal, 1.0, np.sqrt(squares) + eps)[group]

    size, n_own = (np.bincount(x, minlength=table.n_groups)[group].astype(np.float64) for x in (group, group[own]))
    mean = compute_group_means(group[own], advantage[own], table.n_groups)[group]
    of_own = (1 + lam) * advantage / np.maximum(1, n_own)
    return size * np.where(own, of_own, beta * advantage - lam * mean)


def by_hardness(
    table: Table, *, alpha: float = -0.256, offset: float = 1.256, wrong: float = 0.0, right: float = 1.0
) -> Array:
    """
    Return (R - m) (`alpha` m + `offset`), m the mean of the group: (N,).

    R is the reward on a scale of -1 for `wrong` to 1 for `right`, as in the paper; no deviation. The factor is up to
    1.5 where nearly all are wrong.
    """
    # With the defaults the factor is 1.256 - 0.256 m: 1.512 at m = -1 (all wrong), 1 at m = 1 (all right).
    signed = (2 * table.reward - right - wrong) / (right - wrong)
    means = compute_group_means(table.group, signed, table.n_groups)
    advantage = (signed - means[table.group]) * (alpha * means + offset)[table.group]
    return np.where(table.has_equal_rewards[table.group], 0.0, advantage)


@reads_columns("trait")
def distinctive(table: Table, *, tau: float = 0.1, full: float = 1.0, eps: float = 1e-6, ddof: int = 1) -> Array:
    """
    Return the same as `standardised`, but 0 for a rollout that is within `tau` of all that are of the other kind: (N,).

    A reconstruction: the paper masks pairs of right (reward of `full`) and wrong ones that are too alike, its score and
    threshold are not known. Reads `trait` (N,), which is infinite for a reference answer: it is like no other.
    """
    # A rollout is within tau of all of the other kind if it is within tau of their lowest and highest trait.
    trait, right = table.column("trait"), table.reward >= full
    lowest = np.full((2, table.n_groups), np.inf)  # [wrong or right, group]
    highest = np.full((2, table.n_groups), -np.inf)
    np.minimum.at(lowest, (right.astype(int), table.group), trait)
    np.maximum.at(highest, (right.astype(int), table.group), trait)

    other = (~right).astype(int), table.group
    with np.errstate(invalid="ignore"):  # inf - inf, where a group lacks the other kind
        differs = (trait - lowest[other] >= tau) | (highest[other] - trait >= tau)
    return np.where(differs, standardised(table, eps=eps, ddof=ddof), 0.0)


@reads_columns("mean_logp")
def sharpened(table: Table, *, lam: float = 2.5, kappa: float = 0.5, eps: float = 1e-6, ddof: int = 1) -> Array:
    """
    Return A = `standardised`, and where A > 0 add min(max(lam (1 - e^(s - mean s)), 0), kappa A): (N,).

    s is the mean log-probability of a token, its mean that of the group.
    """
    advantage, logp = standardised(table, eps=eps, ddof=ddof), table.column("mean_logp")
    novelty = 1 - np.exp(logp - compute_group_means(table.group, logp, table.n_groups)[table.group])
    # Where A <= 0 the cap kappa A would push A further down, so it is 0 there.
    return advantage + np.minimum(np.maximum(lam * novelty, 0.0), kappa * np.maximum(advantage, 0.0))


@reads_columns("stored")
def stored(table: Table, *, eps: float = 1e-6, ddof: int = 1) -> Array:
    """Return `standardised`, or the earlier advantage of a replayed rollout, column `stored`, NaN for others: (N,)."""
    earlier = table.column("stored")
    return np.where(np.isnan(earlier), standardised(table, eps=eps, ddof=ddof), earlier)


@reads_columns("share")
def shared(table: Table, *, eps: float = 1e-8) -> Array:
    """
    Return reward minus mean, over std + `eps`, where each rollout counts by its `share` (N,): (N,).

    The variance divides by the sum of shares. Shares of 1 / d for the d calls of a planner's run make every such run
    count the same, however much it delegates.
    """
    # mean = sum w R / sum w, variance = sum w (R - mean)^2 / sum w, with the shares w.
    above_mean, squares, total = _subtract_weighted_mean(table, table.column("share"))
    deviation = np.sqrt(squares / total) + eps
    return above_mean / np.where(table.has_equal_rewards, 1.0, deviation)[table.group]


def by_steps(table: Table, *, eps: float = 1e-6, scaled: bool = True) -> Array:
    """
    Return reward minus mean, over std if `scaled`, both over the steps of the group: (N,).

    Long rollouts count more, as in GiGPO's code by default; its paper's mean is over rollouts.
    """
    # Every step has the reward of its rollout, so a rollout counts as often as it has steps.
    steps = np.bincount(table.rollout, minlength=len(table))
    above_mean, squares, total = _subtract_weighted_mean(table, steps)
    if not scaled:
        return above_mean
    deviation = np.sqrt(squares / np.maximum(1, total - 1)) + eps
    return above_mean / np.where(table.has_equal_rewards, 1.0, deviation)[table.group]


def _subtract_baseline(table: Table, baseline: Array) -> Array:
    """Return the reward minus a baseline (G,), exactly 0 in groups of equal rewards: (N,)."""
    return np.where(table.has_equal_rewards[table.group], 0.0, table.reward - baseline[table.group])


def _subtract_weighted_mean(table: Table, weight: NDArray[Any]) -> tuple[Array, Any, Any]:
    """Return the reward minus the group's weighted mean (N,), and the sums of w (R - mean)^2 and of w: (G,)."""
    total = np.maximum(np.bincount(table.group, weight, table.n_groups), 1e-300)
    mean = np.bincount(table.group, weight * table.reward, table.n_groups) / total
    above_mean = _subtract_baseline(table, mean)
    return above_mean, np.bincount(table.group, weight * above_mean**2, table.n_groups), total


def _group_deviation(table: Table, centred_reward: Array, eps: float, ddof: int) -> Array:
    """Return the group's standard deviation + `eps`, 1 in groups of equal rewards: (N,)."""
    counts = np.bincount(table.group, minlength=table.n_groups)
    squares = np.bincount(table.group, centred_reward**2, table.n_groups)
    deviation = np.sqrt(squares / np.maximum(1, counts - ddof)) + eps
    return np.where(table.has_equal_rewards, 1.0, deviation)[table.group]


def _whiten_by_tokens(values: Array, length: Array, eps: float) -> Array:
    """Return values (N,) minus their mean over their deviation, where each counts once per token."""
    total = length.sum()
    if total < 2 or values.min() == values.max():
        return np.zeros(len(values))
    above_mean = values - (length * values).sum() / total
    return above_mean / np.sqrt((length * above_mean**2).sum() / (total - 1) + eps)
