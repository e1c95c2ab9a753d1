"""
Axis 7, weigh: each token's share of the loss. Batch -> (B, T), float32

It is computed on the whole batch, before any slice is cut: a mean of means over slices is no mean. The loss is the sum
of values times weights.

    per_sequence    mean over the tokens of a sequence, then over sequences         GRPO (arXiv 2402.03300)
    per_token       mean over all tokens of the batch                               DAPO (arXiv 2503.14476)
    summed          sum over the tokens of a sequence, then mean over sequences     LUSPO (arXiv 2602.05261)
    constant        sum over all tokens, by B times a constant length               Dr. GRPO (arXiv 2503.20783)
    per_group       mean over tokens, over the sequences of a group, over groups    DRPO (arXiv 2510.04474)
    per_share       the same, where sequences of a group have shares                M-GRPO (arXiv 2511.13288)
    curriculum      per sequence, by difficulty and variety of the group            PC-GRPO (arXiv 2512.14944)
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgewise.learner.methods.batch import Batch
from edgewise.toolkit.groups.table import reads


def per_sequence(batch: Batch) -> Tensor:
    """1 / (B |o_i|) for each token of sequence i; a reply without tokens counts in B."""
    return batch.mask / (len(batch) * batch.lengths.clamp(min=1))[:, None]


def per_token(batch: Batch) -> Tensor:
    """1 / (tokens of the batch) for each: long replies count more."""
    return batch.mask / batch.mask.sum().clamp(min=1)


def summed(batch: Batch) -> Tensor:
    """1 / B for each token: the log-probability of a whole reply is one value."""
    return batch.mask / max(1, len(batch))


def constant(batch: Batch, *, limit: int = 3000) -> Tensor:
    """1 / (B limit) for each token, where `limit` is the most tokens that a reply may have, whatever it has."""
    return batch.mask / (max(1, len(batch)) * limit)


def per_group(batch: Batch) -> Tensor:
    """1 / (P n |o_i|) for each token of sequence i, n sequences in its group, P groups."""
    return _in_groups(batch, torch.ones(len(batch), dtype=torch.float64))


@reads("share")
def per_share(batch: Batch) -> Tensor:
    """u_i / (P |o_i| (sum of u in the group)) for each token of sequence i, u its `share`, P groups."""
    return _in_groups(batch, batch.column("share").double())


@reads("choice", "reward", "rollout")
def curriculum(batch: Batch, *, lam: float = 4.0, gamma: float = 0.5, options: int | None = None) -> Tensor:
    """
    4 d (1 - d) v^gamma / (B |o_i|) for each token of sequence i, d the mean reward of its group, v its variety.

    `lam` is the 4. v is (different answers - 1) / (n - 1) for n rollouts; with `options`, the entropy of the answers
    over ln options. Reads `reward`, `rollout` and `choice` (B,), a number for each answer, the same in each step of a
    rollout, which counts once. 0 where all are right, wrong, or answer the same.
    """
    run, choice, reward = (batch.column(name).double().numpy() for name in ("rollout", "choice", "reward"))
    _, first = np.unique(run, return_index=True)
    found = torch.zeros(len(batch), dtype=torch.float64)
    for number in batch.group.unique().tolist():
        mine = batch.group == number
        once = first[mine.numpy()[first]]
        d = float(reward[once].mean())
        found[mine] = lam * d * (1 - d) * _variety(choice[once], options) ** gamma
    return per_sequence(batch) * found[:, None].float()


def _variety(choice: NDArray[np.float64], options: int | None) -> float:
    """How far answers differ, from 0 to 1; see `curriculum`."""
    _, counts = np.unique(choice, return_counts=True)
    if options is None:
        return (len(counts) - 1) / max(1, len(choice) - 1)
    share = counts / counts.sum()
    return min(1.0, float(-(share * np.log(share)).sum()) / math.log(max(2, options)))


def _in_groups(batch: Batch, share: Tensor) -> Tensor:
    groups, number = batch.group.unique(return_inverse=True)
    total = torch.zeros(len(groups), dtype=torch.float64).index_add(0, number, share)[number]
    each = share / (total.clamp(min=1e-300) * batch.lengths.clamp(min=1) * max(1, len(groups)))
    return batch.mask * each[:, None].float()
