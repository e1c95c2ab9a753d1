"""
Sampling of a set of agents, each with a probability of its own, given that the set is large enough: exactly.

With probabilities p [B, N] and R = min_size, the probability that at least r of the agents j, j + 1, ... are chosen is

    tail[j][r] = p_j tail[j + 1][r - 1] + (1 - p_j) tail[j + 1][r],    tail[j][0] = 1,    tail[N][r > 0] = 0

so P(set | at least R) = prod_j p_j^e_j (1 - p_j)^(1 - e_j) / tail[0][R] with e_j = 1 for the agents of the set. Agent j
is sampled with probability p_j tail[j + 1][r - 1] / tail[j][r], where r are still needed. Only arithmetic is used, so
arrays of numpy and tensors of torch both work, gradients included.

B states, N agents.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


def tail_probabilities(p: Any, max_size: int) -> list[list[Any]]:
    """Return tail[j][r], arrays or tensors [B], for j = 0 ... N and r = 0 ... max_size."""
    one = p[:, 0] * 0 + 1
    tails = [[one, *[one * 0] * max_size]]
    for j in reversed(range(p.shape[1])):
        later, p_j = tails[-1], p[:, j]
        tails.append([one, *(p_j * later[r - 1] + (1 - p_j) * later[r] for r in range(1, max_size + 1))])
    return tails[::-1]


def pick_subsets(p: Floats, min_size: Integers, uniform: Floats | None) -> Booleans:
    """Return a large enough set [B, N] for each row: sampled by uniform numbers [B, N], or the likeliest."""
    if uniform is None:
        # All above one half, filled up with the next ones.
        rank = np.argsort(np.argsort(-p, axis=1, kind="stable"), axis=1)
        return (p > 0.5) | (rank < min_size[:, None])
    tails = tail_probabilities(p, int(min_size.max(initial=0)))
    tail = np.array([[np.broadcast_to(x, len(p)) for x in row] for row in tails])  # [N + 1, R + 1, B]
    rows, needed = np.arange(len(p)), min_size.copy()
    chosen = np.zeros(p.shape, bool)
    for j in range(p.shape[1]):
        one_less = np.maximum(needed - 1, 0)
        p_chosen = p[:, j] * tail[j + 1, one_less, rows] / np.maximum(tail[j, needed, rows], 1e-300)
        chosen[:, j] = uniform[:, j] < p_chosen
        needed = np.where(chosen[:, j], one_less, needed)
    return chosen


def pick_category(p: Floats, uniform: Floats | None) -> Integers:
    """Return a column [B] for each row: sampled by uniform numbers [B], or the likeliest, of equals the first."""
    if uniform is None:
        return p.argmax(1)
    # The inverse distribution function; columns with p = 0 are never sampled.
    total = p.cumsum(1)
    return (total <= (uniform * total[:, -1])[:, None]).sum(1)
