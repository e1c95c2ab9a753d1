"""
Preferences: supervised steps on pairs of a chosen and a rejected answer, by the same update as every method.

Mixed Preference Optimization (MPO, arXiv 2411.10442) minimises a weighted sum of three losses over pairs:

    preference_loss    0.8    the chosen answer rather than the rejected one    DPO (arXiv 2305.18290)
    quality_loss       0.2    each answer by itself: good or bad                BCO (arXiv 2404.04656)
    generation_loss    1.0    likelihood of the chosen answer                   negative log-likelihood

Skywork R1V2 (arXiv 2504.16656) runs it before GRPO; its own weights are not public, and these are the paper's.
P pairs are B = 2 P sequences. A pair is a group: the advantage of the chosen answer is 1, of the rejected one -1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from edgewise.learner.methods import token_weights
from edgewise.learner.methods.batch import Batch, LossInputs
from edgewise.learner.methods.method import Method, parameters_of
from edgewise.learner.policy.policy import Policy
from edgewise.learner.update.gradient_step import UpdateConfig, compute_frozen_logps
from edgewise.learner.update.imitation import OnLoss, shuffle_batches, update_on_batches
from edgewise.toolkit.groups.table import reads_columns
from edgewise.toolkit.util.seeds import derive_seed

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """Token ids of a prompt, of a chosen answer and of a rejected one."""

    prompt: Ids
    chosen: Ids
    rejected: Ids

    def __post_init__(self) -> None:
        if not (self.prompt and self.chosen and self.rejected) or self.chosen == self.rejected:
            raise ValueError("a preference has a prompt and two different answers, of a token at least each")


def rank_answers(
    prompt: Ids, answers: Sequence[Ids], rewards: Sequence[float], *, gap: float, most: int, seed: int = 0
) -> list[Preference]:
    """
    Return up to `most` random pairs of answers to one prompt whose rewards are at least `gap` apart.

    R1V2 takes a gap of 15 on the scale of its reward model; smaller ones were unstable. Raises ValueError unless the
    gap is above 0.
    """
    if gap <= 0:
        raise ValueError(f"gap={gap}: only a gap above 0 says which of two answers is better")
    # All pairs of answers, in both directions: a pair is (chosen, rejected).
    graded = list(zip(answers, rewards, strict=True))
    pairs = [(a, b) for (a, r), (b, s) in product(graded, repeat=2) if r - s >= gap and a != b]
    order = np.random.default_rng(derive_seed(seed, "ranked")).permutation(len(pairs))
    return [Preference(prompt, *pairs[i]) for i in order[:most]]


# ---- the three losses -------------------------------------------------------------------------------------


def preference_loss(chosen: Tensor, rejected: Tensor, *, beta: float = 0.1) -> Tensor:
    """Return -log sigmoid(beta (chosen - rejected)) of log-ratios log pi / pi_0 of whole answers: DPO, equation 7."""
    return -logsigmoid(beta * (chosen - rejected))


def quality_loss(ratio: Tensor, sign: Tensor, shift: Tensor | float = 0.0, *, beta: float = 0.1) -> Tensor:
    """
    Return -log sigmoid(sign (beta ratio - shift)), `ratio` log pi / pi_0 of whole answers: BCO.

    `sign` is 1 for a good answer and -1 for a bad one; `shift` is the reward between good and bad.
    """
    return -logsigmoid(sign * (beta * ratio - shift))


def generation_loss(logp: Tensor, length: Tensor) -> Tensor:
    """Return -log pi / length of whole answers, in nats a token."""
    return -logp / length.clamp(min=1)


@reads_columns("group", "start_logp", "shift")
def mpo_loss(
    x: LossInputs, *, preference: float = 0.8, quality: float = 0.2, generation: float = 1.0, beta: float = 0.1
) -> Tensor:
    """
    Return the sum of the three losses with these weights, [b, 1].

    Column `start_logp` [b, T] is of the reference model, `shift` [b, 1] the delta of BCO. A slice holds whole pairs.
    """
    sign, log_ratio = x.advantage[:, :1].sign(), x.sum(x.logp - x.column("start_logp"))  # [b, 1]
    # A pair is a group of two: the sum over its group minus its own value is that of the other answer.
    other = (x.group[:, None] == x.group[None]).to(log_ratio.dtype) @ log_ratio - log_ratio
    is_chosen = sign > 0
    chosen, rejected = torch.where(is_chosen, log_ratio, other), torch.where(is_chosen, other, log_ratio)
    pair = preference_loss(chosen, rejected, beta=beta)
    single = quality_loss(log_ratio, sign, x.column("shift").to(log_ratio.dtype), beta=beta)
    nats = generation_loss(x.sum(x.logp), x.mask.sum(1, keepdim=True))
    # The update takes the mean over 2 P sequences. The loss of a pair stands at both of its answers; that of one answer
    # stands once and counts twice, so that the result is the mean over P pairs.
    return preference * pair + 2 * quality * single + 2 * generation * torch.where(is_chosen, nats, 0.0)


MPO = Method(
    paper="2411.10442",
    differs="pairs in place of groups: DPO, BCO and the chosen answer's log-likelihood together",
    loss=mpo_loss,
    weigh=token_weights.per_sequence,
    note="The paper takes the shift of BCO as a moving average of earlier rewards and leaves its kind open: here the "
    "mean of all of them, 0 at first; code of its time counts the present batch, too, and TRL 1.16 has no shift. "
    "The likelihood is a mean over the tokens of each answer, as in the paper; TRL's is one over all tokens.",
)


# ---- learning ---------------------------------------------------------------------------------------------


def prefer(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    pairs: Sequence[Preference],
    *,
    method: Method = MPO,
    epochs: int = 1,
    batch_size: int = 8,
    clip: float = 1.0,
    seed: int = 0,
    on_loss: OnLoss = lambda loss: None,
) -> list[float]:
    """
    Take a step on each batch of pairs, in a new order in each epoch; return the loss before each step.

    The reference is the policy at the start. `method` may be MPO with other parameters ("loss.beta=0.2"), `clip` is the
    largest norm of a gradient. The same seed gives the same weights. Raises OutOfMemory if a single pair is too much.
    """
    if not pairs:
        return []
    config = UpdateConfig(clip=clip)
    whole = Batch.from_lists(
        [pair.prompt for pair in pairs for _ in range(2)],
        [answer for pair in pairs for answer in (pair.chosen, pair.rejected)],
        [i // 2 for i in range(2 * len(pairs))],
        [1.0, -1.0] * len(pairs),
    )
    # pi_0 in every loss, computed once: the policy before the first step.
    whole = whole.with_columns(start_logp=compute_frozen_logps(policy, whole, config)[0])

    def build_batches() -> Iterator[Batch]:
        rewards = np.zeros(0)  # beta log pi / pi_0 of the answers of all earlier steps
        for rows in shuffle_batches(len(pairs), epochs, batch_size, seed):
            batch = whole.select_rows([2 * i + side for i in rows for side in range(2)])
            # BCO's delta. This batch does not count, so that its own answers are not compared with themselves.
            shift = float(rewards.mean()) if len(rewards) else 0.0
            log_ratio = compute_frozen_logps(policy, batch, config)[0] - batch.column("start_logp")  # [B, T]
            beta = parameters_of(method.loss)["beta"]
            rewards = np.append(rewards, beta * log_ratio.sum(1).double().numpy())
            yield batch.with_columns(shift=torch.full((len(batch),), shift, dtype=torch.float64))

    update_seed = derive_seed(seed, "prefer")
    return update_on_batches(policy, optimizer, method, build_batches(), config, update_seed, on_loss)
