"""
Axis 4, keep: which rollouts go into the update. Table -> (N,) bool

    everything   all
    mixed        groups whose rewards are not all equal       DAPO's dynamic sampling (arXiv 2503.14476)
"""

import numpy as np
from numpy.typing import NDArray

from toolkit.groups.table import Table


def everything(table: Table) -> NDArray[np.bool_]:
    """(N,) true."""
    return np.ones(len(table), bool)


def mixed(table: Table) -> NDArray[np.bool_]:
    """(N,) whether the rewards of the group differ: exact inequality, never a look at the mean."""
    return ~table.dead[table.group]
