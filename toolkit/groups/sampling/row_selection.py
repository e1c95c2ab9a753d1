"""
Axis 1, select: which examples a step samples, and in which order.

    shuffle, split_batches    every example once an epoch, in a random order
    vade                      examples with the highest expected signal, by statistics of earlier steps
    drop_resting              leaves out for a round those that are always solved; applied before either
"""

from collections.abc import Sequence
from typing import Annotated, TypeVar

import numpy as np
from pydantic import Field

from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.types import Example
from edgewise.toolkit.util.seeds import derive_seed

T = TypeVar("T")
Fading = Annotated[float, Field(ge=0, le=1)]


def shuffle(examples: Sequence[T], seed: int, epoch: int) -> tuple[T, ...]:
    """Return all examples in a random order; the same seed and epoch give the same order."""
    rng = np.random.default_rng(derive_seed(seed, "shuffle", epoch))
    return tuple(examples[i] for i in rng.permutation(len(examples)))


def split_batches(examples: Sequence[T], size: int) -> list[tuple[T, ...]]:
    """Split examples in order into batches of `size`; the last one may be smaller. Raises ValueError below size 1."""
    if size < 1:
        raise ValueError(f"a batch needs at least one example, not {size}")
    return [tuple(examples[i : i + size]) for i in range(0, len(examples), size)]


def in_turn(examples: Sequence[Example], memory: Memory, rng: np.random.Generator, k: int) -> tuple[Example, ...]:
    """
    Return the `k` examples with the fewest visits, in a random order among equals: epochs, without a counter.

    All of them where there are fewer than `k`. Raises ValueError if `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"a step needs at least one example, not {k}")
    # A stable sort of a random permutation: random among equals.
    ranked = sorted(rng.permutation(len(examples)), key=lambda i: memory.record_of(examples[i].id).visits)
    return tuple(examples[i] for i in ranked[:k])


def vade(
    examples: Sequence[Example],
    memory: Memory,
    rng: np.random.Generator,
    k: int,
    *,
    lam1: Fading = 0.2,
    lam2: Fading = 0.999,
) -> tuple[Example, ...]:
    """
    Return the `k` examples of the highest gain under one draw of their pass rates, the highest first.

    Thompson sampling by VADE (arXiv 2511.18902). All examples where there are fewer than `k`; of equal gains the
    earlier example goes first. After each step counts fade: to `lam1` of their value for the examples of the step, to
    `lam2` for all others (`toolkit.groups.sampling.row_history.Memory.update`). Raises ValueError if `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"a step needs at least one example, not {k}")
    # p ~ Beta(alpha + 1, beta + 1): an example without visits has a uniform p, so it is tried. One draw of `rng` for
    # each example, in their order.
    records = [memory.record_of(example.id) for example in examples]
    p = rng.beta([record.alpha + 1 for record in records], [record.beta + 1 for record in records])
    ranked = np.argsort(-information_gain(p), kind="stable")
    return tuple(examples[i] for i in ranked[:k])


def information_gain(p: np.ndarray) -> np.ndarray:
    """Return VADE's information gain of a group at pass rate p: p (1 - p)^2, highest at 1/3."""
    return p * (1 - p) ** 2


def drop_resting(examples: Sequence[Example], memory: Memory) -> tuple[Example, ...]:
    """
    Return the examples in order, without those that rest; all of them where all would rest.

    One that every rollout of every visit solved rests for what is left of the round of its latest visit, and for the
    whole next round.
    """
    awake = (x for x in examples if not (memory.record_of(x.id).solved and memory.age(x.id) in (0, 1)))
    return tuple(awake) or tuple(examples)
