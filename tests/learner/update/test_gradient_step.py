"""The update: the same gradient however it is sliced and shared, and nothing lost where memory or numbers fail."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.method import override
from edgewise.learner.methods.published import METHODS, find_method
from edgewise.learner.policy.policy import Lora, Policy
from edgewise.learner.update import gradient_step as updating
from edgewise.learner.update.gradient_step import UpdateConfig, compute_gradient, update
from edgewise.toolkit.errors import OutOfMemory

BIG = UpdateConfig(slice_tokens=10_000, clip=1e9)
CLOSE = {"rtol": 1e-4, "atol": 1e-7}  # norms of transformers are float32 in any model
ON_POLICY = "grpo", "dr_grpo", "dapo", "gspo", "reinforce_plus_plus"


@pytest.fixture
def policy(folder: Path) -> Policy:
    return Policy.load(str(folder), device="cpu", dtype="float64")


def batch() -> Batch:
    """Three groups of ragged replies, two of the groups with one prompt."""
    rng = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(0, 256, (count,), generator=rng).tolist()

    prompts = [ids(7)] * 6 + [ids(4)] * 3
    replies = [ids(n) for n in (3, 1, 5, 2, 4, 4, 6, 2, 3)]
    advantage = [1.0, -0.5, -0.5, 0.7, -0.2, -0.5, 2.0, -1.0, -1.0]
    logprobs = [[-5.0] * len(reply) for reply in replies]
    return Batch.from_lists(prompts, replies, [0, 0, 0, 1, 1, 1, 2, 2, 2], advantage, sampler_logp=logprobs)


def flat(policy: Policy) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def gradient_of(policy: Policy, name: str, how: UpdateConfig, data: Batch | None = None) -> torch.Tensor:
    for parameter in policy.parameters():
        parameter.grad = None
    compute_gradient(policy, replace(find_method(name), penalties=()), data or batch(), how)
    return flat(policy)


@pytest.mark.parametrize("name", ON_POLICY)
@pytest.mark.parametrize("size", [1, 12, 30])
def test_slices_change_nothing(policy: Policy, name: str, size: int) -> None:
    whole = gradient_of(policy, name, BIG)
    assert whole.norm() > 1e-4
    torch.testing.assert_close(gradient_of(policy, name, replace(BIG, slice_tokens=size)), whole, **CLOSE)


@pytest.mark.parametrize("name", ON_POLICY)
def test_shares_of_several_processes_add_up(policy: Policy, name: str) -> None:
    whole = gradient_of(policy, name, BIG)

    class One(updating.SINGLE_PROCESS.__class__):
        def __init__(self, rank: int):
            self.rank, self.size = rank, 2

        def shard(self, units):
            return units[self.rank :: 2]

    how, total = replace(BIG, slice_tokens=8), torch.zeros_like(whole)
    for rank in range(2):
        for parameter in policy.parameters():
            parameter.grad = None
        compute_gradient(policy, replace(find_method(name), penalties=()), batch(), how, One(rank))
        total += flat(policy)
    torch.testing.assert_close(total, whole, **CLOSE)


def test_step_raises_the_objective_from_ratio_one(policy: Policy) -> None:
    data = batch()

    def objective() -> float:
        with torch.no_grad():
            logp, _ = updating.compute_logps(policy, data)
        return float((data.advantage * logp * METHODS["dr_grpo"].weigh(data)).sum())

    before = objective()
    done = update(policy, policy.create_optimizer(lr=1e-3), find_method("dr_grpo"), data, BIG, torch.Generator())
    assert objective() > before
    assert (done.steps, done.ratio) == (1, 0.0)
    assert done.norm > 0


def test_epochs_and_minibatches_leave_the_old_policy(policy: Policy) -> None:
    method = override(replace(find_method("grpo"), penalties=()), "epochs=2", "minibatches=3")
    done = update(policy, policy.create_optimizer(lr=1e-3), method, batch(), BIG, torch.Generator().manual_seed(0))
    assert done.steps == 6
    assert done.ratio < 1e-6
    assert done.kl > 1e-7


def test_penalty_keeps_the_policy_near_its_reference(folder: Path) -> None:
    def moved(beta: float) -> float:
        policy = Policy.load(str(folder), device="cpu", dtype="float64").with_reference()
        method = override(find_method("grpo"), f"penalties.kl3.beta={beta}")
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
        for _ in range(8):
            update(policy, optimizer, method, batch(), BIG, torch.Generator())
        data = batch()
        with torch.no_grad():
            now, _ = updating.compute_logps(policy, data)
            with policy.reference():
                then, _ = updating.compute_logps(policy, data)
        return float((now - then).abs()[data.mask].mean())

    assert moved(1.0) < 0.7 * moved(0.001)


def test_lora_trains_the_adapter_alone(folder: Path) -> None:
    policy = Policy.load(str(folder), device="cpu", dtype="float64", lora=Lora(rank=4, alpha=8.0))
    base = {k: v.clone() for k, v in policy.model.state_dict().items() if "lora" not in k}
    done = update(policy, policy.create_optimizer(lr=1e-2), find_method("dr_grpo"), batch(), BIG, torch.Generator())
    assert done.steps == 1 and done.norm > 0
    after = policy.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in base.items())


def test_short_memory_halves_the_slices_and_changes_nothing(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    method = find_method("dr_grpo")
    whole = gradient_of(policy, "dr_grpo", BIG)
    real = updating.compute_logps

    def greedy(policy, part, **how):
        if part.mask.sum() + len(set(part.prompts)) > 20:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
        return real(policy, part, **how)

    monkeypatch.setattr(updating, "compute_logps", greedy)
    monkeypatch.setattr(updating, "MIN_SLICE_TOKENS", 1)
    done = update(policy, torch.optim.SGD(policy.parameters(), lr=0.0), method, batch(), BIG, torch.Generator())
    assert 0 < done.tokens < BIG.slice_tokens
    torch.testing.assert_close(flat(policy), whole, **CLOSE)


def test_memory_below_one_sequence_is_one_sentence(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(updating, "compute_logps", never)
    with pytest.raises(OutOfMemory, match="use LoRA"):
        update(policy, policy.create_optimizer(lr=1e-3), find_method("dr_grpo"), batch(), BIG, torch.Generator())


def test_nan_gradient_changes_no_weight(policy: Policy) -> None:
    data = batch()
    broken = replace(data, advantage=data.advantage * float("nan"))
    before = [p.detach().clone() for p in policy.parameters()]
    done = update(policy, policy.create_optimizer(lr=1.0), find_method("dr_grpo"), broken, BIG, torch.Generator())
    assert done.steps == 0 and done.loss != done.loss
    assert all(torch.equal(p, q) for p, q in zip(policy.parameters(), before, strict=True))


def test_correction_weighs_tokens_by_the_probability_ratio(policy: Policy) -> None:
    data = batch()
    with torch.no_grad():
        logp, _ = updating.compute_logps(policy, data)
    same = data.with_columns(sampler_logp=logp)
    half = data.with_columns(sampler_logp=logp + torch.log(torch.tensor(2.0)))
    far = data.with_columns(sampler_logp=logp - 5.0)
    plain = gradient_of(policy, "dr_grpo", BIG, same)
    how = replace(BIG, correction=1.5)
    torch.testing.assert_close(gradient_of(policy, "dr_grpo", how, same), plain)
    torch.testing.assert_close(gradient_of(policy, "dr_grpo", how, half), 0.5 * plain)
    torch.testing.assert_close(gradient_of(policy, "dr_grpo", how, far), 1.5 * plain)
