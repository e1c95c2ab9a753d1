"""
Axis 8, loss: what is descended on. Tokens -> (b, T), a value for each token, never divided; see `learner.methods.token_weights`

    clipped                   min(r A, clip(r) A)                       PPO, GRPO (arXiv 2402.03300)
    clipped_sequence          the same of one ratio for a sequence      GSPO (arXiv 2507.18071)
    clipped_sequence_token    the same, with an advantage for each token
    geometric                 the geometric mean of clipped ratios      GMPO (arXiv 2507.20673)
    soft_gated                a sigmoid in place of the clip            SAPO (arXiv 2511.20347)
    clipped_weight            log-probability times a clipped r         CISPO (arXiv 2506.13585)
    gamma_weighted            log-probability times a gate of r         VESPO (arXiv 2602.10693)
    plain                     log-probability                           REINFORCE
    clipped_to_sampler        as clipped, to whoever drew each token    replay, such as Skywork R1V2 (arXiv 2504.16656)
    clipped_trajectory        one ratio for all steps of a rollout      M-GRPO's paper (arXiv 2511.13288)
    discriminated             right ones against the likeliest wrong    DRPO (arXiv 2510.04474)
    regressed                 the advantage, told by the log-ratio      Reg-GRPO (arXiv 2506.07464)
    enumerated                as clipped, among the answers of a group  RIFT (arXiv 2505.03344)

r is the ratio to the policy before the update, A the advantage; clip(r) holds r between 1 - low and 1 + high. A value
for a whole sequence, (b, 1), stands for each of its tokens. At r = 1 the gradient of every loss is that of -A log p,
for `discriminated`, of what its advantage and its score say. Losses that read "group" see whole groups in each slice.
"""

import math

import torch
from torch import Tensor

from edgewise.learner.methods.batch import EXTREME, Tokens
from edgewise.toolkit.groups.table import reads


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


@reads("sampler_logp")
def clipped_to_sampler(
    x: Tokens, *, low: float = 0.2, high: float = 0.2, delta: float | None = None
) -> Tensor:
    """As `clipped`, with the ratio to the policy that drew each token, which may be one of an earlier step."""
    old = x.column("sampler_logp")
    ratio = (x.logp - torch.where(old.isnan(), x.old_logp, old)).clamp(-EXTREME, EXTREME).exp()
    return _clipped(ratio, x.advantage, low, high, delta)


@reads("group", "rollout")
def clipped_trajectory(
    x: Tokens, *, low: float = 0.2, high: float = 0.2, delta: float | None = None
) -> Tensor:
    """- min(u A, clip(u, 1 - low, 1 + high) A), with one u = product of r over all tokens and steps of a rollout."""
    run = x.column("rollout")
    total = (run == run.T).to(x.logp.dtype) @ x.sum(x.log_ratio)
    return _clipped(total.clamp(-EXTREME, EXTREME).exp(), x.advantage, low, high, delta)


@reads("group")
def discriminated(x: Tokens, *, tau: float = 10.0) -> Tensor:
    """
    - n A s where A > 0; n tau log(mean over the group's replies with A < 0 of e^(s / tau)), split among these.

    s is the mean log-probability of a token, n the number of sequences in the group, which `learner.methods.token_weights.per_group`
    takes out again. The value is the objective's; the code descends on another with the same gradient.
    """
    same, score, sign = _same(x), x.mean(x.logp), x.advantage[:, :1]
    wrong = sign < 0
    among = torch.where(wrong, same & wrong.T, torch.eye(len(same), dtype=torch.bool, device=same.device))
    count = among.sum(1, keepdim=True)
    worst = tau * ((score.T / tau).masked_fill(~among, -math.inf).logsumexp(1, keepdim=True) - count.log())
    return same.sum(1, keepdim=True) * torch.where(wrong, worst / count, -sign * score)


@reads("group")
def regressed(x: Tokens, *, eps: float = 1e-4) -> Tensor:
    """
    (A - (d - mean d) / sqrt(var d + eps))^2, d the log-ratio of a whole reply, mean and variance over its group.

    Where all d of a group are equal, as at the first step, A^2 - A d: the policy gradient, for there is nothing to
    divide by. Groups in which A is 0 give 0, so that they do not dilute the mean.
    """
    same, moved, goal = _same(x).to(x.logp.dtype), x.sum(x.log_ratio), x.advantage[:, :1]
    gap = moved - same @ moved / same.sum(1, keepdim=True)
    variance = same @ gap.square() / same.sum(1, keepdim=True)
    still = variance == 0
    told = gap / torch.where(still, 1.0, variance + eps).sqrt()
    found = torch.where(still, goal * (goal - moved), (goal - told).square())
    return torch.where(same @ goal.abs() > 0, found, 0.0)


@reads("group")
def enumerated(x: Tokens, *, low: float = 0.2, high: float = 0.2, delta: float | None = 3.0) -> Tensor:
    """As `clipped`, of the ratio of q, where q is the probability of a whole reply among the replies of its group."""
    same = _same(x)

    def share(total: Tensor) -> Tensor:
        return total - total.T.masked_fill(~same, -math.inf).logsumexp(1, keepdim=True)

    ratio = (share(x.sum(x.logp)) - share(x.sum(x.old_logp))).clamp(-EXTREME, EXTREME).exp()
    return _clipped(ratio, x.advantage[:, :1], low, high, delta)


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


def _same(x: Tokens) -> Tensor:
    """(b, b) whether two sequences are of one group."""
    return x.group[:, None] == x.group[None]
