"""
Axis 9, penalties: what is added to the loss. Tokens -> (b, T), a value for each token, never divided

    kl1, kl2, kl3       how far the policy is from the reference model, three estimates    k1, k2, k3 (Schulman, 2020)
    entropy             a bonus for an undecided policy                                     PPO (arXiv 1707.06347)
    targeted_entropy    for an entropy away from a target                                   Confucius3-Math (2506.18330)
    trust_region        for a step too far from the policy before the update                DRPO (arXiv 2510.04474)

They share the loss's weights (`learner.methods.token_weights`). x is the reference model's log-probability minus the policy's.
"""

from torch import Tensor

from edgewise.learner.methods.batch import Tokens
from edgewise.toolkit.groups.table import reads


@reads("ref_logp")
def kl1(x: Tokens, *, beta: float = 0.001) -> Tensor:
    """
    - beta x: the divergence without bias, and with much noise.

    As a loss its gradient is 0 on average where the policy itself sampled; it belongs into the reward, see
    `toolkit.groups.reward_shaping.less_kl`.
    """
    return -beta * _gap(x)


@reads("ref_logp")
def kl2(x: Tokens, *, beta: float = 0.001) -> Tensor:
    """Beta x^2 / 2: its gradient is the divergence's, where the policy itself sampled."""
    return beta * _gap(x).square() / 2


@reads("ref_logp")
def kl3(x: Tokens, *, beta: float = 0.04, corrected: bool = False, clamp: float | None = None) -> Tensor:
    """
    Beta (exp(x) - x - 1): never negative, without bias, with less noise.

    `corrected` multiplies it by r, the ratio to the policy that sampled (DeepSeek-V3.2, arXiv 2512.02556): without
    bias after that policy moved, too, and TRL's default. `clamp` holds the value before beta within that of 0, as
    verl does with 10, and x within 20. The paper of GRPO has neither.
    """
    gap = _gap(x) if clamp is None else _gap(x).clamp(-20, 20)
    found = gap.exp() - gap - 1
    if clamp is not None:
        found = found.clamp(-clamp, clamp)
    return beta * (found * x.ratio if corrected else found)


@reads("entropy")
def entropy(x: Tokens, *, coef: float = 0.001) -> Tensor:
    """- coef H, H the entropy of the policy at each token."""
    return -coef * x.column("entropy")


@reads("entropy", "mean_entropy")
def targeted_entropy(x: Tokens, *, coef: float = 0.001, target: float = 0.55) -> Tensor:
    """|H - target| times coef, H the mean entropy of the optimizer step's tokens; no gradient at the target."""
    return coef * (x.column("mean_entropy") - target).sign() * (x.column("entropy") - target)


@reads("mean_kl")
def trust_region(x: Tokens, *, beta: float = 1000.0, delta: float = 1e-4) -> Tensor:
    """
    - beta [max(D - delta, 0)] log r, D the mean of - log r over the optimizer step's tokens, [] without a gradient.

    Its gradient is that of beta / 2 max(D - delta, 0)^2, its value is not, as in the code.
    """
    return beta * (x.column("mean_kl") - delta).clamp(min=0) * -x.log_ratio


def _gap(x: Tokens) -> Tensor:
    return x.column("ref_logp") - x.logp
