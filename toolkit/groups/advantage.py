"""
Axis 5, advantage: how much better each rollout did than its group. Table -> (N,)

    centred         reward - mean                   Dr. GRPO (arXiv 2503.20783)
    standardised    (reward - mean) / (std + eps)   GRPO (arXiv 2402.03300)
    zero            nothing at group level: for ablations

All are exactly 0 in a group whose rewards are exactly equal, whatever their rounding.
"""

import numpy as np
from numpy.typing import NDArray

from toolkit.groups.table import Table, group_mean


def zero(table: Table) -> NDArray[np.float64]:
    """(N,) zeros."""
    return np.zeros(len(table))


def centred(table: Table) -> NDArray[np.float64]:
    """(N,) the reward minus the mean of its group."""
    means = group_mean(table.group, table.reward, table.groups)
    return np.where(table.dead[table.group], 0.0, table.reward - means[table.group])


def standardised(table: Table, *, eps: float = 1e-4, ddof: int = 1) -> NDArray[np.float64]:
    """(N,) the centred reward over the group's standard deviation + `eps`; `ddof` 1 divides by one less."""
    found = centred(table)
    counts = np.bincount(table.group, minlength=table.groups)
    squares = np.bincount(table.group, found**2, table.groups)
    return found / (np.sqrt(squares / np.maximum(1, counts - ddof)) + eps)[table.group]
