"""
Axis 3, shape: the reward that is compared, computed from the reward of the task. Table -> (N,)

    raw         unchanged
    overlong    less for replies near the limit of length     DAPO (arXiv 2503.14476), eq. 13
    less_kl     less for leaving the reference model          RLOO (arXiv 2402.14740), REINFORCE++ (arXiv 2501.03262)
    unlikely    less for replies that were likely anyway      Rewarding the Unlikely (arXiv 2506.02355)

Each part returns a new array; the reward of the table stays. N rollouts.
"""

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.groups.table import Table, reads_columns


def raw(table: Table) -> NDArray[np.float64]:
    """Return the reward unchanged: (N,)."""
    return table.reward


@reads_columns("longest")
def overlong(table: Table, *, limit: int = 20480, buffer: float = 0.2, factor: float = 1.0) -> NDArray[np.float64]:
    """
    Return the reward, minus up to `factor` where a reply comes near to `limit` tokens: (N,).

    The penalty grows linearly over the last share `buffer` of the limit. Reads `longest` (N,), the tokens of a
    rollout's longest reply.
    """
    # DAPO, eq. 13: with L_max = limit and L_cache = buffer limit, the penalty is
    # ((L_max - L_cache) - length) / L_cache between the two, and -1 above L_max. The paper has 4096 of 20480 tokens.
    # verl lets it grow above L_max; the paper does not, nor does this.
    room = buffer * limit
    share = (table.column("longest") - (limit - room)) / room
    return table.reward - factor * np.clip(share, 0.0, 1.0)


@reads_columns("kl")
def less_kl(table: Table, *, beta: float = 0.05) -> NDArray[np.float64]:
    """
    Return reward - beta * kl: (N,).

    Reads `kl` (N,): log-probability minus the reference model's, summed over a rollout's tokens.
    """
    # The KL penalty in the reward, as in RLHF with PPO: r - beta log(pi / pi_ref). GRPO has it in the loss instead.
    return table.reward - beta * table.column("kl")


@reads_columns("mean_logp")
def unlikely(table: Table, *, beta: float = 0.25, first: int = 1) -> NDArray[np.float64]:
    """
    Return reward * (1 - beta (G - rank) / G), with rank `first` for the most likely of the G of a group: (N,).

    Likelihood is the mean log-probability of a token under the policy that sampled it, `mean_logp` (N,). Of equal
    ones the earlier counts as less likely.
    """
    # The authors' code counts ranks from 1, as the default here; the paper's text has 0 as well.
    order = np.lexsort((-np.arange(len(table)), -table.column("mean_logp"), table.group))
    counts = np.bincount(table.group, minlength=table.n_groups)

    # Rank within the group: the place in the sorted order, minus the place where the group begins.
    rank = np.empty(len(table))  # (N,) 0 for the most likely
    rank[order] = np.arange(len(table)) - (np.cumsum(counts) - counts)[table.group[order]]
    size = counts[table.group]
    return table.reward * (1 - beta * (size - rank - first) / size)
