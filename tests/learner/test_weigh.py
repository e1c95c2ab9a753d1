"""Shares of tokens: what they sum to, and the four ways to reduce that are not interchangeable."""

import pytest
import torch

from learner import weigh
from learner.batch import Batch

PARTS = [weigh.per_sequence, weigh.per_token, weigh.summed, weigh.constant]


def batch(*lengths: int) -> Batch:
    return Batch.of(
        [(1,)] * len(lengths), [range(n) for n in lengths], [0] * len(lengths), [1.0] * len(lengths)
    )


@pytest.mark.parametrize(
    ("part", "given", "expected"),
    [
        (weigh.per_token, {}, 1.25),
        (weigh.per_sequence, {}, 1.5),
        (weigh.summed, {}, 2.5),
        (weigh.constant, {"limit": 4}, 0.625),
    ],
)
def test_four_ways_to_reduce_are_four(part, given, expected) -> None:
    values = torch.tensor([[1.0, 1, 1], [2, 0, 0]])
    assert (part(batch(3, 1), **given) * values).sum() == pytest.approx(expected)


@pytest.mark.parametrize("part", PARTS)
def test_padding_and_replies_without_tokens_weigh_nothing(part) -> None:
    weights = part(batch(3, 0, 1))
    assert weights.shape == (3, 3) and weights.dtype == torch.float32
    assert not weights[1].any() and not weights[2, 1:].any() and (weights[0] > 0).all()


@pytest.mark.parametrize("part", PARTS)
def test_an_empty_batch_is_no_error(part) -> None:
    assert not part(batch()).any() and not part(batch(0, 0)).any()


def test_a_reply_without_tokens_counts_as_a_sequence() -> None:
    assert weigh.per_sequence(batch(2, 0)).sum() == pytest.approx(0.5)
    assert weigh.per_token(batch(2, 0)).sum() == pytest.approx(1)
