"""
Axis 4, keep: which rollouts go into the update. Table -> (N,) bool

    everything         all
    mixed              groups whose rewards are not all equal         DAPO's dynamic sampling (arXiv 2503.14476)
    imperfect          groups that are not all at the best reward     NGRPO (arXiv 2509.18851)
    mixed_or_stored    mixed groups, and rollouts of the buffer       Skywork R1V2 (arXiv 2504.16656)

N rollouts, G groups.
"""

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.groups.table import Table, reads_columns


def everything(table: Table) -> NDArray[np.bool_]:
    """Keep all rollouts: (N,) true."""
    # GRPO: groups without signal stay in the batch. They add zeros to the gradient and count in its mean.
    return np.ones(len(table), bool)


def mixed(table: Table) -> NDArray[np.bool_]:
    """Keep groups whose rewards differ, by exact inequality: (N,)."""
    # DAPO, eq. 11: 0 < number of right answers < G. The same rule covers graded rewards here.
    return ~table.has_equal_rewards[table.group]


def imperfect(table: Table, *, best: float = 1.0) -> NDArray[np.bool_]:
    """Keep groups with any reward below `best`, all-wrong ones included: (N,)."""
    # Unlike `mixed`, an all-wrong group stays: beside the virtual best reward (`calibrated`) it has an advantage.
    lowest = np.full(table.n_groups, np.inf)  # (G,)
    np.minimum.at(lowest, table.group, table.reward)
    return (lowest < best)[table.group]


@reads_columns("stored")
def mixed_or_stored(table: Table) -> NDArray[np.bool_]:
    """Keep rollouts as `mixed` does, and those of earlier steps, whose column `stored` is not NaN: (N,)."""
    # Replayed rollouts come one by one, so a group of them may have equal rewards.
    return mixed(table) | ~np.isnan(table.column("stored"))
