"""
Axis 9, penalties: terms that are added to the loss. LossInputs -> [b, T], one value a token, never divided.

    kl1, kl2, kl3       divergence from the reference model, three estimates    k1, k2, k3 (Schulman, 2020)
    entropy             a bonus for the policy's entropy                        PPO (arXiv 1707.06347)
    targeted_entropy    distance of the entropy from a target                   Confucius3-Math (arXiv 2506.18330)
    trust_region        distance from the policy before the update              DRPO (arXiv 2510.04474)

They share the loss's weights (`learner.methods.token_weights`). x is the reference model's log-probability minus the
policy's.

With samples of the policy p and e^x = q / p for the reference q,

    E[-x] = KL(p, q)    E[e^x - 1] = 0    so that k3 = e^x - 1 - x is k1 plus a control variate.

As losses their gradients differ, with dx = - d log p and E[d log p] = 0:

    k1    E[d log p] = 0
    k2    E[-x d log p] = d KL(p, q)
    k3    E[(1 - e^x) d log p] = - sum of q d log p = d KL(q, p), the other direction
"""

from torch import Tensor

from edgewise.learner.methods.batch import LossInputs
from edgewise.toolkit.groups.table import reads_columns


@reads_columns("ref_logp")
def kl1(x: LossInputs, *, beta: float = 0.001) -> Tensor:
    """
    - beta x: the divergence without bias, but with a high variance.

    As a loss its expected gradient is 0 on the policy's own samples, so it belongs into the reward: see
    `toolkit.groups.reward_shaping.less_kl`.
    """
    return -beta * _gap(x)


@reads_columns("ref_logp")
def kl2(x: LossInputs, *, beta: float = 0.001) -> Tensor:
    """Beta x^2 / 2: its expected gradient is the divergence's, on the policy's own samples."""
    return beta * _gap(x).square() / 2


@reads_columns("ref_logp")
def kl3(x: LossInputs, *, beta: float = 0.04, corrected: bool = False, clamp: float | None = None) -> Tensor:
    """
    Beta (exp(x) - x - 1): never negative, without bias, with a lower variance.

    `corrected` multiplies it by r, the ratio to the policy that sampled (DeepSeek-V3.2, arXiv 2512.02556): TRL's
    default, which has no bias after an optimizer step either. `clamp` bounds the value before beta on both sides, as
    verl does with 10, and x by 20. The paper of GRPO has neither.
    """
    gap = _gap(x) if clamp is None else _gap(x).clamp(-20, 20)
    divergence = gap.exp() - gap - 1  # [b, T]
    if clamp is not None:
        divergence = divergence.clamp(-clamp, clamp)
    return beta * (divergence * x.ratio if corrected else divergence)


@reads_columns("entropy")
def entropy(x: LossInputs, *, coef: float = 0.001) -> Tensor:
    """- coef H, H the entropy of the policy at each token."""
    return -coef * x.column("entropy")


@reads_columns("entropy", "mean_entropy")
def targeted_entropy(x: LossInputs, *, coef: float = 0.001, target: float = 0.55) -> Tensor:
    """|H - target| times coef, H the mean entropy of the optimizer step's tokens; no gradient at the target."""
    # The chain rule of |H - target|: the sign is the batch's, the gradient flows through the tokens' own entropies.
    return coef * (x.column("mean_entropy") - target).sign() * (x.column("entropy") - target)


@reads_columns("mean_kl")
def trust_region(x: LossInputs, *, beta: float = 1000.0, delta: float = 1e-4) -> Tensor:
    """
    - beta [max(D - delta, 0)] log r, D the mean of - log r over the optimizer step's tokens, [] without a gradient.

    Its gradient is that of beta / 2 max(D - delta, 0)^2; its value differs, as in the paper's code.
    """
    return beta * (x.column("mean_kl") - delta).clamp(min=0) * -x.log_ratio


def _gap(x: LossInputs) -> Tensor:
    """Return x of the estimates: log p of the reference model minus log p of the policy, [b, T]."""
    return x.column("ref_logp") - x.logp
