"""
Means over the tokens of an optimizer step that losses and penalties read, without a gradient.

    mean_entropy    entropy of the policy at a token            Confucius3-Math (arXiv 2506.18330)
    mean_kl         - log r, of the policy before the update    DRPO (arXiv 2510.04474)

Each is weighted by the tokens' weights (`learner.methods.token_weights`) and is a column with one number for all B
sequences. A statistic costs one more forward, and only if a part of the method declares it.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.method import Method

STATISTICS: Mapping[str, Callable[[Batch, Tensor, Tensor], Tensor]] = {
    "mean_entropy": lambda batch, logp, entropy: entropy,
    "mean_kl": lambda batch, logp, entropy: batch.columns.get("old_logp", logp) - logp,
}
"""(batch, logp, entropy) -> [B, T] values to average. A part that reads "mean_entropy" must also read "entropy"."""


def required_statistics(method: Method) -> frozenset[str]:
    """Return the names of the statistics that parts of the method read."""
    return method.required_columns & STATISTICS.keys()


def add_statistics(method: Method, batch: Batch, logp: Tensor, entropy: Tensor) -> Batch:
    """Return the batch with the statistics that the method reads, from `logp` and `entropy` [B, T] before the step."""
    weights = method.weigh(batch).double()  # [B, T]
    total = weights.sum().clamp(min=1e-300)  # an empty batch has a mean of 0
    means: dict[str, Tensor] = {}
    for name in required_statistics(method):
        values = torch.where(batch.mask, STATISTICS[name](batch, logp, entropy).double(), 0.0)
        means[name] = ((values * weights).sum() / total).expand(len(batch))
    return batch.with_columns(**means)
