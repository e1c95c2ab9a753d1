"""Losses, penalties and weights against numbers of public code and of papers."""

import math

import pytest
import torch

from learner import loss, penalty, weigh
from learner.batch import Batch, Tokens

# Fixture B: two sequences of 3 and 2 tokens, the last entry is padding.
OLD = torch.tensor([[-1, -0.5, -2], [-0.3, -1.5, -0.7]], dtype=torch.float64)
D = torch.tensor([[0.5, -0.1, 0], [0.1, -0.6, 9.9]], dtype=torch.float64)
BATCH = Batch.of([(1,), (1,)], [(1, 2, 3), (4, 5)], [0, 0], [1, -1], old_logp=OLD)
WIDE = {"low": 0.2, "high": 0.28}


def tokens(logp, **columns) -> Tokens:
    return Tokens(logp, OLD, BATCH.mask, BATCH.advantage, BATCH.group, columns)


def descended(part, weights, **given):
    """The value and the gradient on fixture B."""
    logp = (OLD + D).requires_grad_()
    value = (part(tokens(logp), **given) * weights.double()).sum()
    value.backward()
    return value.item(), logp.grad


def gate(part, ratio, sign, **given):
    """What multiplies A, or A times the gradient of log p, at one ratio."""
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    x = Tokens(
        logp,
        torch.zeros(1, 1, dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([[float(sign)]]).double(),
        torch.zeros(1),
    )
    value = part(x, **given).sum()
    value.backward()
    assert logp.grad is not None
    return -value.item() * sign, -logp.grad.item() * sign


TOKEN_MEAN = [[0, -0.18097, -0.2], [0.22103, 0, 0]]
SEQUENCE_MEAN = [[0, -0.15081, -0.16667], [0.27629, 0, 0]]
DR = [[0, -0.1131, -0.125], [0.13815, 0, 0]]
CAP_RELATIVE = [[-0.256, -0.18097, -0.2], [0.22103, 0.16, 0]]
CAP_5 = [[-0.32974, -0.18097, -0.2], [0.22103, 0.10976, 0]]
SEQUENCE = [[-0.19044] * 3, [0, 0, 0]]
SOFT = [[-0.24779, -0.15047, -0.16667], [0.27545, 0.12978, 0]]
NOTHING = [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("part", "given", "weights", "value", "gradient"),
    [
        (loss.clipped, WIDE, weigh.per_token, -0.255933, TOKEN_MEAN),
        (loss.clipped, WIDE, weigh.per_sequence, -0.054514, SEQUENCE_MEAN),
        (loss.clipped, WIDE, weigh.summed, -0.639833, None),
        (loss.clipped, WIDE, lambda batch: weigh.constant(batch, limit=3), -0.213278, None),
        (loss.clipped, WIDE, lambda batch: weigh.constant(batch, limit=4), -0.159958, DR),
        (loss.clipped_sequence, WIDE, weigh.per_sequence, -0.171315, SEQUENCE),
        (loss.clipped_sequence_token, WIDE, weigh.per_sequence, -0.171315, SEQUENCE),
        (loss.clipped_sequence, {}, weigh.per_sequence, -0.000350, NOTHING),
        (loss.clipped_sequence_token, {}, weigh.per_sequence, -0.000350, NOTHING),
        (loss.clipped_sequence, WIDE, weigh.summed, -0.913946, None),
        (loss.soft_gated, {}, weigh.per_sequence, -0.220720, SOFT),
        (loss.clipped_weight, WIDE, weigh.per_token, 0.256374, CAP_RELATIVE),
        (loss.clipped_weight, {}, weigh.per_token, 0.398745, CAP_5),
        (loss.clipped_weight, {"low": 1.0, "high": -0.8}, weigh.per_token, 0.032000, None),
        (loss.gamma_weighted, {}, weigh.per_token, 0.090062, None),
        (loss.geometric, WIDE, weigh.per_sequence, -0.055304, None),
        (loss.plain, {}, weigh.per_token, 0.160000, [[-0.2] * 3, [0.2, 0.2, 0]]),
    ],
)
def test_numbers_of_public_code(part, given, weights, value, gradient) -> None:
    found, slope = descended(part, weights(BATCH), **given)
    assert found == pytest.approx(value, abs=6e-7)
    if gradient is not None:
        assert torch.allclose(slope, torch.tensor(gradient).double(), atol=6e-6)


@pytest.mark.parametrize(
    ("ratio", "positive", "negative"),
    [
        (0, 1.0758, 0.9875),
        (0.5, 1.5102, 1.4159),
        (1, 2.0, 1.90476),
        (2, 2.9242, 2.8220),
        (10, 3.9995, 3.8092),
    ],
)
def test_gates_of_sapo(ratio, positive, negative) -> None:
    ratio = ratio or 2.1e-9  # as near to 0 as a ratio comes
    assert gate(loss.soft_gated, ratio, 1)[0] == pytest.approx(positive, abs=6e-5)
    assert gate(loss.soft_gated, ratio, -1)[0] == pytest.approx(negative, abs=6e-5)


def test_slopes_of_sapo() -> None:
    """In r; that in log p is r times it."""
    for ratio, positive, negative in [(1, 1, 1), (2, 0.78645, 0.76811)]:
        assert gate(loss.soft_gated, ratio, 1)[1] / ratio == pytest.approx(positive, abs=6e-6)
        assert gate(loss.soft_gated, ratio, -1)[1] / ratio == pytest.approx(negative, abs=6e-6)


@pytest.mark.parametrize(
    ("ratio", "positive", "negative"),
    [(0.5, 1.1204, 0.3398), (1, 1, 1), (1.5, 0.5020, 1.2416), (3, 0.0223, 0.4945)],
)
def test_gates_of_vespo(ratio, positive, negative) -> None:
    assert gate(loss.gamma_weighted, ratio, 1)[1] == pytest.approx(positive, abs=6e-5)
    assert gate(loss.gamma_weighted, ratio, -1)[1] == pytest.approx(negative, abs=6e-5)


@pytest.mark.parametrize("part", [loss.clipped, loss.clipped_sequence, loss.clipped_sequence_token])
def test_a_second_bound_holds_what_is_pushed_down(part) -> None:
    """As dual clip: only where A < 0, and no gradient beyond it."""
    assert gate(part, math.exp(2), -1, delta=3.0) == pytest.approx((3.0, 0.0))
    assert gate(part, math.exp(2), -1)[1] == pytest.approx(math.exp(2))
    assert gate(part, 2.9, -1, delta=3.0) == pytest.approx((2.9, 2.9))
    for ratio in (0.5, 1.0, 5.0):
        assert gate(part, ratio, 1, delta=3.0) == gate(part, ratio, 1)


@pytest.mark.parametrize(
    ("ratio", "sign", "value", "slope"),
    [(0.5, 1, 0.5, 0.5), (1.1, 1, 1.1, 1.1), (1.5, 1, 1.28, 0), (0.5, -1, 0.8, 0), (1.5, -1, 1.5, 1.5)],
)
def test_the_clip_acts_only_where_the_policy_went_far_enough(ratio, sign, value, slope) -> None:
    assert gate(loss.clipped, ratio, sign, **WIDE) == pytest.approx((value, slope))


def test_the_token_form_follows_an_advantage_of_each_token() -> None:
    """The gradient of token t is s A_t: its own advantage, with the ratio of the sequence."""
    credit = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 0.0]]).double()
    logp = (OLD + D / 100).requires_grad_()
    x = Tokens(logp, OLD, BATCH.mask, credit, BATCH.group)
    loss.clipped_sequence_token(x, low=0.2, high=0.2).sum().backward()
    ratio = x.mean(x.log_ratio).exp().detach()
    assert torch.allclose(logp.grad, torch.where(BATCH.mask, -ratio * credit, 0.0))


@pytest.mark.parametrize(
    ("part", "value", "slope"),
    [(penalty.kl1, 0.2, 1), (penalty.kl2, 0.02, 0.2), (penalty.kl3, 0.018731, 0.181269)],
)
def test_penalties_for_leaving_the_reference(part, value, slope) -> None:
    """At log-probabilities -1 and -1.2; the gradient of k3 is 1 - exp(x)."""
    logp = torch.full((2, 3), -1.0, dtype=torch.float64, requires_grad=True)
    found = part(tokens(logp, ref_logp=torch.full_like(OLD, -1.2)), beta=1.0)
    assert torch.allclose(found[BATCH.mask], torch.tensor(value).double(), atol=6e-7)
    found.sum().backward()
    assert torch.allclose(logp.grad[BATCH.mask], torch.tensor(slope).double(), atol=6e-7)


def test_the_clamp_of_k3_holds_its_value() -> None:
    logp = torch.tensor([[-1.0, -30.0, -1.0], [-1.0, -1.0, 0.0]], dtype=torch.float64)
    x = tokens(logp, ref_logp=torch.full_like(OLD, -1.0))
    assert penalty.kl3(x, beta=0.5, clamp=10.0)[0].tolist() == [0, 5, 0]
    assert penalty.kl3(x, beta=0.5)[0, 1] > 1e11


def test_the_entropy_bonus_is_a_gain() -> None:
    x = tokens(OLD, entropy=torch.full_like(OLD, 0.7))
    assert torch.allclose(penalty.entropy(x, coef=0.1)[BATCH.mask], torch.tensor(-0.07).double())
