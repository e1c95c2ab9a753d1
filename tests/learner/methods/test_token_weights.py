"""Shares of tokens: what they sum to, and the four ways to reduce that are not interchangeable."""

import pytest
import torch

from edgewise.learner.methods import token_weights
from edgewise.learner.methods.batch import Batch

PARTS = [
    token_weights.per_sequence,
    token_weights.per_token,
    token_weights.summed,
    token_weights.constant,
    token_weights.per_group,
    token_weights.per_share,
    token_weights.curriculum,
]


def batch(*lengths: int, group=None, **columns) -> Batch:
    n = len(lengths)
    numbers = list(map(float, range(n)))
    usual = {"share": [1.0] * n, "reward": [0.5] * n, "rollout": numbers, "choice": numbers}
    replies = [range(length) for length in lengths]
    return Batch.from_lists([(1,)] * n, replies, group or [0] * n, [1.0] * n, **{**usual, **columns})


@pytest.mark.parametrize(
    ("part", "options", "expected"),
    [
        (token_weights.per_token, {}, 1.25),
        (token_weights.per_sequence, {}, 1.5),
        (token_weights.summed, {}, 2.5),
        (token_weights.constant, {"limit": 4}, 0.625),
    ],
)
def test_four_reductions_give_four_values(part, options, expected) -> None:
    values = torch.tensor([[1.0, 1, 1], [2, 0, 0]])
    assert (part(batch(3, 1), **options) * values).sum() == pytest.approx(expected)


@pytest.mark.parametrize("part", PARTS)
def test_padding_and_empty_replies_have_zero_weight(part) -> None:
    weights = part(batch(3, 0, 1))
    assert weights.shape == (3, 3) and weights.dtype == torch.float32
    assert not weights[1].any() and not weights[2, 1:].any() and (weights[0] > 0).all()


@pytest.mark.parametrize("part", PARTS)
def test_empty_batch_has_no_weights(part) -> None:
    assert not part(batch()).any() and not part(batch(0, 0)).any()


def test_empty_reply_counts_as_a_sequence() -> None:
    assert token_weights.per_sequence(batch(2, 0)).sum() == pytest.approx(0.5)
    assert token_weights.per_token(batch(2, 0)).sum() == pytest.approx(1)


def test_per_group_weights_are_equal_for_groups_of_any_size() -> None:
    weights = token_weights.per_group(batch(1, 2, 4, group=[3, 3, 8]))
    assert weights.sum(1).tolist() == [0.25, 0.25, 0.5] and weights[1, 0] == 0.125


def test_shares_divide_the_weight_of_their_group() -> None:
    """Two rollouts, of which one delegated once and one twice, count the same."""
    weights = token_weights.per_share(batch(2, 2, 2, 1, group=[0, 0, 0, 1], share=[1.0, 0.5, 0.5, 1.0]))
    assert weights.sum(1).tolist() == [0.25, 0.125, 0.125, 0.5]


def test_curriculum_weighs_groups_by_their_own_answers() -> None:
    group, reward, choice = [5, 5, 2, 2, 2], [1.0, 0.0, 1.0, 1.0, 1.0], [1.0, 2.0, 1.0, 2.0, 3.0]
    weights = token_weights.curriculum(batch(1, 1, 1, 1, 1, group=group, reward=reward, choice=choice))
    assert weights[:, 0].tolist() == pytest.approx([0.2, 0.2, 0, 0, 0])


def test_rollout_of_many_steps_counts_once_in_its_group() -> None:
    """One success in four steps and one failure in two: d is 1/2, and the answers differ as two can."""
    steps = {"rollout": [0.0] * 4 + [1.0] * 2, "reward": [1.0] * 4 + [0.0] * 2, "choice": [7.0] * 4 + [8.0] * 2}
    weights = token_weights.curriculum(batch(*[1] * 6, **steps))
    assert weights[:, 0].tolist() == pytest.approx([1 / 6] * 6)


def test_variety_is_at_most_one_with_more_answers_than_options() -> None:
    many = batch(*[1] * 8, reward=[0.5] * 8)
    assert token_weights.curriculum(many, options=4)[0, 0] == pytest.approx(1 / 8)
    assert token_weights.curriculum(batch(1), options=1).isfinite().all()
