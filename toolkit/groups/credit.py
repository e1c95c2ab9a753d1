"""
Axis 6, credit: what each step of a rollout gets of its advantage. Table, (N,) -> (M,)

    broadcast      every step the advantage of its rollout                          GRPO (arXiv 2402.03300)
    action_wise    the same, plus what single steps did better than the group's     HRPO (arXiv 2506.08507)
"""

import numpy as np
from numpy.typing import NDArray

from toolkit.groups.table import Table, group_mean, reads


def broadcast(table: Table, advantage: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M,) the advantage of the rollout, for each of its steps."""
    return advantage[table.rollout]


@reads("step_reward")
def action_wise(table: Table, advantage: NDArray[np.float64], *, beta: float = 1.0) -> NDArray[np.float64]:
    """
    (M,) advantage + beta * (step reward - mean step reward of the group).

    Reads the column `step_reward` (M,). The paper names the two levels; how they are joined is our reading.
    """
    step = table.column("step_reward")
    means = group_mean(table.step_group, step, table.groups)
    return broadcast(table, advantage) + beta * (step - means[table.step_group])
