"""
Numbers of an optimizer step that losses and penalties read: found before it is sliced, and without a gradient.

    mean_entropy    the entropy of the policy at a token        Confucius3-Math (arXiv 2506.18330)
    mean_kl         - log r, of the policy before the update    DRPO (arXiv 2510.04474)

Each is a mean over the tokens of the step by their weights (`learner.methods.token_weights`), a column with one number for all B
sequences. It costs one more forward, where a part of the method declares it.
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
"""(batch, log-probabilities, entropies) -> (B, T) what is averaged; whoever reads "mean_entropy" reads "entropy"."""


def wanted(method: Method) -> frozenset[str]:
    """Names of those that parts of the method read."""
    return method.needs & STATISTICS.keys()


def with_statistics(method: Method, batch: Batch, logp: Tensor, entropy: Tensor) -> Batch:
    """The batch of an optimizer step with what parts of the method read, by the policy's (B, T) before the step."""
    weights = method.weigh(batch).double()
    total = weights.sum().clamp(min=1e-300)

    def mean(values: Tensor) -> Tensor:
        found = torch.where(batch.mask, values.double(), 0.0)
        return ((found * weights).sum() / total).expand(len(batch))

    found = {name: mean(STATISTICS[name](batch, logp, entropy)) for name in wanted(method)}
    return batch.with_columns(**found)
