"""
Imitation: supervised steps on demonstrations, by the same update as every method.

The method `IMITATION` minimises -w log p, as a mean over the answer tokens of a batch. Where answers are samples of a
teacher and all w are 1, this is an unbiased estimate of the cross-entropy with the teacher.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
OnLoss = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """
    Token ids of a prompt and of the answer to it, and a weight.

    A complete answer ends with the end token. A negative weight makes the answer less likely.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.prompt or not self.answer or not isfinite(self.weight):
            raise ValueError("a demonstration has a prompt and an answer of a token at least, and a finite weight")


def imitate(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    demonstrations: Sequence[Demonstration],
    *,
    epochs: int = 1,
    batch_size: int = 8,
    clip: float = 1.0,
    seed: int = 0,
    on_loss: OnLoss = lambda loss: None,
) -> list[float]:
    """
    Take a step on each batch of demonstrations, in a new order in each epoch; return the loss before each step.

    A loss is in nats, the mean over answer tokens of -w log p. `clip` is the largest norm of a gradient. The same seed
    gives the same weights. Raises OutOfMemory if a single demonstration is too much.
    """

    def build_batch(rows: Sequence[int]) -> Batch:
        # Each demonstration is a group of its own, and its weight takes the place of the advantage.
        part = [demonstrations[i] for i in rows]
        prompts, answers, weights = zip(*((row.prompt, row.answer, row.weight) for row in part), strict=True)
        return Batch.from_lists(prompts, answers, range(len(part)), weights)

    # A lazy map: only one batch is in memory.
    batches = map(build_batch, shuffle_batches(len(demonstrations), epochs, batch_size, seed))
    config = UpdateConfig(clip=clip)
    return update_on_batches(policy, optimizer, IMITATION, batches, config, derive_seed(seed, "imitate"), on_loss)


def shuffle_batches(count: int, epochs: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of the numbers below `count`, in a new order in each epoch."""
    for epoch in range(epochs):
        order = np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(count).tolist()
        for start in range(0, count, batch_size):
            yield order[start : start + batch_size]


def update_on_batches(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    method: Method,
    batches: Iterable[Batch],
    config: UpdateConfig,
    seed: int,
    on_loss: OnLoss,
) -> list[float]:
    """Update on each batch and return the losses. A batch is drawn from `batches` after the update before it."""
    # Only a method with several minibatches draws from the generator.
    losses, rng = [], torch.Generator().manual_seed(seed % 2**63)
    for batch in batches:
        stats = update(policy, optimizer, method, batch, config, rng)
        config = replace(config, slice_tokens=stats.tokens)  # fewer once memory was short
        losses.append(stats.loss)
        on_loss(stats.loss)
    return losses
