"""
Axis 4, keep: which rollouts go into the update. Table -> (N,) bool

    everything         all
    mixed              groups whose rewards are not all equal         DAPO's dynamic sampling (arXiv 2503.14476)
    imperfect          groups that are not all at the best reward     NGRPO (arXiv 2509.18851)
    mixed_or_stored    mixed groups, and what a buffer gave           Skywork R1V2 (arXiv 2504.16656)
"""

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.groups.table import Table, reads


def everything(table: Table) -> NDArray[np.bool_]:
    """(N,) true."""
    return np.ones(len(table), bool)


def mixed(table: Table) -> NDArray[np.bool_]:
    """(N,) whether the rewards of the group differ: exact inequality, never a look at the mean."""
    return ~table.dead[table.group]


def imperfect(table: Table, *, best: float = 1.0) -> NDArray[np.bool_]:
    """(N,) whether any reward of the group is below `best`: groups that are all wrong stay."""
    low = np.full(table.groups, np.inf)
    np.minimum.at(low, table.group, table.reward)
    return (low < best)[table.group]


@reads("stored")
def mixed_or_stored(table: Table) -> NDArray[np.bool_]:
    """(N,) as `mixed`, and rollouts of earlier steps, whose column `stored` is not NaN."""
    return mixed(table) | ~np.isnan(table.column("stored"))
