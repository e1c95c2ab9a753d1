"""
Preferences: supervised steps in weights on pairs of a chosen and a rejected answer, by the same update as every method.

Mixed Preference Optimization (MPO, arXiv 2411.10442) descends on three losses at once, in expectation over pairs:

    preference_loss    0.8    the chosen answer rather than the other    DPO (arXiv 2305.18290)
    quality_loss       0.2    each by itself: is it good or bad          BCO (arXiv 2404.04656)
    generation_loss    1.0    the chosen answer is written               negative log-likelihood

It is the stage before GRPO in Skywork R1V2 (arXiv 2504.16656), whose own weights are not known; these are the paper's.
P pairs are B = 2 P sequences: a pair is a group, where the advantage of the chosen answer is 1, of the other -1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from edgewise.learner.methods import token_weights
from edgewise.learner.methods.batch import Batch, LossInputs
from edgewise.learner.methods.method import Method, parameters_of
from edgewise.learner.policy.policy import Policy
from edgewise.learner.update.gradient_step import UpdateConfig, logps_now, update
from edgewise.learner.update.imitation import orders
from edgewise.toolkit.groups.table import reads_columns
from edgewise.toolkit.util.seeds import derive_seed

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """Token ids of a prompt, of an answer to it, and of a worse one."""

    prompt: Ids
    chosen: Ids
    rejected: Ids

    def __post_init__(self) -> None:
        if not (self.prompt and self.chosen and self.rejected) or self.chosen == self.rejected:
            raise ValueError("a preference has a prompt and two different answers, of a token at least each")


def ranked(
    prompt: Ids, answers: Sequence[Ids], rewards: Sequence[float], *, gap: float, most: int, seed: int = 0
) -> list[Preference]:
    """
    Up to `most` pairs of the answers to one prompt whose rewards are at least `gap` apart, drawn with `seed`.

    R1V2 asks for a gap of 15 on the scale of its reward model; smaller ones were unstable. None where all are equal.
    """
    if gap <= 0:
        raise ValueError(f"gap={gap}: only a gap above 0 says which of two answers is better")
    graded = list(zip(answers, rewards, strict=True))
    found = [(a, b) for (a, r), (b, s) in product(graded, repeat=2) if r - s >= gap and a != b]
    order = np.random.default_rng(derive_seed(seed, "ranked")).permutation(len(found))
    return [Preference(prompt, *found[i]) for i in order[:most]]


# ---- the three losses -------------------------------------------------------------------------------------


def preference_loss(chosen: Tensor, rejected: Tensor, *, beta: float = 0.1) -> Tensor:
    """- log sigmoid(beta (chosen - rejected)), both log pi / pi_0 of whole answers: DPO (arXiv 2305.18290, eq. 7)."""
    return -logsigmoid(beta * (chosen - rejected))


def quality_loss(moved: Tensor, sign: Tensor, shift: Tensor | float = 0.0, *, beta: float = 0.1) -> Tensor:
    """
    - log sigmoid(sign (beta moved - shift)), `moved` log pi / pi_0 of a whole answer: BCO (arXiv 2404.04656).

    `sign` is 1 for a good answer and -1 for a bad one; `shift` is the reward that parts them.
    """
    return -logsigmoid(sign * (beta * moved - shift))


def generation_loss(logp: Tensor, length: Tensor) -> Tensor:
    """- log pi / length of whole answers: nats a token."""
    return -logp / length.clamp(min=1)


@reads_columns("group", "start_logp", "shift")
def mixed(
    x: LossInputs, *, preference: float = 0.8, quality: float = 0.2, generation: float = 1.0, beta: float = 0.1
) -> Tensor:
    """
    (b, 1) the three losses by these weights, so that the mean over sequences is that over pairs.

    What is about a pair stands at both of its answers, what is about one answer counts twice there. `start_logp`
    (b, T) is of the reference model, `shift` (b, 1) the delta of BCO. A slice holds whole pairs.
    """
    sign, moved = x.advantage[:, :1].sign(), x.sum(x.logp - x.column("start_logp"))
    other = (x.group[:, None] == x.group[None]).to(moved.dtype) @ moved - moved
    good = sign > 0
    pair = preference_loss(torch.where(good, moved, other), torch.where(good, other, moved), beta=beta)
    alone = quality_loss(moved, sign, x.column("shift").to(moved.dtype), beta=beta)
    nats = generation_loss(x.sum(x.logp), x.mask.sum(1, keepdim=True))
    return preference * pair + 2 * quality * alone + 2 * generation * torch.where(good, nats, 0.0)


MPO = Method(
    paper="2411.10442",
    differs="pairs in place of groups: DPO, BCO and the chosen answer's log-likelihood together",
    loss=mixed,
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
    size: int = 8,
    clip: float = 1.0,
    seed: int = 0,
    watch: Callable[[float], None] = lambda loss: None,
) -> list[float]:
    """
    Take a step on every `size` pairs, in a new order in each of `epochs`: the loss of each, before it was taken.

    The reference is the policy as it is now. `method` may be MPO with other parameters ("loss.beta=0.2"). `clip` is
    the largest norm of a gradient; `watch` gets each loss. The same seed gives the same weights. Raises OutOfMemory
    where one pair alone is too much.
    """
    if not pairs:
        return []
    how, rewards, losses = UpdateConfig(clip=clip), np.zeros(0), []
    rng = torch.Generator().manual_seed(derive_seed(seed, "prefer") % 2**63)
    whole = _batch(policy, pairs, how)
    for chosen in orders(len(pairs), epochs, size, seed):
        batch = whole.select_rows([2 * i + side for i in chosen for side in range(2)])
        shift = float(rewards.mean()) if len(rewards) else 0.0
        rewards = np.append(rewards, _rewards(policy, method, batch, how))
        batch = batch.with_columns(shift=torch.full((len(batch),), shift, dtype=torch.float64))
        done = update(policy, optimizer, method, batch, how, rng)
        how = replace(how, tokens=done.tokens)  # fewer once memory was short
        losses.append(done.loss)
        watch(done.loss)
    return losses


def _batch(policy: Policy, pairs: Sequence[Preference], how: UpdateConfig) -> Batch:
    """All pairs, the chosen answer of each first, with the log-probabilities of the policy as it is."""
    batch = Batch.from_lists(
        [pair.prompt for pair in pairs for _ in range(2)],
        [answer for pair in pairs for answer in (pair.chosen, pair.rejected)],
        [i // 2 for i in range(2 * len(pairs))],
        [1.0, -1.0] * len(pairs),
    )
    return batch.with_columns(start_logp=logps_now(policy, batch, how))


def _rewards(policy: Policy, method: Method, batch: Batch, how: UpdateConfig) -> np.ndarray:
    """(B,) beta log pi / pi_0 of whole answers."""
    moved = logps_now(policy, batch, how) - batch.column("start_logp")
    return parameters_of(method.loss)["beta"] * moved.sum(1).double().numpy()
