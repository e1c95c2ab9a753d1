"""
Axis 8, loss: the objective that gradient descent minimises. LossInputs -> [b, T], one value a token.

    clipped                   min(r A, clip(r) A)                          PPO, GRPO (arXiv 2402.03300)
    clipped_sequence          the same with one ratio for a sequence       GSPO (arXiv 2507.18071)
    clipped_sequence_token    the same, with an advantage for each token
    geometric                 geometric mean of clipped ratios             GMPO (arXiv 2507.20673)
    soft_gated                a sigmoid in place of the clip               SAPO (arXiv 2511.20347)
    clipped_weight            log-probability times a clipped r            CISPO (arXiv 2506.13585)
    gamma_weighted            log-probability times a gate of r            VESPO (arXiv 2602.10693)
    plain                     log-probability                              REINFORCE
    clipped_to_sampler        clipped, by the policy that sampled a token  replay, Skywork R1V2 (arXiv 2504.16656)
    clipped_trajectory        one ratio for all steps of a rollout         M-GRPO's paper (arXiv 2511.13288)
    discriminated             right replies against the likeliest wrong    DRPO (arXiv 2510.04474)
    regressed                 regression of the log-ratio on the advantage Reg-GRPO (arXiv 2506.07464)
    enumerated                clipped, among the replies of a group        RIFT (arXiv 2505.03344)

r is the ratio to the policy before the update, A the advantage; clip(r) holds r between 1 - low and 1 + high. A value
for a whole sequence, [b, 1], stands for each of its tokens. Losses never divide: `learner.methods.token_weights` has
the weights. At r = 1 every loss has the gradient of -A log p; `discriminated` has its own, by advantage and score.
A loss that reads "group" gets whole groups in each slice.
"""

import math

import torch
from torch import Tensor

from edgewise.learner.methods.batch import MAX_LOG_RATIO, LossInputs
from edgewise.toolkit.groups.table import reads_columns


def clipped(x: LossInputs, *, low: float = 0.2, high: float = 0.2, delta: float | None = None) -> Tensor:
    """
    - min(r A, clip(r, 1 - low, 1 + high) A).

    `delta` also holds r below it where A < 0, which the two bounds leave open: two-sided clipping (INTELLECT-2, arXiv
    2505.07291) and, above 1 + high, the same as dual clip (arXiv 1912.09729), which verl always does with 3.
    """
    return _clip(x.ratio, x.advantage, low, high, delta)


def clipped_sequence(x: LossInputs, *, low: float = 3e-4, high: float = 4e-4, delta: float | None = None) -> Tensor:
    """- min(s A, clip(s, 1 - low, 1 + high) A), with one s = exp(mean over tokens of log r) for a sequence."""
    return _clip(_sequence_ratio(x), x.advantage, low, high, delta)


def clipped_sequence_token(
    x: LossInputs, *, low: float = 3e-4, high: float = 4e-4, delta: float | None = None
) -> Tensor:
    """
    - min(s' A, clip(s', 1 - low, 1 + high) A), with s' = [s] p / [p], where [] passes no gradient.

    s is as in `clipped_sequence`: the same value, and the same gradient where A is one for a sequence.
    """
    token = (x.logp - x.logp.detach()).exp()  # [b, T] ones, whose gradient is that of log p
    return _clip(_sequence_ratio(x).detach() * token, x.advantage, low, high, delta)


def geometric(x: LossInputs, *, low: float = 0.4, high: float = 0.4) -> Tensor:
    """
    - exp(mean over tokens of min(log r, high)) A where A > 0, of max(log r, - low) where A < 0.

    Bounds are those of log r, as in TRL and verl: the paper's clip (e^-0.4, e^0.4).
    """
    log_ratio = x.log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    # The bound that counts is the upper one where A > 0 and the lower one where A < 0.
    sign = x.advantage.sign()
    bounded = sign * torch.min(sign * log_ratio, sign * log_ratio.clamp(-low, high))  # [b, T]
    return -x.mean(bounded).exp() * x.advantage


def soft_gated(x: LossInputs, *, positive: float = 1.0, negative: float = 1.05) -> Tensor:
    """- (4 / T) sigmoid(T (r - 1)) A, with T = `positive` where A > 0, else `negative`."""
    # The derivative of sigmoid(T (r - 1)) at r = 1 is T / 4, which the factor 4 / T makes 1.
    temperature = _choose(x.advantage > 0, positive, negative, x)
    return -4 / temperature * torch.sigmoid(temperature * (x.ratio - 1)) * x.advantage


def clipped_weight(x: LossInputs, *, low: float = 1.0, high: float = 4.0) -> Tensor:
    """
    - [clip(r, 1 - low, 1 + high)] A log p, where [] passes no gradient; with low = 1 there is no lower bound.

    Bounds are relative to 1, as in the paper and verl. TRL's `epsilon_high` is the upper bound itself: its 5 is
    high=4 here.
    """
    # The weight is a constant, so that no token loses its gradient, as it does beyond PPO's clip.
    return -x.ratio.clamp(1 - low, 1 + high).detach() * x.advantage * x.logp


def gamma_weighted(
    x: LossInputs,
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
    # log w, [b, 1]; phi(1) = 1
    total = x.sum(x.log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)).clamp(math.log(1e-8), MAX_LOG_RATIO)
    is_good = x.advantage >= 0
    k, lam = _choose(is_good, k_positive, k_negative, x), _choose(is_good, lam_positive, lam_negative, x)
    phi = (k * total + lam * (1 - total.exp())).exp()
    return -phi.detach() * x.advantage * x.logp


def plain(x: LossInputs) -> Tensor:
    """- A log p: the policy gradient, without a correction for how far the policy moved within an update."""
    return -x.advantage * x.logp


@reads_columns("sampler_logp")
def clipped_to_sampler(x: LossInputs, *, low: float = 0.2, high: float = 0.2, delta: float | None = None) -> Tensor:
    """As `clipped`, with the ratio to the policy that sampled each token, maybe in an earlier step."""
    old = x.column("sampler_logp")
    # A server that samples may state no log-probability; then the policy before the update stands in.
    ratio = (x.logp - torch.where(old.isnan(), x.old_logp, old)).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return _clip(ratio, x.advantage, low, high, delta)


@reads_columns("group", "rollout")
def clipped_trajectory(x: LossInputs, *, low: float = 0.2, high: float = 0.2, delta: float | None = None) -> Tensor:
    """- min(u A, clip(u, 1 - low, 1 + high) A), with one u = product of r over all tokens and steps of a rollout."""
    rollout = x.column("rollout")  # [b, 1]
    total = (rollout == rollout.T).to(x.logp.dtype) @ x.sum(x.log_ratio)
    return _clip(total.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(), x.advantage, low, high, delta)


@reads_columns("group")
def discriminated(x: LossInputs, *, tau: float = 10.0) -> Tensor:
    """
    - n A s where A > 0; n tau log(mean over the group's replies with A < 0 of e^(s / tau)), split among these.

    s is the mean log-probability of a token, n the number of sequences in the group, which
    `learner.methods.token_weights.per_group` takes out again. The value is the paper's objective; its code has a
    surrogate with the same gradient.
    """
    same, score, sign = _same_group(x), x.mean(x.logp), x.advantage[:, :1]  # [b, b], [b, 1], [b, 1]
    is_wrong = sign < 0
    # Rows of right replies get themselves alone, so that their logsumexp, which is not used, is finite.
    rivals = torch.where(is_wrong, same & is_wrong.T, torch.eye(len(same), dtype=torch.bool, device=same.device))
    count = rivals.sum(1, keepdim=True)
    worst = tau * ((score.T / tau).masked_fill(~rivals, -math.inf).logsumexp(1, keepdim=True) - count.log())
    return same.sum(1, keepdim=True) * torch.where(is_wrong, worst / count, -sign * score)


@reads_columns("group")
def regressed(x: LossInputs, *, eps: float = 1e-4) -> Tensor:
    """
    (A - (d - mean d) / sqrt(var d + eps))^2, d the log-ratio of a whole reply, mean and variance over its group.

    Where all d of a group are equal, as at the first step, A^2 - A d: the policy gradient, since the variance is 0.
    Groups in which A is 0 give 0, so that they do not dilute the mean.
    """
    same, moved, target = _same_group(x).to(x.logp.dtype), x.sum(x.log_ratio), x.advantage[:, :1]
    gap = moved - same @ moved / same.sum(1, keepdim=True)  # [b, 1] d - mean d
    variance = same @ gap.square() / same.sum(1, keepdim=True)
    is_still = variance == 0
    prediction = gap / torch.where(is_still, 1.0, variance + eps).sqrt()
    losses = torch.where(is_still, target * (target - moved), (target - prediction).square())
    return torch.where(same @ target.abs() > 0, losses, 0.0)


@reads_columns("group")
def enumerated(x: LossInputs, *, low: float = 0.2, high: float = 0.2, delta: float | None = 3.0) -> Tensor:
    """As `clipped`, with the ratio of q, the probability of a whole reply among the replies of its group."""
    same = _same_group(x)

    def log_share(total: Tensor) -> Tensor:
        """Return log q = log p(o_i) - log sum over the group of p(o_j), [b, 1]."""
        return total - total.T.masked_fill(~same, -math.inf).logsumexp(1, keepdim=True)

    ratio = (log_share(x.sum(x.logp)) - log_share(x.sum(x.old_logp))).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return _clip(ratio, x.advantage[:, :1], low, high, delta)


def _clip(ratio: Tensor, advantage: Tensor, low: float, high: float, delta: float | None) -> Tensor:
    # The minimum is a lower bound of r A: the clip removes a gain beyond the bounds, and never a loss.
    bounded = ratio if delta is None else ratio.clamp(max=delta)
    return -torch.min(bounded * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def _sequence_ratio(x: LossInputs) -> Tensor:
    """Return the geometric mean of the ratios of a sequence, [b, 1] (GSPO, equation 7)."""
    return x.mean(x.log_ratio).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _choose(condition: Tensor, yes: float, no: float, x: LossInputs) -> Tensor:
    # In the precision of the log-probabilities: plain numbers would become float32.
    return torch.where(condition, x.logp.new_tensor(yes), x.logp.new_tensor(no))


def _same_group(x: LossInputs) -> Tensor:
    """Return whether two sequences are of one group, [b, b]."""
    return x.group[:, None] == x.group[None]
