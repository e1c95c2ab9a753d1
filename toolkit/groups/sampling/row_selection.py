"""
Axis 1, select: which examples a step samples, and in which order.

    shuffled, batches    every example once an epoch, in a random order
    vade                 the examples that promise most signal, by what earlier steps saw
    rested               leaves out for a round what is always solved; goes before either
"""

from collections.abc import Sequence
from typing import Annotated, TypeVar

import numpy as np
from pydantic import Field

from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.types import Example
from edgewise.toolkit.util import seeds

T = TypeVar("T")
Fading = Annotated[float, Field(ge=0, le=1)]


def shuffled(examples: Sequence[T], seed: int, epoch: int) -> tuple[T, ...]:
    """All examples in an order of their own for each epoch; the same seed and epoch give the same order."""
    rng = np.random.default_rng(seeds.seed(seed, "shuffle", epoch))
    return tuple(examples[i] for i in rng.permutation(len(examples)))


def batches(examples: Sequence[T], size: int) -> list[tuple[T, ...]]:
    """The examples in order, `size` at a time, the last batch with what is left. ValueError below size 1."""
    if size < 1:
        raise ValueError(f"a batch needs at least one example, not {size}")
    return [tuple(examples[i : i + size]) for i in range(0, len(examples), size)]


def in_turn(
    examples: Sequence[Example], memory: Memory, rng: np.random.Generator, k: int
) -> tuple[Example, ...]:
    """
    The `k` examples that were visited least, in a random order among equals: epochs, without a counter.

    All of them where there are fewer than `k`; ValueError if `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"a step needs at least one example, not {k}")
    ranked = sorted(rng.permutation(len(examples)), key=lambda i: memory.of(examples[i].id).visits)
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
    The `k` examples of the highest gain under one draw of their pass rates, the highest first.

    Thompson sampling by VADE (arXiv 2511.18902): p ~ Beta(alpha + 1, beta + 1), and the gain is p (1 - p)^2, so
    that harder than even is preferred and an example never seen (p uniform) is tried. One draw of `rng` for
    each example, in their order; of equal gains the earlier example goes first. All of them where there are
    fewer than `k`; ValueError if `k` is below 1. After each step counts fade: to `lam1` of what they were for the
    examples of the step, to `lam2` for all others (`toolkit.groups.sampling.row_history.Memory.after`).
    """
    if k < 1:
        raise ValueError(f"a step needs at least one example, not {k}")
    known = [memory.of(example.id) for example in examples]
    p = rng.beta([x.alpha + 1 for x in known], [x.beta + 1 for x in known])
    ranked = np.argsort(-gain(p), kind="stable")
    return tuple(examples[i] for i in ranked[:k])


def gain(p: np.ndarray) -> np.ndarray:
    """VADE's information gain of a group at pass rate p: p (1 - p)^2, highest at 1/3."""
    return p * (1 - p) ** 2


def rested(examples: Sequence[Example], memory: Memory) -> tuple[Example, ...]:
    """
    The examples in order, without those that rest.

    One that was solved by every rollout of every visit rests for what is left of the round of its last visit
    and for the whole next round; then it is awake again. Where all would rest, all are awake.
    """
    awake = tuple(example for example in examples if not _rests(example, memory))
    return awake or tuple(examples)


def _rests(example: Example, memory: Memory) -> bool:
    age = memory.age(example.id)
    return memory.of(example.id).solved and age is not None and age <= 1
