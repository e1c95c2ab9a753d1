"""Losses, penalties and weights against numbers of public code and of papers."""

import math

import pytest
import torch

from edgewise.learner.methods import losses, penalties
from edgewise.learner.methods.batch import Batch, LossInputs
from tests.support import golden

# Two sequences of 3 and 2 tokens; what stands in the padding must not matter.
BATCH = Batch.from_lists([(1,), (1,)], [(1, 2, 3), (4, 5)], [0, 0], golden.SIGN)
WIDE = golden.RATIOS


def pad(rows, garbage=9.9) -> torch.Tensor:
    return torch.tensor([[*row, *[garbage] * (3 - len(row))] for row in rows], dtype=torch.float64)


OLD, MOVED = pad(golden.OLD), pad(golden.MOVED)


def tokens(logp, **columns) -> LossInputs:
    return LossInputs(logp, OLD, BATCH.mask, BATCH.advantage, BATCH.group, columns)


def evaluate_gate(part, ratio, sign, **options):
    """What multiplies A, or A times the gradient of log p, at one ratio."""
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    x = LossInputs(
        logp,
        torch.zeros(1, 1, dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([[float(sign)]]).double(),
        torch.zeros(1),
    )
    value = part(x, **options).sum()
    value.backward()
    assert logp.grad is not None
    return -value.item() * sign, -logp.grad.item() * sign


@pytest.mark.parametrize("case", golden.LOSSES.values(), ids=list(golden.LOSSES))
def test_losses_match_public_code_and_plain_formulas(case) -> None:
    logp = (OLD + MOVED).requires_grad_()
    loss = (case.part(tokens(logp)) * case.weigh(BATCH).double()).sum()
    loss.backward()
    value, gradient = case.plain()
    slopes = [slope for row in gradient for slope in row]
    assert loss.item() == pytest.approx(value, abs=1e-7)
    assert logp.grad[BATCH.mask].tolist() == pytest.approx(slopes, abs=1e-7)
    for number, (text, tolerance) in zip(
        [loss.item(), *slopes], golden.parse_printed(f"{case.value} {case.gradient}"), strict=False
    ):
        assert number == pytest.approx(text, abs=tolerance)


def check_both_signs(ratio, text, evaluate) -> None:
    for sign, (number, tolerance) in zip((1, -1), golden.parse_printed(text), strict=True):
        assert evaluate(ratio, sign) == pytest.approx(number, abs=tolerance)


@pytest.mark.parametrize(("ratio", "text"), golden.SAPO.items())
def test_sapo_gates(ratio, text) -> None:
    check_both_signs(ratio, text, lambda r, sign: evaluate_gate(losses.soft_gated, r, sign)[0])


@pytest.mark.parametrize(("ratio", "text"), [(1.0, "1 1"), (2.0, ".78645 .76811")])
def test_sapo_slopes_in_the_ratio(ratio, text) -> None:
    check_both_signs(ratio, text, lambda r, sign: evaluate_gate(losses.soft_gated, r, sign)[1] / r)


@pytest.mark.parametrize(("ratio", "text"), golden.VESPO.items())
def test_vespo_gates(ratio, text) -> None:
    check_both_signs(ratio, text, lambda r, sign: evaluate_gate(losses.gamma_weighted, r, sign)[1])


@pytest.mark.parametrize("part", [losses.clipped, losses.clipped_sequence, losses.clipped_sequence_token])
def test_delta_bounds_the_ratio_of_negative_advantages(part) -> None:
    """As dual clip: only where A < 0, and no gradient beyond it."""
    assert evaluate_gate(part, math.exp(2), -1, delta=3.0) == pytest.approx((3.0, 0.0))
    assert evaluate_gate(part, math.exp(2), -1)[1] == pytest.approx(math.exp(2))
    assert evaluate_gate(part, 2.9, -1, delta=3.0) == pytest.approx((2.9, 2.9))
    for ratio in (0.5, 1.0, 5.0):
        assert evaluate_gate(part, ratio, 1, delta=3.0) == evaluate_gate(part, ratio, 1)


@pytest.mark.parametrize(
    ("ratio", "sign", "value", "slope"),
    [(0.5, 1, 0.5, 0.5), (1.1, 1, 1.1, 1.1), (1.5, 1, 1.28, 0), (0.5, -1, 0.8, 0), (1.5, -1, 1.5, 1.5)],
)
def test_clip_acts_only_beyond_the_bound_in_its_direction(ratio, sign, value, slope) -> None:
    assert evaluate_gate(losses.clipped, ratio, sign, **WIDE) == pytest.approx((value, slope))


def test_token_form_follows_token_advantages() -> None:
    """The gradient of token t is s A_t: its own advantage, with the ratio of the sequence."""
    credit = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 0.0]]).double()
    logp = (OLD + MOVED / 100).requires_grad_()
    x = LossInputs(logp, OLD, BATCH.mask, credit, BATCH.group)
    losses.clipped_sequence_token(x, low=0.2, high=0.2).sum().backward()
    ratio = x.mean(x.log_ratio).exp().detach()
    assert torch.allclose(logp.grad, torch.where(BATCH.mask, -ratio * credit, 0.0))


@pytest.mark.parametrize(("part", "slope"), [(penalties.kl1, 1), (penalties.kl2, 0.2), (penalties.kl3, 0.181269)])
def test_kl_estimates_and_their_gradients(part, slope) -> None:
    """At log-probabilities -1 and -1.2; the gradient of k3 is 1 - exp(x)."""
    ((number, tolerance),) = golden.parse_printed(golden.PENALTIES[part][1])
    logp = torch.full((2, 3), -1.0, dtype=torch.float64, requires_grad=True)
    penalty = part(tokens(logp, ref_logp=torch.full_like(OLD, -1.2)), beta=1.0)
    assert penalty[BATCH.mask].tolist() == pytest.approx([number] * 5, abs=tolerance)
    penalty.sum().backward()
    assert logp.grad[BATCH.mask].tolist() == pytest.approx([slope] * 5, abs=6e-7)


def test_corrected_kl_gradient_is_unbiased_off_policy() -> None:
    """All of a vocabulary of 3, as often as the old policy draws it."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    old, ref = (torch.tensor(x).double().log_softmax(0) for x in ([1.0, 0.0, -1.0], [0.0, 0.4, 0.1]))
    now = logits.log_softmax(0)
    every = torch.ones(1, 3, dtype=torch.bool)
    x = LossInputs(now[None], old[None], every, torch.zeros(1, 1), torch.zeros(1), {"ref_logp": ref[None]})
    mean = (penalties.kl3(x, beta=1.0, corrected=True) * old.exp()).sum()
    divergence = (now.exp() * (now - ref)).sum()
    (gradient,) = torch.autograd.grad(mean, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(divergence, logits)
    assert torch.allclose(mean, divergence) and torch.allclose(gradient, expected)


def test_k3_clamp_bounds_its_value() -> None:
    logp = torch.tensor([[-1.0, -30.0, -1.0], [-1.0, -1.0, 0.0]], dtype=torch.float64)
    x = tokens(logp, ref_logp=torch.full_like(OLD, -1.0))
    assert penalties.kl3(x, beta=0.5, clamp=10.0)[0].tolist() == [0, 5, 0]
    assert penalties.kl3(x, beta=0.5)[0, 1] > 1e11


def test_entropy_penalty_is_negative() -> None:
    x = tokens(OLD, entropy=torch.full_like(OLD, 0.7))
    assert torch.allclose(penalties.entropy(x, coef=0.1)[BATCH.mask], torch.tensor(-0.07).double())


# ---- losses that compare sequences, or know who drew them -----------------------------------------------------------


def make_inputs(shifts, advantages, group, **columns) -> LossInputs:
    """Sequences of 3 tokens, moved by the same at each token from an old log-probability of -1."""
    old = torch.full((len(shifts), 3), -1.0, dtype=torch.float64)
    logp = (old + torch.tensor(shifts).double()[:, None]).requires_grad_()
    tensors = {name: torch.tensor(values).double() for name, values in columns.items()}
    return LossInputs(logp, old, old < 0, torch.tensor(advantages).double()[:, None], torch.tensor(group), tensors)


def first_slopes(part, x: LossInputs) -> list[float]:
    """The gradient of the sum over sequences, at the first token of each."""
    (gradient,) = torch.autograd.grad(part(x).sum(), x.logp)
    return gradient[:, 0].tolist()


def test_sampler_ratio_uses_logps_of_earlier_steps() -> None:
    """Where it said nothing, the policy before the update did."""
    x = make_inputs([0.1, 0.1, 0.1], [1.0] * 3, [0] * 3, sampler_logp=[-1.0, -1.5, math.nan])
    assert (-losses.clipped_to_sampler(x))[:, 0].tolist() == pytest.approx([math.exp(0.1), 1.2, math.exp(0.1)])
    assert first_slopes(losses.clipped_to_sampler, x)[1] == 0


def test_trajectory_ratio_is_shared_by_all_steps() -> None:
    x = make_inputs([0.02, 0.01, 0.05], [1.0, 1.0, -1.0], [0] * 3, rollout=[7, 7, 3])
    ratios = math.exp(3 * 0.03), math.exp(3 * 0.05)
    assert (-losses.clipped_trajectory(x)).flatten().tolist() == pytest.approx([ratios[0], ratios[0], -ratios[1]])
    far = make_inputs([0.1, 0.01], [1.0, 1.0], [0, 0], rollout=[1, 1])
    assert first_slopes(losses.clipped_trajectory, far) == [0, 0], "what one step did, all have done"


def test_drpo_weighs_wrong_replies_by_their_likelihood() -> None:
    x = make_inputs([0.0, 0.3, 0.0, 0.0, 9.0], [1.0, -0.5, -0.5, 1.0, -1.0], [0, 0, 0, 1, 1])
    share = math.exp(0.3) / (math.exp(0.3) + 1)
    slopes = first_slopes(lambda x: losses.discriminated(x, tau=1.0), x)
    assert slopes == pytest.approx([-3 / 3, 3 * share / 3, 3 * (1 - share) / 3, -2 / 3, 2 / 3])


def test_regression_without_variance_is_the_policy_gradient() -> None:
    still = make_inputs([0.0, 0.0, 0.0], [1.0, -0.5, -0.5], [0] * 3)
    assert first_slopes(losses.regressed, still) == [-1.0, 0.5, 0.5]
    shifts = make_inputs([0.5, 0.1, 0.1], [math.sqrt(2), -math.sqrt(0.5), -math.sqrt(0.5)], [0] * 3)
    assert first_slopes(lambda x: losses.regressed(x, eps=0.0), shifts) == pytest.approx([0] * 3, abs=1e-9)


def test_groups_without_signal_do_not_dilute_regression() -> None:
    x = make_inputs([0.5, 0.1], [0.0, 0.0], [0, 0])
    assert not losses.regressed(x).any() and first_slopes(losses.regressed, x) == [0, 0]


def test_enumerated_uses_probabilities_within_the_group() -> None:
    x = make_inputs([1.0, 0.0, 5.0], [1.0, 1.0, 1.0], [0, 0, 1])
    (one, other, alone), total = (-losses.enumerated(x, low=9, high=9, delta=None)).flatten(), math.exp(3) + 1
    assert (one.item(), other.item(), alone.item()) == pytest.approx((2 * math.exp(3) / total, 2 / total, 1))
