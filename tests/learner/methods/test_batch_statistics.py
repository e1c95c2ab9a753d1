"""Statistics of an optimizer step: the update of methods that read one is the same however the step is sliced."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgewise.learner.methods import losses
from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.batch_statistics import required_statistics, add_statistics
from edgewise.learner.methods.method import Method, override
from edgewise.learner.methods.published import find_method
from edgewise.learner.policy.policy import Policy
from edgewise.learner.update import gradient_step as updating
from edgewise.learner.update.gradient_step import UpdateConfig, update

BIG = UpdateConfig(tokens=10_000, clip=1e9)
READERS = "drpo", "confucius3_math"


def batch() -> Batch:
    rng = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(0, 256, (count,), generator=rng).tolist()

    prompts, replies = [ids(7)] * 3 + [ids(4)] * 3, [ids(n) for n in (3, 1, 5, 2, 4, 6)]
    return Batch.from_lists(prompts, replies, [0, 0, 0, 1, 1, 1], [0.7, 0.3, -1.0, 1.0, -0.5, -0.5])


def trained(folder: Path, method: Method, how: UpdateConfig) -> torch.Tensor:
    policy = Policy.load(str(folder), device="cpu", dtype="float64")
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    update(policy, optimizer, method, batch(), how, torch.Generator().manual_seed(0))
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


@pytest.mark.parametrize("name", [*READERS, "reg_grpo", "rift"])
@pytest.mark.parametrize("size", [1, 12])
def test_slices_change_nothing(folder: Path, name: str, size: int) -> None:
    """Several steps, so that the policy is away from the one that sampled."""
    method = override(find_method(name), "epochs=2", "minibatches=1")
    method = method if name in READERS else replace(method, penalties=())
    whole, sliced = (trained(folder, method, replace(BIG, tokens=each)) for each in (10_000, size))
    torch.testing.assert_close(whole, sliced, rtol=1e-4, atol=1e-7)


def test_a_trust_region_holds_what_all_tokens_are_pushed_away_from(folder: Path) -> None:
    given = replace(batch(), advantage=torch.full((6, 1), -1.0, dtype=torch.float64))

    def moved(beta: float) -> float:
        policy = Policy.load(str(folder), device="cpu", dtype="float64")
        method = replace(find_method("drpo"), loss=losses.plain, minibatches=1, epochs=8)
        method = override(method, f"penalties.trust_region.beta={beta}")
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
        return update(policy, optimizer, method, given, BIG, torch.Generator()).kl

    assert 0 < moved(20.0) < 0.8 * moved(0.0)


@pytest.mark.parametrize("target", [0.0, 9.0])
def test_entropy_goes_towards_its_target_from_either_side(folder: Path, target: float) -> None:
    policy = Policy.load(str(folder), device="cpu", dtype="float64")
    method = override(
        find_method("confucius3_math"),
        f"penalties.targeted_entropy.target={target}",
        "penalties.targeted_entropy.coef=1.0",
    )
    given = replace(batch(), advantage=torch.zeros(6, 1, dtype=torch.float64))

    def entropy() -> float:
        with torch.no_grad():
            _, found = updating.compute_logps(policy, given, entropy=True)
        assert found is not None
        return float(found[given.mask].mean())

    before = entropy()
    update(policy, torch.optim.SGD(policy.parameters(), lr=0.1), method, given, BIG, torch.Generator())
    assert abs(entropy() - target) < abs(before - target)


def test_a_method_that_reads_none_pays_for_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = updating.compute_logps
    monkeypatch.setattr(updating, "compute_logps", lambda *given, **named: asked.append(1) or real(*given, **named))
    for name, forwards in (("dr_grpo", 1), ("confucius3_math", 2)):
        asked.clear()
        trained(folder, find_method(name), BIG)
        assert len(asked) == forwards
        assert bool(required_statistics(find_method(name))) == (forwards == 2)


def test_an_empty_step_has_a_mean_of_nothing() -> None:
    empty = batch().select_rows([])
    found = add_statistics(find_method("drpo"), empty, torch.zeros(0, 0), torch.zeros(0, 0))
    assert found.column("mean_kl").shape == (0,)
