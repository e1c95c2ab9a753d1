"""
Axis 7, weigh: the weight of each token in the loss. Batch -> [B, T], float32.

Weights are computed on the whole batch before it is cut into slices, since a mean of the slices' means is another mean.
The loss is the sum of values times weights.

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
from torch import Tensor

from edgewise.learner.methods.batch import Batch
from edgewise.toolkit.groups.table import reads_columns


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
    """1 / (B limit) for each token, where `limit` is the most tokens that a reply may have."""
    return batch.mask / (max(1, len(batch)) * limit)


def per_group(batch: Batch) -> Tensor:
    """1 / (P n |o_i|) for each token of sequence i, n sequences in its group, P groups."""
    return _weigh_groups(batch, torch.ones(len(batch), dtype=torch.float64))


@reads_columns("share")
def per_share(batch: Batch) -> Tensor:
    """u_i / (P |o_i| (sum of u in the group)) for each token of sequence i, u its `share`, P groups."""
    return _weigh_groups(batch, batch.column("share").double())


@reads_columns("choice", "reward", "rollout")
def curriculum(batch: Batch, *, lam: float = 4.0, gamma: float = 0.5, options: int | None = None) -> Tensor:
    """
    4 d (1 - d) v^gamma / (B |o_i|) for each token of sequence i, d the mean reward of its group, v its variety.

    `lam` is the 4. v is (different answers - 1) / (n - 1) for n rollouts; with `options`, the entropy of the answers
    over ln options. Reads columns [B]: `reward`, `rollout` and `choice`, a number for each answer, the same in each
    step of a rollout, which counts once. 0 where all replies are right, all are wrong, or all give the same answer.
    """
    rollout, choice, reward = (batch.column(name).double().numpy() for name in ("rollout", "choice", "reward"))
    _, first_steps = np.unique(rollout, return_index=True)  # a row for each rollout
    factor = torch.zeros(len(batch), dtype=torch.float64)  # [B]
    for number in batch.group.unique().tolist():
        rows = batch.group == number
        once = first_steps[rows.numpy()[first_steps]]
        difficulty = float(reward[once].mean())
        _, counts = np.unique(choice[once], return_counts=True)
        if options is None:
            variety = (len(counts) - 1) / max(1, len(once) - 1)
        else:
            share = counts / counts.sum()
            variety = min(1.0, float(-(share * np.log(share)).sum()) / math.log(max(2, options)))
        factor[rows] = lam * difficulty * (1 - difficulty) * variety**gamma
    return per_sequence(batch) * factor[:, None].float()


def _weigh_groups(batch: Batch, share: Tensor) -> Tensor:
    """Return share / (sum of shares in the group), spread over the tokens of each sequence and over the groups."""
    groups, number = batch.group.unique(return_inverse=True)
    total = torch.zeros(len(groups), dtype=torch.float64).index_add(0, number, share)[number]  # [B]
    weight = share / (total.clamp(min=1e-300) * batch.lengths.clamp(min=1) * max(1, len(groups)))
    return batch.mask * weight[:, None].float()
