"""
Axis 8, loss: what is descended on. Tokens -> (b, T), a value for each token, never divided; see `learner.weigh`

    clipped    min(r A, clip(r, 1 - low, 1 + high) A)        GRPO (arXiv 2402.03300)

r is the ratio to the policy before the update, A the advantage. Values outside of the mask mean nothing.
"""

import torch
from torch import Tensor

from learner.batch import Tokens


def clipped(x: Tokens, *, low: float = 0.2, high: float = 0.2) -> Tensor:
    """- min(r A, clip(r, 1 - low, 1 + high) A)."""
    ratio = x.log_ratio.exp()
    return -torch.min(ratio * x.advantage, ratio.clamp(1 - low, 1 + high) * x.advantage)
