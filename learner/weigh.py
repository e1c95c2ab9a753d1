"""
Axis 7, weigh: each token's share of the loss. Batch -> (B, T), float32

It is computed on the whole batch, before any slice is cut: a mean of means over slices is no mean. The loss is the sum
of values times weights.

    per_sequence    mean over the tokens of a sequence, then over sequences         GRPO (arXiv 2402.03300)
"""

from torch import Tensor

from learner.batch import Batch


def per_sequence(batch: Batch) -> Tensor:
    """1 / (B |o_i|) for each token of sequence i; a reply without tokens counts in B."""
    return batch.mask / (len(batch) * batch.lengths.clamp(min=1))[:, None]
