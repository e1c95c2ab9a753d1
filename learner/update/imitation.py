"""
Imitation: supervised steps in weights on answers that are given, by the same update as every method.

Its method is the negative log-likelihood, -w log p, as a mean over the answer tokens of a batch (Method `IMITATION`).
Where answers are samples of a teacher and all w are 1, that is its cross-entropy, unbiased.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
import torch

from edgewise.learner.methods import losses as loss
from edgewise.learner.methods import token_weights
from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.method import Method
from edgewise.learner.policy.policy import Policy
from edgewise.learner.update.gradient_step import UpdateConfig, update
from edgewise.toolkit.util.seeds import derive_seed

IMITATION = Method(
    paper="",
    differs="-w log p of given answers, over all answer tokens of a batch",
    weigh=token_weights.per_token,
    loss=loss.plain,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """
    Token ids of a prompt, those of the answer to it, and how much it counts.

    An answer that ends says so by its last token. A negative weight makes the answer less likely.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.prompt or not self.answer or not isfinite(self.weight):
            raise ValueError("a pair has a prompt and an answer of a token at least, and a finite weight")


def imitate(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    pairs: Sequence[Pair],
    *,
    epochs: int = 1,
    size: int = 8,
    clip: float = 1.0,
    seed: int = 0,
    watch: Callable[[float], None] = lambda loss: None,
) -> list[float]:
    """
    Take a step on every `size` pairs, in a new order in each of `epochs`: the loss of each, before it was taken.

    A loss is in nats, the mean over answer tokens of -w log p. `clip` is the largest norm of a gradient; `watch` gets
    each loss. The same seed gives the same weights. Raises OutOfMemory where one pair alone is too much.
    """
    how, losses = UpdateConfig(clip=clip), []
    rng = torch.Generator().manual_seed(derive_seed(seed, "imitate") % 2**63)
    for chosen in orders(len(pairs), epochs, size, seed):
        done = update(policy, optimizer, IMITATION, _batch([pairs[i] for i in chosen]), how, rng)
        how = replace(how, tokens=done.tokens)  # fewer once memory was short
        losses.append(done.loss)
        watch(done.loss)
    return losses


def orders(count: int, epochs: int, size: int, seed: int) -> Iterator[list[int]]:
    """The numbers below `count`, `size` at a time, in a new order in each epoch."""
    for epoch in range(epochs):
        order = np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(count).tolist()
        for start in range(0, count, size):
            yield order[start : start + size]


def _batch(pairs: Sequence[Pair]) -> Batch:
    """Each pair is a group of its own; its weight stands where others have the advantage."""
    return Batch.from_lists(
        [pair.prompt for pair in pairs],
        [pair.answer for pair in pairs],
        range(len(pairs)),
        [pair.weight for pair in pairs],
    )
