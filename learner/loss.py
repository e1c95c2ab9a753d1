"""
Axis 8, loss: what is descended on. Tokens -> (b, T), a value for each token, never divided; see `learner.weigh`

    clipped                   min(r A, clip(r) A)                       PPO, GRPO (arXiv 2402.03300)
    clipped_sequence          the same of one ratio for a sequence      GSPO (arXiv 2507.18071)
    clipped_sequence_token    the same, with an advantage for each token
    geometric                 the geometric mean of clipped ratios      GMPO (arXiv 2507.20673)
    soft_gated                a sigmoid in place of the clip            SAPO (arXiv 2511.20347)
    clipped_weight            log-probability times a clipped r         CISPO (arXiv 2506.13585)
    gamma_weighted            log-probability times a gate of r         VESPO (arXiv 2602.10693)
    plain                     log-probability                           REINFORCE

r is the ratio to the policy before the update, A the advantage; clip(r) holds r between 1 - low and 1 + high. A value
for a whole sequence, (b, 1), stands for each of its tokens. At r = 1 the gradient of every loss is that of -A log p.
"""

import math

import torch
from torch import Tensor

from learner.batch import EXTREME, Tokens


def clipped(x: Tokens, *, low: float = 0.2, high: float = 0.2, delta: float | None = None) -> Tensor:
    """
    - min(r A, clip(r, 1 - low, 1 + high) A).

    `delta` also holds r below it where A < 0, which the two bounds leave open: two-sided clipping (INTELLECT-2, arXiv
    2505.07291) and, above 1 + high, the same as dual clip (arXiv 1912.09729), which verl always does with 3.
    """
    return _clipped(x.ratio, x.advantage, low, high, delta)


def clipped_sequence(
    x: Tokens, *, low: float = 3e-4, high: float = 4e-4, delta: float | None = None
) -> Tensor:
    """- min(s A, clip(s, 1 - low, 1 + high) A), with one s = exp(mean over tokens of log r) for a sequence."""
    return _clipped(_sequence_ratio(x), x.advantage, low, high, delta)


def clipped_sequence_token(
    x: Tokens, *, low: float = 3e-4, high: float = 4e-4, delta: float | None = None
) -> Tensor:
    """
    - min(s' A, clip(s', 1 - low, 1 + high) A), with s' = [s] p / [p], where [] passes no gradient.

    s is as in `clipped_sequence`: the same value, and the same gradient where A is one for a sequence.
    """
    return _clipped(_sequence_ratio(x).detach() * _one(x), x.advantage, low, high, delta)


def geometric(x: Tokens, *, low: float = 0.4, high: float = 0.4) -> Tensor:
    """
    - exp(mean over tokens of min(log r, high)) A where A > 0, of max(log r, - low) where A < 0.

    Bounds are those of log r, as in TRL and verl: the paper's clip (e^-0.4, e^0.4).
    """
    log_ratio = x.log_ratio.clamp(-EXTREME, EXTREME)
    sign = x.advantage.sign()
    held = sign * torch.min(sign * log_ratio, sign * log_ratio.clamp(-low, high))
    return -x.mean(held).exp() * x.advantage


def soft_gated(x: Tokens, *, positive: float = 1.0, negative: float = 1.05) -> Tensor:
    """- (4 / T) sigmoid(T (r - 1)) A, with T = `positive` where A > 0, else `negative`."""
    heat = _either(x.advantage > 0, positive, negative, x)
    return -4 / heat * torch.sigmoid(heat * (x.ratio - 1)) * x.advantage


def clipped_weight(x: Tokens, *, low: float = 1.0, high: float = 4.0) -> Tensor:
    """
    - [clip(r, 1 - low, 1 + high)] A log p, where [] passes no gradient; with low = 1 there is no lower bound.

    Bounds are relative to 1, as in the paper and verl. TRL's `epsilon_high` is the upper bound itself: its 5 is
    high=4 here.
    """
    return -x.ratio.clamp(1 - low, 1 + high).detach() * x.advantage * x.logp


def gamma_weighted(
    x: Tokens,
    *,
    k_positive: float = 2.0,
    lam_positive: float = 3.0,
    k_negative: float = 3.0,
    lam_negative: float = 2.0,
) -> Tensor:
    """
    - [phi(w)] A log p, with phi(w) = w^k exp(lam (1 - w)), w = exp(sum over tokens of log r), [] without a gradient.

    k and lam are the positive ones where A >= 0. w stays within 1e-8 and e^20.
    """
    total = x.sum(x.log_ratio.clamp(-EXTREME, EXTREME)).clamp(math.log(1e-8), EXTREME)
    good = x.advantage >= 0
    k, lam = _either(good, k_positive, k_negative, x), _either(good, lam_positive, lam_negative, x)
    phi = (k * total + lam * (1 - total.exp())).exp()
    return -phi.detach() * x.advantage * x.logp


def plain(x: Tokens) -> Tensor:
    """- A log p: the policy gradient itself, which does not know that the policy has moved within an update."""
    return -x.advantage * x.logp


def _clipped(ratio: Tensor, advantage: Tensor, low: float, high: float, delta: float | None) -> Tensor:
    free = ratio if delta is None else ratio.clamp(max=delta)
    return -torch.min(free * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def _sequence_ratio(x: Tokens) -> Tensor:
    """(b, 1) the geometric mean of the ratios of a sequence."""
    return x.mean(x.log_ratio).clamp(-EXTREME, EXTREME).exp()


def _either(which: Tensor, yes: float, no: float, x: Tokens) -> Tensor:
    """One of two numbers, as exact as the log-probabilities."""
    return torch.where(which, x.logp.new_tensor(yes), x.logp.new_tensor(no))


def _one(x: Tokens) -> Tensor:
    """(b, T) ones whose gradient is that of log p."""
    return (x.logp - x.logp.detach()).exp()
