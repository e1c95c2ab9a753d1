"""
Axis 7, weigh: each token's share of the loss. Batch -> (B, T), float32

It is computed on the whole batch, before any slice is cut: a mean of means over slices is no mean. The loss is the sum
of values times weights.

    per_sequence    mean over the tokens of a sequence, then over sequences         GRPO (arXiv 2402.03300)
    per_token       mean over all tokens of the batch                               DAPO (arXiv 2503.14476)
    summed          sum over the tokens of a sequence, then mean over sequences     LUSPO (arXiv 2602.05261)
    constant        sum over all tokens, by B times a constant length               Dr. GRPO (arXiv 2503.20783)
"""

from torch import Tensor

from learner.batch import Batch


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
