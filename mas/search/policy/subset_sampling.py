"""
Choosing a set of agents, each with a probability of its own, given that there are at least so many: exactly.

With p (B, N) and R = least, the chance that at least r of the agents j, j + 1, ... are chosen is

    tail[j][r] = p_j tail[j + 1][r - 1] + (1 - p_j) tail[j + 1][r],    tail[j][0] = 1

so P(set | at least R) = prod p_j^e_j (1 - p_j)^(1 - e_j) / tail[0][R], and agent j is drawn with chance
p_j tail[j + 1][r - 1] / tail[j][r], where r are still needed. Only arithmetic is used on arrays, so numpy and torch
both go through, gradients included.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def tail_probabilities(p: Any, most: int) -> list[list[Any]]:
    """(N + 1) lists of (most + 1) arrays (B,): the chance of at least r among agents j and later."""
    one = p[:, 0] * 0 + 1
    table = [[one, *[one * 0] * most]]
    for j in reversed(range(p.shape[1])):
        last, yes = table[-1], p[:, j]
        table.append([one, *(yes * last[r - 1] + (1 - yes) * last[r] for r in range(1, most + 1))])
    return table[::-1]


def sample_subsets(
    p: NDArray[np.float64], least: NDArray[np.int64], uniform: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(B, N) one draw of each set, from uniform numbers (B, N)."""
    table = np.array(
        [[np.broadcast_to(x, len(p)) for x in row] for row in tail_probabilities(p, int(least.max(initial=0)))]
    )
    rows, need = np.arange(len(p)), least.copy()
    chosen = np.zeros(p.shape, bool)
    for j in range(p.shape[1]):
        fewer = np.maximum(need - 1, 0)
        chance = p[:, j] * table[j + 1, fewer, rows] / np.maximum(table[j, need, rows], 1e-300)
        chosen[:, j] = uniform[:, j] < chance
        need = np.where(chosen[:, j], fewer, need)
    return chosen


def likeliest_subsets(p: NDArray[np.float64], least: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(B, N) the most likely of the sets that are large enough: all above one half, topped up by the next."""
    rank = np.argsort(np.argsort(-p, axis=1, kind="stable"), axis=1)
    return (p > 0.5) | (rank < least[:, None])


@dataclass(frozen=True, slots=True)
class SampleMoves:
    """Choices by uniform numbers (B, N + 1): the first for the action, the rest for agents."""

    uniform: NDArray[np.float64]

    def one(self, p: NDArray[np.float64]) -> NDArray[np.int64]:
        """(B,) an action from each row of chances."""
        return sample_categorical(p, self.uniform[:, 0])

    def another(self, p: NDArray[np.float64]) -> NDArray[np.int64]:
        """(B,) an agent from each row of chances."""
        return sample_categorical(p, self.uniform[:, 1])

    def several(self, p: NDArray[np.float64], least: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(B, N) a set of agents from each row."""
        return sample_subsets(p, least, self.uniform[:, 1:])


@dataclass(frozen=True, slots=True)
class TakeLikeliest:
    """The likeliest choice each time."""

    def one(self, p: NDArray[np.float64]) -> NDArray[np.int64]:
        """(B,) the first of the highest chances of each row."""
        return p.argmax(1)

    another = one

    def several(self, p: NDArray[np.float64], least: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(B, N) the likeliest set of agents of each row."""
        return likeliest_subsets(p, least)


def sample_categorical(p: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """(B,) draws from the rows of p; what has no chance is never drawn."""
    total = p.cumsum(1)
    return (total <= (uniform * total[:, -1])[:, None]).sum(1)
