"""Imitation: the loss is the model's own, weights count, and the same seed gives the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.learner.policy.policy import Lora, Policy
from edgewise.learner.update.imitation import Demonstration, imitate

PAIRS = [
    Demonstration((65, 66, 67), (70, 257)),
    Demonstration((65, 66, 67), (71, 72, 257)),
    Demonstration((90,), (80, 81, 82, 257)),
    Demonstration((91, 92), (83, 257)),
]


def policy(folder: Path, lora: Lora | None = None) -> Policy:
    return Policy.load(str(folder), device="cpu", dtype="float32", lora=lora)


def train(student: Policy, pairs: list[Demonstration], lr: float = 0.01, **how: Any) -> list[float]:
    return imitate(student, student.create_optimizer(lr=lr), pairs, **how)


@torch.no_grad()
def nats(student: Policy, pair: Demonstration) -> float:
    """Of the answer of a pair, summed over its tokens, by the model's own logits."""
    ids = torch.tensor([[*pair.prompt, *pair.answer]])
    logp = student.model(input_ids=ids).logits[0].log_softmax(-1)
    at = range(len(pair.prompt) - 1, ids.shape[1] - 1)
    return -sum(float(logp[i, ids[0, i + 1]]) for i in at)


def test_first_loss_is_the_mean_nll_of_answer_tokens(folder: Path) -> None:
    student = policy(folder)
    expected = sum(nats(student, pair) for pair in PAIRS) / sum(len(pair.answer) for pair in PAIRS)
    assert train(student, PAIRS, batch_size=4) == [pytest.approx(expected, rel=1e-4)]


@pytest.mark.parametrize("lora", [None, Lora(4, 8.0)], ids=["whole", "lora"])
def test_answers_become_likely_and_negative_ones_unlikely(folder: Path, lora: Lora | None) -> None:
    student = policy(folder, lora)
    shunned = Demonstration((97,), (98, 257), -0.2)
    start, before = nats(student, shunned), sum(nats(student, pair) for pair in PAIRS)
    losses = train(student, [*PAIRS, shunned], epochs=30, batch_size=5)
    assert losses[-1] < losses[0] - 0.2
    assert sum(nats(student, pair) for pair in PAIRS) < before - 2
    assert nats(student, shunned) > start + 0.2


def test_demonstration_of_weight_zero_changes_nothing(folder: Path) -> None:
    student = policy(folder)
    before = [p.detach().clone() for p in student.parameters()]
    assert train(student, [Demonstration((65,), (66, 257), 0.0)], epochs=3) == [0.0] * 3
    assert all(map(torch.equal, student.parameters(), before))


def test_batches_and_order_follow_from_the_seed(folder: Path) -> None:
    recorded: list[float] = []
    first, again, other = policy(folder), policy(folder), policy(folder)
    losses = imitate(
        first, first.create_optimizer(lr=0.01), PAIRS, epochs=2, batch_size=3, seed=1, on_loss=recorded.append
    )
    assert recorded == losses and len(losses) == 4  # batches of 3 and 1, twice
    assert train(again, PAIRS, epochs=2, batch_size=3, seed=1) == losses
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert train(other, PAIRS, epochs=2, batch_size=3, seed=2) != losses


def test_nothing_to_imitate_is_no_step(folder: Path) -> None:
    assert train(policy(folder), []) == []


@pytest.mark.parametrize("wrong", [((), (1,), 1.0), ((1,), (), 1.0), ((1,), (1,), float("nan"))])
def test_empty_demonstration_is_refused(wrong: tuple[tuple[int, ...], tuple[int, ...], float]) -> None:
    with pytest.raises(ValueError, match="a demonstration has"):
        Demonstration(*wrong)
