"""Statistics of an optimizer step: the update of methods that read one is the same however the step is sliced."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgewise.learner.methods import losses
from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.batch_statistics import add_statistics, required_statistics
from edgewise.learner.methods.method import Method, override
from edgewise.learner.methods.published import find_method
from edgewise.learner.policy.policy import Policy
from edgewise.learner.update import gradient_step as updating
from edgewise.learner.update.gradient_step import UpdateConfig, update

BIG = UpdateConfig(slice_tokens=10_000, clip=1e9)
READERS = "drpo", "confucius3_math"


def batch() -> Batch:
    rng = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(0, 256, (count,), generator=rng).tolist()

    prompts, replies = [ids(7)] * 3 + [ids(4)] * 3, [ids(n) for n in (3, 1, 5, 2, 4, 6)]
    return Batch.from_lists(prompts, replies, [0, 0, 0, 1, 1, 1], [0.7, 0.3, -1.0, 1.0, -0.5, -0.5])


def train_weights(folder: Path, method: Method, config: UpdateConfig) -> torch.Tensor:
    policy = Policy.load(str(folder), device="cpu", dtype="float64")
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    update(policy, optimizer, method, batch(), config, torch.Generator().manual_seed(0))
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


@pytest.mark.parametrize("name", [*READERS, "reg_grpo", "rift"])
@pytest.mark.parametrize("size", [1, 12])
def test_update_does_not_depend_on_slicing(folder: Path, name: str, size: int) -> None:
    """Several steps, so that the policy is away from the one that sampled."""
    method = override(find_method(name), "epochs=2", "minibatches=1")
    method = method if name in READERS else replace(method, penalties=())
    whole, sliced = (train_weights(folder, method, replace(BIG, slice_tokens=tokens)) for tokens in (10_000, size))
    torch.testing.assert_close(whole, sliced, rtol=1e-4, atol=1e-7)


def test_trust_region_limits_the_kl_of_an_update(folder: Path) -> None:
    inputs = replace(batch(), advantage=torch.full((6, 1), -1.0, dtype=torch.float64))

    def measure_kl(beta: float) -> float:
        policy = Policy.load(str(folder), device="cpu", dtype="float64")
        method = replace(find_method("drpo"), loss=losses.plain, minibatches=1, epochs=8)
        method = override(method, f"penalties.trust_region.beta={beta}")
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
        return update(policy, optimizer, method, inputs, BIG, torch.Generator()).kl

    assert 0 < measure_kl(20.0) < 0.8 * measure_kl(0.0)


@pytest.mark.parametrize("target", [0.0, 9.0])
def test_entropy_moves_towards_its_target_from_either_side(folder: Path, target: float) -> None:
    policy = Policy.load(str(folder), device="cpu", dtype="float64")
    method = override(
        find_method("confucius3_math"),
        f"penalties.targeted_entropy.target={target}",
        "penalties.targeted_entropy.coef=1.0",
    )
    inputs = replace(batch(), advantage=torch.zeros(6, 1, dtype=torch.float64))

    def entropy() -> float:
        with torch.no_grad():
            _, entropies = updating.compute_logps(policy, inputs, entropy=True)
        assert entropies is not None
        return float(entropies[inputs.mask].mean())

    before = entropy()
    update(policy, torch.optim.SGD(policy.parameters(), lr=0.1), method, inputs, BIG, torch.Generator())
    assert abs(entropy() - target) < abs(before - target)


def test_only_methods_with_statistics_pay_for_a_forward(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = updating.compute_logps
    monkeypatch.setattr(updating, "compute_logps", lambda *args, **options: calls.append(1) or real(*args, **options))
    for name, forwards in (("dr_grpo", 1), ("confucius3_math", 2)):
        calls.clear()
        train_weights(folder, find_method(name), BIG)
        assert len(calls) == forwards
        assert bool(required_statistics(find_method(name))) == (forwards == 2)


def test_statistic_of_an_empty_batch_is_empty() -> None:
    empty = batch().select_rows([])
    result = add_statistics(find_method("drpo"), empty, torch.zeros(0, 0), torch.zeros(0, 0))
    assert result.column("mean_kl").shape == (0,)
