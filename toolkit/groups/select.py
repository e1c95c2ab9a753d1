"""Axis 1, select: which examples a step samples, and in which order."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from toolkit import seeds

T = TypeVar("T")


def shuffled(examples: Sequence[T], seed: int, epoch: int) -> tuple[T, ...]:
    """All examples in an order of their own for each epoch; the same seed and epoch give the same order."""
    rng = np.random.default_rng(seeds.seed(seed, "shuffle", epoch))
    return tuple(examples[i] for i in rng.permutation(len(examples)))


def batches(examples: Sequence[T], size: int) -> list[tuple[T, ...]]:
    """The examples in order, `size` at a time, the last batch with what is left. ValueError below size 1."""
    if size < 1:
        raise ValueError(f"a batch needs at least one example, not {size}")
    return [tuple(examples[i : i + size]) for i in range(0, len(examples), size)]
