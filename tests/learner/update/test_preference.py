"""Preferences: the losses of MPO are their formulas, and steps on pairs make the chosen answers likelier."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgewise.learner.methods.batch import Batch, LossInputs
from edgewise.learner.methods.method import override
from edgewise.learner.methods.token_weights import per_sequence
from edgewise.learner.policy.policy import Lora, Policy
from edgewise.learner.update.gradient_step import UpdateConfig, compute_frozen_logps, compute_gradient
from edgewise.learner.update.preference import (
    MPO,
    Preference,
    generation_loss,
    mpo_loss,
    prefer,
    preference_loss,
    quality_loss,
    rank_answers,
)

PAIRS = [
    Preference((65, 66, 67), (70, 257), (71, 72, 73, 257)),
    Preference((65, 66, 67), (74, 75, 257), (76, 257)),
    Preference((90,), (80, 81, 82, 257), (83,)),
]


def f64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# ---- the losses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("results", "printed"),
    [
        (preference_loss(f64(2), f64(-1)), 0.554355),  # log(1 + e^-0.3)
        (preference_loss(f64(-1), f64(2)), 0.854355),
        (preference_loss(f64(2), f64(-1), beta=1), 0.048587),  # log(1 + e^-3)
        (preference_loss(f64(7), f64(7)), 0.693147),
        (quality_loss(f64(2), f64(1), 0.05), 0.620957),  # log(1 + e^-0.15)
        (quality_loss(f64(-1), f64(-1), 0.15), 0.575939),  # log(1 + e^-0.25)
        (quality_loss(f64(-1), f64(1), -0.05), 0.718460),  # log(1 + e^0.05)
        (quality_loss(f64(0), f64(-1)), 0.693147),
        (generation_loss(f64(-6), f64(4)), 1.5),
        (generation_loss(f64(0), f64(0)), 0.0),
    ],
)
def test_losses_equal_their_formulas(results: Tensor, printed: float) -> None:
    assert results.tolist() == [pytest.approx(printed, abs=1e-6)]


@pytest.mark.parametrize("far", [-1e6, 1e6])
def test_losses_stay_finite_far_from_the_reference(far: float) -> None:
    moved = f64(far).requires_grad_()
    value = preference_loss(moved, f64(0)) + quality_loss(moved, f64(-1))
    assert torch.isfinite(value).all()
    assert torch.isfinite(torch.autograd.grad(value.sum(), moved)[0]).all()


def both(logp: list[list[float]], start: list[list[float]], shift: float) -> tuple[LossInputs, Batch]:
    """Answers as tokens and as their batch: the chosen and the rejected one of each pair in turn, ragged."""
    longest, count = max(map(len, logp)), len(logp)
    mask = torch.tensor([[i < len(row) for i in range(longest)] for row in logp])

    def table(rows: list[list[float]]) -> Tensor:
        return f64(*(x for row in rows for x in (*row, *[math.nan] * (longest - len(row))))).view(count, -1)

    sign, group = f64(*[1, -1] * (count // 2))[:, None], torch.arange(count) // 2
    now = table(logp).requires_grad_()
    columns = {"start_logp": table(start), "shift": torch.full((count,), shift, dtype=torch.float64)}
    ids = torch.zeros(count, longest, dtype=torch.long)
    x = LossInputs(now, now.detach(), mask, sign, group, columns)
    return x, Batch(((1,),) * count, ids, mask, group, sign, columns)


def test_mpo_loss_of_one_pair() -> None:
    """Chosen: 2 nats likelier than at the start and -1.5 a token; rejected: 1 nat less likely; shift 0.05."""
    x, batch = both([[-1, -2, -1.5], [-4]], [[-2, -2.5, -2], [-3]], 0.05)
    value = (mpo_loss(x) * per_sequence(batch)).sum().item()
    expected = 0.8 * 0.554355244 + 0.2 * (0.620957008 + 0.620957008) + 1.5
    assert value == pytest.approx(expected, abs=1e-6)


NATS = st.floats(-20, -0.01)
ANSWER = st.lists(st.tuples(NATS, NATS), min_size=1, max_size=4)


@given(st.lists(st.tuples(ANSWER, ANSWER), min_size=1, max_size=4), st.floats(-1, 1))
def test_mpo_loss_equals_a_loop_over_pairs(pairs: list[Any], shift: float) -> None:
    answers = [answer for pair in pairs for answer in pair]
    x, batch = both([[now for now, _ in a] for a in answers], [[then for _, then in a] for a in answers], shift)
    expected = 0.0
    for chosen, rejected in pairs:
        up, down = (0.1 * sum(now - then for now, then in answer) for answer in (chosen, rejected))
        expected += 0.8 * math.log1p(math.exp(down - up))
        expected += 0.2 * (math.log1p(math.exp(shift - up)) + math.log1p(math.exp(down - shift)))
        expected -= sum(now for now, _ in chosen) / len(chosen)
    value = (mpo_loss(x) * per_sequence(batch)).sum()
    assert value.item() == pytest.approx(expected / len(pairs), rel=1e-6)
    assert torch.isfinite(torch.autograd.grad(value, x.logp)[0]).all()


# ---- steps ------------------------------------------------------------------------------------------------


def policy(folder: Path, lora: Lora | None = None, dtype: str = "float32") -> Policy:
    return Policy.load(str(folder), device="cpu", dtype=dtype, lora=lora)


@torch.no_grad()
def nats(student: Policy, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """Log-probability of an answer by the model's own logits."""
    ids = torch.tensor([[*prompt, *answer]])
    logp = student.model(input_ids=ids).logits[0].log_softmax(-1)
    return sum(float(logp[i, ids[0, i + 1]]) for i in range(len(prompt) - 1, ids.shape[1] - 1))


def margin(student: Policy) -> float:
    return sum(nats(student, p.prompt, p.chosen) - nats(student, p.prompt, p.rejected) for p in PAIRS)


def train(student: Policy, pairs: list[Preference], **how: Any) -> list[float]:
    return prefer(student, student.create_optimizer(lr=0.005), pairs, **how)


def test_first_loss_is_log_2_plus_the_likelihood(folder: Path) -> None:
    student = policy(folder)
    written = -sum(nats(student, p.prompt, p.chosen) / len(p.chosen) for p in PAIRS) / 3
    expected = (0.8 + 0.4) * math.log(2) + written
    assert train(student, PAIRS) == [pytest.approx(expected, rel=1e-5)]


@pytest.mark.parametrize("lora", [None, Lora(4, 8.0)], ids=["whole", "lora"])
def test_chosen_answers_become_likelier_than_rejected_ones(folder: Path, lora: Lora | None) -> None:
    student = policy(folder, lora)
    before = margin(student)
    losses = train(student, PAIRS, epochs=20, batch_size=3)
    assert losses[-1] < losses[0] - 0.5
    assert margin(student) > before + 2


def test_the_shift_is_the_mean_reward_of_earlier_steps(folder: Path) -> None:
    """The third step on one pair, by quality alone: rewards of the first were 0, those of the second not."""
    method = override(MPO, "loss.preference=0", "loss.generation=0", "loss.quality=1")
    student, pair = policy(folder), PAIRS[0]
    start = [nats(student, pair.prompt, answer) for answer in (pair.chosen, pair.rejected)]
    rewards: list[list[float]] = []

    def record(_: float) -> None:
        now = [nats(student, pair.prompt, answer) for answer in (pair.chosen, pair.rejected)]
        rewards.append([0.1 * (x - x0) for x, x0 in zip(now, start, strict=True)])

    losses = train(student, [pair], method=method, epochs=3, on_loss=record)
    (up, down), shift = rewards[1], sum(rewards[0]) / 4  # with two zeros of the first step
    expected = math.log1p(math.exp(shift - up)) + math.log1p(math.exp(down - shift))
    assert losses[2] == pytest.approx(expected, rel=1e-4)


def test_slices_keep_pairs_together_and_change_nothing(folder: Path) -> None:
    student = policy(folder, dtype="float64")
    batch = Batch.from_lists(
        [p.prompt for p in PAIRS for _ in range(2)],
        [answer for p in PAIRS for answer in (p.chosen, p.rejected)],
        [0, 0, 1, 1, 2, 2],
        [1.0, -1.0] * 3,
        shift=[0.1] * 6,
    )
    batch = batch.with_columns(start_logp=compute_frozen_logps(student, batch, UpdateConfig())[0] - 0.5)
    results = []
    for size in (1, 12, 1000):
        for parameter in student.parameters():
            parameter.grad = None
        compute_gradient(student, MPO, batch, UpdateConfig(slice_tokens=size))
        results.append(torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[0], results[2], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(results[1], results[2], rtol=1e-4, atol=1e-7)


def test_the_same_seed_gives_the_same_weights(folder: Path) -> None:
    first, again, other = policy(folder), policy(folder), policy(folder)
    losses = train(first, PAIRS, epochs=2, batch_size=2, seed=1)
    assert len(losses) == 4
    assert train(again, PAIRS, epochs=2, batch_size=2, seed=1) == losses
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert train(other, PAIRS, epochs=2, batch_size=2, seed=3) != losses


def test_no_pairs_are_no_step(folder: Path) -> None:
    assert train(policy(folder), []) == []


# ---- pairs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [((), (1,), (2,)), ((1,), (), (2,)), ((1,), (2,), ()), ((1,), (2,), (2,))])
def test_empty_preference_is_refused(wrong: tuple[Any, Any, Any]) -> None:
    with pytest.raises(ValueError, match="two different answers"):
        Preference(*wrong)


ANSWERS = [(1,), (2,), (3,), (2,)]


def test_pairs_have_rewards_at_least_the_gap_apart() -> None:
    results = rank_answers((9,), ANSWERS, [1.0, 0.6, 0.0, 0.6], gap=0.5, most=10)
    assert {(p.chosen, p.rejected) for p in results} == {((1,), (3,)), ((2,), (3,))}
    assert len(rank_answers((9,), ANSWERS, [1.0, 0.6, 0.0, 0.6], gap=0.3, most=2)) == 2
    assert rank_answers((9,), ANSWERS, [1.0, 0.6, 0.0, 0.6], gap=15, most=10) == []


@pytest.mark.parametrize("rewards", [[0.1] * 4, [0.0] * 4, [1.0] * 4])
def test_equal_rewards_make_no_pair(rewards: list[float]) -> None:
    assert rank_answers((9,), ANSWERS, rewards, gap=1e-9, most=10) == []


def test_answer_is_no_pair_with_itself() -> None:
    assert rank_answers((9,), [(1,), (1,)], [0.0, 1.0], gap=0.5, most=10) == []


def test_gap_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="gap=0"):
        rank_answers((9,), ANSWERS, [0.0] * 4, gap=0, most=1)
