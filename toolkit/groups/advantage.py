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
    zero                nothing at group level: for ablations

But for the whitened ones, all are exactly 0 in a group whose rewards are exactly equal, whatever their rounding; a
group of one is such a group (verl gives it its reward). `length` (N,) is how many tokens the policy wrote in a rollout.
"""

import numpy as np
from numpy.typing import NDArray

from toolkit.groups.table import Table, group_mean, reads


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
