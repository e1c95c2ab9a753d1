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


def filled(rows, garbage=9.9) -> torch.Tensor:
    return torch.tensor([[*row, *[garbage] * (3 - len(row))] for row in rows], dtype=torch.float64)


OLD, MOVED = filled(golden.OLD), filled(golden.MOVED)


def tokens(logp, **columns) -> LossInputs:
    return LossInputs(logp, OLD, BATCH.mask, BATCH.advantage, BATCH.group, columns)


def gate(part, ratio, sign, **given):
    """What multiplies A, or A times the gradient of log p, at one ratio."""
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    x = LossInputs(
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


@pytest.mark.parametrize("case", golden.LOSSES.values(), ids=list(golden.LOSSES))
def test_numbers_of_public_code_and_of_plain_formulas(case) -> None:
    logp = (OLD + MOVED).requires_grad_()
    found = (case.part(tokens(logp)) * case.weigh(BATCH).double()).sum()
    found.backward()
    value, gradient = case.plain()
    slopes = [slope for row in gradient for slope in row]
    assert found.item() == pytest.approx(value, abs=1e-7)
    assert logp.grad[BATCH.mask].tolist() == pytest.approx(slopes, abs=1e-7)
    for number, (text, room) in zip(
        [found.item(), *slopes], golden.printed(f"{case.value} {case.gradient}"), strict=False
    ):
        assert number == pytest.approx(text, abs=room)


def both(ratio, text, found) -> None:
    for sign, (number, room) in zip((1, -1), golden.printed(text), strict=True):
        assert found(ratio, sign) == pytest.approx(number, abs=room)


@pytest.mark.parametrize(("ratio", "text"), golden.SAPO.items())
def test_gates_of_sapo(ratio, text) -> None:
    both(ratio, text, lambda r, sign: gate(losses.soft_gated, r, sign)[0])


@pytest.mark.parametrize(("ratio", "text"), [(1.0, "1 1"), (2.0, ".78645 .76811")])
def test_slopes_of_sapo_in_the_ratio(ratio, text) -> None:
    both(ratio, text, lambda r, sign: gate(losses.soft_gated, r, sign)[1] / r)


@pytest.mark.parametrize(("ratio", "text"), golden.VESPO.items())
def test_gates_of_vespo(ratio, text) -> None:
    both(ratio, text, lambda r, sign: gate(losses.gamma_weighted, r, sign)[1])


@pytest.mark.parametrize("part", [losses.clipped, losses.clipped_sequence, losses.clipped_sequence_token])
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
    assert gate(losses.clipped, ratio, sign, **WIDE) == pytest.approx((value, slope))


def test_the_token_form_follows_an_advantage_of_each_token() -> None:
    """The gradient of token t is s A_t: its own advantage, with the ratio of the sequence."""
    credit = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 0.0]]).double()
    logp = (OLD + MOVED / 100).requires_grad_()
    x = LossInputs(logp, OLD, BATCH.mask, credit, BATCH.group)
    losses.clipped_sequence_token(x, low=0.2, high=0.2).sum().backward()
    ratio = x.mean(x.log_ratio).exp().detach()
    assert torch.allclose(logp.grad, torch.where(BATCH.mask, -ratio * credit, 0.0))


@pytest.mark.parametrize(
    ("part", "slope"), [(penalties.kl1, 1), (penalties.kl2, 0.2), (penalties.kl3, 0.181269)]
)
def test_penalties_for_leaving_the_reference(part, slope) -> None:
    """At log-probabilities -1 and -1.2; the gradient of k3 is 1 - exp(x)."""
    ((number, room),) = golden.printed(golden.PENALTIES[part][1])
    logp = torch.full((2, 3), -1.0, dtype=torch.float64, requires_grad=True)
    found = part(tokens(logp, ref_logp=torch.full_like(OLD, -1.2)), beta=1.0)
    assert found[BATCH.mask].tolist() == pytest.approx([number] * 5, abs=room)
    found.sum().backward()
    assert logp.grad[BATCH.mask].tolist() == pytest.approx([slope] * 5, abs=6e-7)


def test_a_corrected_penalty_has_the_gradient_of_the_divergence_wherever_samples_came_from() -> None:
    """All of a vocabulary of 3, as often as the old policy draws it."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    old, ref = (torch.tensor(x).double().log_softmax(0) for x in ([1.0, 0.0, -1.0], [0.0, 0.4, 0.1]))
    now = logits.log_softmax(0)
    every = torch.ones(1, 3, dtype=torch.bool)
    x = LossInputs(now[None], old[None], every, torch.zeros(1, 1), torch.zeros(1), {"ref_logp": ref[None]})
    mean = (penalties.kl3(x, beta=1.0, corrected=True) * old.exp()).sum()
    divergence = (now.exp() * (now - ref)).sum()
    (found,) = torch.autograd.grad(mean, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(divergence, logits)
    assert torch.allclose(mean, divergence) and torch.allclose(found, expected)


def test_the_clamp_of_k3_holds_its_value() -> None:
    logp = torch.tensor([[-1.0, -30.0, -1.0], [-1.0, -1.0, 0.0]], dtype=torch.float64)
    x = tokens(logp, ref_logp=torch.full_like(OLD, -1.0))
    assert penalties.kl3(x, beta=0.5, clamp=10.0)[0].tolist() == [0, 5, 0]
    assert penalties.kl3(x, beta=0.5)[0, 1] > 1e11


def test_the_entropy_bonus_is_a_gain() -> None:
    x = tokens(OLD, entropy=torch.full_like(OLD, 0.7))
    assert torch.allclose(penalties.entropy(x, coef=0.1)[BATCH.mask], torch.tensor(-0.07).double())


# ---- losses that compare sequences, or know who drew them -----------------------------------------------------------


def several(moved, gain, group, **columns) -> LossInputs:
    """Sequences of 3 tokens, moved by the same at each token from an old log-probability of -1."""
    old = torch.full((len(moved), 3), -1.0, dtype=torch.float64)
    logp = (old + torch.tensor(moved).double()[:, None]).requires_grad_()
    found = {name: torch.tensor(values).double() for name, values in columns.items()}
    return LossInputs(logp, old, old < 0, torch.tensor(gain).double()[:, None], torch.tensor(group), found)


def slope(part, x: LossInputs) -> list[float]:
    """The gradient of the sum over sequences, at the first token of each."""
    (found,) = torch.autograd.grad(part(x).sum(), x.logp)
    return found[:, 0].tolist()


def test_the_ratio_to_the_sampler_knows_rollouts_of_earlier_steps() -> None:
    """Where it said nothing, the policy before the update did."""
    x = several([0.1, 0.1, 0.1], [1.0] * 3, [0] * 3, sampler_logp=[-1.0, -1.5, math.nan])
    assert (-losses.clipped_to_sampler(x))[:, 0].tolist() == pytest.approx(
        [math.exp(0.1), 1.2, math.exp(0.1)]
    )
    assert slope(losses.clipped_to_sampler, x)[1] == 0


def test_all_steps_of_a_rollout_have_one_ratio() -> None:
    x = several([0.02, 0.01, 0.05], [1.0, 1.0, -1.0], [0] * 3, rollout=[7, 7, 3])
    ratios = math.exp(3 * 0.03), math.exp(3 * 0.05)
    assert (-losses.clipped_trajectory(x)).flatten().tolist() == pytest.approx(
        [ratios[0], ratios[0], -ratios[1]]
    )
    far = several([0.1, 0.01], [1.0, 1.0], [0, 0], rollout=[1, 1])
    assert slope(losses.clipped_trajectory, far) == [0, 0], "what one step did, all have done"


def test_wrong_answers_are_pushed_down_by_how_likely_they_are_in_their_group() -> None:
    x = several([0.0, 0.3, 0.0, 0.0, 9.0], [1.0, -0.5, -0.5, 1.0, -1.0], [0, 0, 0, 1, 1])
    share = math.exp(0.3) / (math.exp(0.3) + 1)
    found = slope(lambda x: losses.discriminated(x, tau=1.0), x)
    assert found == pytest.approx([-3 / 3, 3 * share / 3, 3 * (1 - share) / 3, -2 / 3, 2 / 3])


def test_a_regression_that_has_nothing_to_tell_apart_is_the_policy_gradient() -> None:
    still = several([0.0, 0.0, 0.0], [1.0, -0.5, -0.5], [0] * 3)
    assert slope(losses.regressed, still) == [-1.0, 0.5, 0.5]
    moved = several([0.5, 0.1, 0.1], [math.sqrt(2), -math.sqrt(0.5), -math.sqrt(0.5)], [0] * 3)
    assert slope(lambda x: losses.regressed(x, eps=0.0), moved) == pytest.approx([0] * 3, abs=1e-9)


def test_groups_without_signal_do_not_dilute_a_regression() -> None:
    x = several([0.5, 0.1], [0.0, 0.0], [0, 0])
    assert not losses.regressed(x).any() and slope(losses.regressed, x) == [0, 0]


def test_listed_answers_have_their_probability_among_each_other() -> None:
    x = several([1.0, 0.0, 5.0], [1.0, 1.0, 1.0], [0, 0, 1])
    (one, other, alone), total = (-losses.enumerated(x, low=9, high=9, delta=None)).flatten(), math.exp(3) + 1
    assert (one.item(), other.item(), alone.item()) == pytest.approx((2 * math.exp(3) / total, 2 / total, 1))
