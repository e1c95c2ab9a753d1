"""
Axis 3, shape: the reward that is compared, made of the one that was given. Table -> (N,)

    raw      as it is

Shaping makes a new array; what the reward said stays in the table.
"""

import numpy as np
from numpy.typing import NDArray

from toolkit.groups.table import Table


def raw(table: Table) -> NDArray[np.float64]:
    """(N,) the reward."""
    return table.reward
