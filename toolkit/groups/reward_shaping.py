"""
Axis 3, shape: the reward that is compared, made of the one that was given. Table -> (N,)

    raw         as it is
    overlong    less for replies near the limit of length     DAPO (arXiv 2503.14476), eq. 13
    less_kl     less for leaving the reference model          RLOO (arXiv 2402.14740), REINFORCE++ (arXiv 2501.03262)
    unlikely    less for replies that were likely anyway    Rewarding the Unlikely (arXiv 2506.02355)

Shaping makes a new array; what the reward said stays in the table.
"""

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.groups.table import Table, reads


def raw(table: Table) -> NDArray[np.float64]:
    """(N,) the reward."""
    return table.reward


@reads("longest")
def overlong(
    table: Table, *, limit: int = 20480, buffer: float = 0.2, factor: float = 1.0
) -> NDArray[np.float64]:
    """
    (N,) the reward, minus up to `factor` where a reply comes near to `limit` tokens.

    The penalty grows evenly over the last `buffer` of the limit: 4096 of 20480 tokens in the paper. Beyond the limit
    it stays, as in the paper; verl lets it grow. Reads `longest` (N,), the tokens of a rollout's longest reply.
    """
    room = buffer * limit
    share = (table.column("longest") - (limit - room)) / room
    return table.reward - factor * np.clip(share, 0.0, 1.0)


@reads("kl")
def less_kl(table: Table, *, beta: float = 0.05) -> NDArray[np.float64]:
    """
    (N,) reward - beta * kl.

    Reads `kl` (N,): the sum over a rollout's tokens of log-probability minus the reference model's.
    """
    return table.reward - beta * table.column("kl")


@reads("mean_logp")
def unlikely(table: Table, *, beta: float = 0.25, first: int = 1) -> NDArray[np.float64]:
    """
    (N,) reward * (1 - beta (G - rank) / G), where rank is `first` for the most likely of the G of a group.

    Likely by the mean log-probability of a token under the policy that drew it, `mean_logp` (N,); of equal ones the
    earlier counts as less likely. The code counts ranks from 1, as here; the paper's text says 0 as well.
    """
    order = np.lexsort((-np.arange(len(table)), -table.column("mean_logp"), table.group))
    counts = np.bincount(table.group, minlength=table.groups)
    place = np.empty(len(table))  # of the most likely 0
    place[order] = np.arange(len(table)) - (np.cumsum(counts) - counts)[table.group[order]]
    size = counts[table.group]
    return table.reward * (1 - beta * (size - place - first) / size)
