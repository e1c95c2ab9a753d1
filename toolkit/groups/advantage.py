"""
Axis 5, advantage: how much better each rollout did than its group. Table -> (N,)

    centred             reward - mean                                        Dr. GRPO (arXiv 2503.20783)
    standardised        (reward - mean) / (std + eps)                        GRPO (arXiv 2402.03300)
    leave_one_out       reward - mean of the others                          RLOO (arXiv 2402.14740)
    length_weighted     reward - mean by length                              OPO (arXiv 2505.23585)
    amplified           centred, by the share of groups with signal          GPG (arXiv 2504.02546)
    best_only           what the best has before the second best             pass@k (arXiv 2503.19595)
    whitened            (reward - mean) / std of the batch                   REINFORCE++ (arXiv 2501.03262)
    centred_whitened    the same of what is centred                          REINFORCE++-baseline
    calibrated          standardised beside a virtual best reward            NGRPO (arXiv 2509.18851)
    decoupled           right ones by length, wrong ones evenly              DRPO (arXiv 2510.04474)
    referred            beside a reference answer                            GRAO (arXiv 2508.07750)
    by_hardness         centred, more where most are wrong                   Confucius3-Math (arXiv 2506.18330)
    distinctive         standardised, 0 for look-alikes                      DaGRPO (arXiv 2512.06337)
    sharpened           standardised, more for unlikely good ones            XRPO (arXiv 2510.06672)
    stored              standardised, or what a buffer says                  Skywork R1V2 (arXiv 2504.16656)
    shared              standardised, each by its share                      M-GRPO (arXiv 2511.13288)
    by_steps            standardised over steps                              GiGPO's code (arXiv 2505.10978)
    zero                nothing at group level: for ablations

But for the whitened ones, all are exactly 0 in a group whose rewards are exactly equal, whatever their rounding; a
group of one is such a group (verl gives it its reward). `calibrated` is 0 only where all of them are the best there is.
`length` (N,) is how many tokens the policy wrote in a rollout, `mean_logp` (N,) the mean log-probability of one.
"""

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.errors import RewardError
from edgewise.toolkit.groups.table import Table, group_mean, reads


def zero(table: Table) -> NDArray[np.float64]:
    """(N,) zeros."""
    return np.zeros(len(table))


def centred(table: Table) -> NDArray[np.float64]:
    """(N,) the reward minus the mean of its group."""
    return _above(table, group_mean(table.group, table.reward, table.groups))


def standardised(table: Table, *, eps: float = 1e-4, ddof: int = 1) -> NDArray[np.float64]:
    """
    (N,) the centred reward over the group's standard deviation + `eps`; `ddof` 1 divides by one less.

    TRL adds 1e-4, verl 1e-6, and both divide by one less; the paper writes neither.
    """
    found = centred(table)
    return found / _deviation(table, found, eps, ddof)


def leave_one_out(table: Table) -> NDArray[np.float64]:
    """(N,) the reward minus the mean of the others of its group."""
    counts = np.bincount(table.group, minlength=table.groups)
    return centred(table) * (counts / np.maximum(1, counts - 1))[table.group]


@reads("length")
def length_weighted(table: Table) -> NDArray[np.float64]:
    """(N,) the reward minus the mean of its group by length: the baseline of least variance for a sum over tokens."""
    length = table.column("length")
    total = np.bincount(table.group, length, table.groups)
    means = np.bincount(table.group, length * table.reward, table.groups) / np.maximum(1.0, total)
    return _above(table, means)


def amplified(table: Table, *, by_score: bool = False) -> NDArray[np.float64]:
    """
    (N,) the centred reward times N over the number of rollouts whose group has signal.

    `by_score` counts rollouts whose reward is not 0 instead, as verl does, for which all-right groups are signal.
    """
    counted = table.reward != 0 if by_score else ~table.dead[table.group]
    return centred(table) * len(table) / max(1, int(counted.sum()))


def best_only(table: Table, *, eps: float = 1e-6, scaled: bool = True) -> NDArray[np.float64]:
    """
    (N,) for the best of a group its reward minus the second best's, 0 for all others and where two are best.

    `scaled` divides by the group's standard deviation + `eps`, as verl does; the plain difference is the paper's
    estimate of pass@k's gradient, each reply against the best of the others.
    """
    order = np.lexsort((table.reward, table.group))
    group, reward = table.group[order], table.reward[order]
    last = np.append(group[1:] != group[:-1], True)[: len(table)]
    paired = last & np.insert(group[1:] == group[:-1], 0, False)[: len(table)]
    found = np.zeros(len(table))
    found[order[paired]] = (reward - np.roll(reward, 1))[paired]
    return found / _deviation(table, centred(table), eps, 1) if scaled else found


@reads("length")
def whitened(table: Table, *, eps: float = 1e-8) -> NDArray[np.float64]:
    """
    (N,) the reward minus the mean of the batch, over its standard deviation, both over tokens.

    A long reply counts more, as in verl; var + `eps` is under the root. Tokens have the return of their rollout: the
    discount is 1, as in the paper.
    """
    return _whitened(table.reward, table.column("length"), eps)


@reads("length")
def centred_whitened(table: Table, *, eps: float = 1e-8) -> NDArray[np.float64]:
    """(N,) as `whitened`, of the reward minus the mean of its group."""
    return _whitened(centred(table), table.column("length"), eps)


def calibrated(
    table: Table, *, best: float = 1.0, virtual: int = 1, eps: float = 1e-6, ddof: int = 1
) -> NDArray[np.float64]:
    """
    (N,) reward minus mean, over std + `eps`, of a group to which `virtual` rewards of `best` are added.

    So that all of a group that is all wrong are pushed down. `ddof` 1 as in the code; the paper's equation has 0. A
    group of one gets 0. Raises RewardError where a reward is above `best`.
    """
    if len(table) and table.reward.max() > best:
        raise RewardError(
            f"A reward of {table.reward.max():g} is above the best one of {best:g}, which this method adds to every "
            "group: say what the best one is with plan.best, keep.best and advantage.best, the same for all three, or "
            "shape the reward."
        )
    group, counts = table.group, np.bincount(table.group, minlength=table.groups)
    size = counts + virtual
    means = (np.bincount(group, table.reward, table.groups) + virtual * best) / np.maximum(1, size)
    found = table.reward - means[group]
    squares = np.bincount(group, found**2, table.groups) + virtual * (best - means) ** 2
    deviation = np.sqrt(squares / np.maximum(1, size - ddof)) + eps
    nothing = table.dead[group] & ((table.reward == best) | (counts[group] == 1) | (virtual == 0))
    return np.where(nothing, 0.0, found) / np.where(nothing, 1.0, deviation[group])


@reads("length")
def decoupled(table: Table, *, limit: int = 8192, lam: float = 0.1) -> NDArray[np.float64]:
    """
    (N,) for each right answer exp(- length / (lam limit)), over the sum of all right ones; for each wrong one - 1 / n.

    n wrong ones in the group: length never touches them. Length and `limit` are those of whole rollouts. Right is a
    reward of exactly 1, wrong of 0; others, replies without tokens, and groups where one kind is missing get 0, as in
    the code. lam = inf weighs right ones evenly.
    """
    length, group = table.column("length"), table.group
    right, wrong = ((table.reward == kind) & (length > 0) for kind in (1.0, 0.0))
    shortest = np.full(table.groups, np.inf)
    np.minimum.at(shortest, group[right], length[right])
    weight = np.zeros(len(table))
    weight[right] = np.exp(-(length - shortest[group])[right] / (lam * limit))
    total, count = np.bincount(group, weight, table.groups), np.bincount(group, wrong, table.groups)
    both = ((total > 0) & (count > 0))[group]
    return both * (weight / np.maximum(total, 1e-300)[group] - wrong / np.maximum(1, count)[group])


@reads("anchor")
def referred(
    table: Table, *, beta: float = 0.5, lam: float = 0.6, eps: float = 1e-8, pooled: bool = True
) -> NDArray[np.float64]:
    """
    (N,) what multiplies the mean log-probability J of each answer in GRAO's objective, times the size of the group.

    mean(A J) + beta A_y J_y + lam mean(A (J - J_y)), means over own answers; A is standardised with n below. Reads
    `anchor` (N,), 1 for the reference answer y. `pooled` takes it into the statistics: without, the last term's J_y
    drops out, and y is far off where own answers are equal, which gives 0 here.
    """
    group, own = table.group, table.column("anchor") == 0
    counted = table if pooled else table.rows(own)
    means = group_mean(counted.group, counted.reward, table.groups)
    found = table.reward - means[group]
    squares = group_mean(counted.group, (counted.reward - means[counted.group]) ** 2, table.groups)
    dead = np.append(counted.dead, np.ones(table.groups - counted.groups, bool))
    found = np.where(dead[group], 0.0, found) / np.where(dead, 1.0, np.sqrt(squares) + eps)[group]
    size, answers = (
        np.bincount(x, minlength=table.groups)[group].astype(np.float64) for x in (group, group[own])
    )
    mean = group_mean(group[own], found[own], table.groups)[group]
    return size * np.where(own, (1 + lam) * found / np.maximum(1, answers), beta * found - lam * mean)


def by_hardness(
    table: Table, *, alpha: float = -0.256, offset: float = 1.256, wrong: float = 0.0, right: float = 1.0
) -> NDArray[np.float64]:
    """
    (N,) (R - m) (`alpha` m + `offset`), m the mean of the group: up to 1.5 times as much where nearly all are wrong.

    R is the reward on a scale of -1 for `wrong` to 1 for `right`, as in the paper; no deviation.
    """
    signed = (2 * table.reward - right - wrong) / (right - wrong)
    means = group_mean(table.group, signed, table.groups)
    found = (signed - means[table.group]) * (alpha * means + offset)[table.group]
    return np.where(table.dead[table.group], 0.0, found)


@reads("trait")
def distinctive(
    table: Table, *, tau: float = 0.1, full: float = 1.0, eps: float = 1e-6, ddof: int = 1
) -> NDArray[np.float64]:
    """
    (N,) as `standardised`, but 0 for a rollout that is within `tau` of all that are of the other kind.

    A reconstruction: the paper masks pairs of right (reward of `full`) and wrong ones that are too alike, its score and
    threshold are not known. Reads `trait` (N,), which is infinite for a reference answer: it is like no other.
    """
    trait, right = table.column("trait"), table.reward >= full
    low, high = np.full((2, table.groups), np.inf), np.full((2, table.groups), -np.inf)
    np.minimum.at(low, (right.astype(int), table.group), trait)
    np.maximum.at(high, (right.astype(int), table.group), trait)
    other = (~right).astype(int), table.group
    with np.errstate(invalid="ignore"):  # of a kind that nobody is of
        differs = (trait - low[other] >= tau) | (high[other] - trait >= tau)
    return np.where(differs, standardised(table, eps=eps, ddof=ddof), 0.0)


@reads("mean_logp")
def sharpened(
    table: Table, *, lam: float = 2.5, kappa: float = 0.5, eps: float = 1e-6, ddof: int = 1
) -> NDArray[np.float64]:
    """
    (N,) A = `standardised`, and where A > 0 it grows by min(max(lam (1 - e^(s - mean s)), 0), kappa A).

    s is the mean log-probability of a token, its mean that of the group. What is not better than its group keeps A:
    the cap would push it further down.
    """
    found, logp = standardised(table, eps=eps, ddof=ddof), table.column("mean_logp")
    novelty = 1 - np.exp(logp - group_mean(table.group, logp, table.groups)[table.group])
    return found + np.minimum(np.maximum(lam * novelty, 0.0), kappa * np.maximum(found, 0.0))


@reads("stored")
def stored(table: Table, *, eps: float = 1e-6, ddof: int = 1) -> NDArray[np.float64]:
    """(N,) `standardised`, but for rollouts of earlier steps the advantage of then: column `stored`, else NaN."""
    found = table.column("stored")
    return np.where(np.isnan(found), standardised(table, eps=eps, ddof=ddof), found)


@reads("share")
def shared(table: Table, *, eps: float = 1e-8) -> NDArray[np.float64]:
    """
    (N,) reward minus mean, over std + `eps`, where each rollout counts by its `share` (N,), with n below.

    Shares of 1 / d for the d calls of a planner's run: every such run counts the same, however much it delegates.
    """
    group, share = table.group, table.column("share")
    total = np.maximum(np.bincount(group, share, table.groups), 1e-300)
    found = _above(table, np.bincount(group, share * table.reward, table.groups) / total)
    deviation = np.sqrt(np.bincount(group, share * found**2, table.groups) / total) + eps
    return found / np.where(table.dead, 1.0, deviation)[group]


def by_steps(table: Table, *, eps: float = 1e-6, scaled: bool = True) -> NDArray[np.float64]:
    """
    (N,) reward minus mean, over std if `scaled`, both over the steps of the group, so that long rollouts count more.

    As GiGPO's code does by default; its paper's mean is over rollouts.
    """
    group, steps = table.group, np.bincount(table.rollout, minlength=len(table))
    total = np.bincount(group, steps, table.groups)
    found = _above(table, np.bincount(group, steps * table.reward, table.groups) / np.maximum(1, total))
    if not scaled:
        return found
    squares = np.bincount(group, steps * found**2, table.groups)
    return found / np.where(table.dead, 1.0, np.sqrt(squares / np.maximum(1, total - 1)) + eps)[group]


def _above(table: Table, baseline: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) the reward minus a baseline (groups,), exactly 0 in dead groups."""
    return np.where(table.dead[table.group], 0.0, table.reward - baseline[table.group])


def _deviation(table: Table, found: NDArray[np.float64], eps: float, ddof: int) -> NDArray[np.float64]:
    """(N,) the group's standard deviation + `eps`, of centred values; 1 in dead groups."""
    counts = np.bincount(table.group, minlength=table.groups)
    squares = np.bincount(table.group, found**2, table.groups)
    deviation = np.sqrt(squares / np.maximum(1, counts - ddof)) + eps
    return np.where(table.dead, 1.0, deviation)[table.group]


def _whitened(values: NDArray[np.float64], length: NDArray[np.float64], eps: float) -> NDArray[np.float64]:
    total = length.sum()
    if total < 2 or values.min() == values.max():
        return np.zeros(len(values))
    found = values - (length * values).sum() / total
    return found / np.sqrt((length * found**2).sum() / (total - 1) + eps)
