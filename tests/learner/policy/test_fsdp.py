"""Weights shared out over processes: the gradients, weights and files of one process that has them all."""

import json
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from edgewise.learner.api import train
from edgewise.learner.config import WeightsConfig
from edgewise.learner.hardware.process_group import SINGLE_PROCESS, ProcessGroup, join_process_group
from edgewise.learner.methods.batch import split_into_slices
from edgewise.learner.policy import checkpoint, fsdp
from edgewise.learner.policy.fsdp import ShardedPolicy
from edgewise.learner.policy.policy import Policy
from edgewise.learner.spec import WeightsSpec
from edgewise.learner.training.engine import Engine
from edgewise.learner.update import gradient_step as updating
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.errors import ConfigError, LimitReached
from tests.learner.training.test_distributed_engine import SMALL, apart, batch, gradients
from tests.support.learner import exact, several, tiny
from tests.support.learner.shares import task

TOKENS = 25
ODD = 259
"""Words of a vocabulary that no number of processes shares evenly."""
CPU = torch.device("cpu")
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-6}
KINDS = {torch.float64: ("torch.float64", "again"), torch.float32: ("torch.float32",)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"torch/{tiny.save_model(tmp_path_factory.mktemp('tiny'), vocab_size=ODD)}"


@pytest.fixture(autouse=True)
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ---- gradients ---------------------------------------------------------------------------------------------


def make_sharded(together: ProcessGroup, dtype: torch.dtype, **options: Any) -> ShardedPolicy:
    exactly = torch.float32 if dtype == torch.bfloat16 else dtype
    return ShardedPolicy(exact.policy("Qwen3", exactly, **options), together, CPU, dtype)


def make_plain(dtype: torch.dtype) -> Policy:
    return exact.policy("Qwen3", dtype)


def save_gradients(folder: Path) -> None:
    together = join_process_group()
    make = partial(make_sharded, together)
    gradients_of = {str(dtype): gradients(together, dtype, TOKENS, make) for dtype in (*CLOSE, torch.bfloat16)}
    shares = [cast(DTensor, p).to_local().numel() / p.numel() for p in make(torch.float32).parameters()]
    assert all(share == 0.5 for share in shares)
    gradients_of["again"] = gradients(together, torch.float64, TOKENS, partial(make, checkpointing=True))
    torch.save(gradients_of, folder / f"{together.rank}.pt")


def test_sharded_gradients_equal_one_process(tmp_path: Path) -> None:
    assert len(list(split_into_slices(batch(), TOKENS))) % 2  # one process ends with a slice without rows
    assert several.wait_for_all(several.start_processes(save_gradients, tmp_path, folder=tmp_path)) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    for dtype, tolerance in CLOSE.items():
        alone = gradients(SINGLE_PROCESS, dtype, TOKENS, make_plain)
        for kind, name in [(kind, name) for kind in KINDS[dtype] for name in alone]:
            (gradient, stats), (gradient_there, stats_there) = alone[name], first[kind][name]
            assert gradient_there.dtype == gradient.dtype and gradient.norm() > 1e-3
            assert float((gradient_there - gradient).abs().max()) <= tolerance
            assert second[kind][name][1] == stats_there and stats_there.steps == stats.steps
            assert stats_there.norm == pytest.approx(stats.norm, rel=1e-5)
            assert (stats_there.loss, stats_there.kl) == pytest.approx((stats.loss, stats.kl), abs=1e-6)
            if dtype == torch.float64:
                half = first["torch.bfloat16"][name][0]
                assert half.dtype == torch.float32  # products are rounded, sums over processes are not
                assert 1e-4 < float((half - gradient).norm() / gradient.norm()) < 0.03


# ---- whole runs --------------------------------------------------------------------------------------------


def train_twice(model: str) -> None:
    """A run that a limit stops after its first checkpoint, and the same one taken up again."""
    rows, settings = task(test=2), {**SMALL, "steps": 3, "save_every": 1, "shard": True}
    with pytest.raises(LimitReached):
        train(rows, model=model, run="run", limits=Limits(calls=40), **settings)
    result = train(rows, model=model, run="run", limits=Limits(calls=500), **settings)
    Path("result.json").write_text(json.dumps(result.to_json()))


def test_sharded_run_equals_one_process_and_saves_full_weights(model: str, tmp_path: Path) -> None:
    assert several.wait_for_all(several.start_processes(train_twice, model, folder=tmp_path)) == [0, 0]
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["result.json"]
    results = [json.loads((tmp_path / str(rank) / "result.json").read_text()) for rank in (0, 1)]
    assert results[0] == results[1]
    run = tmp_path / "0" / "run"
    train(task(test=2), model=model, run="alone", **{**SMALL, "slice_tokens": 8192, "steps": 3})
    gap = apart(run, tmp_path / "alone")
    # AdamW makes steps of 0.02 of gradients however small, so that the rounding of the smallest is seen.
    assert gap.mean() < 5e-7 and gap.max() < 1e-3

    restored = Policy.load(model.removeprefix("torch/"), device="cpu", dtype="float32")
    optimizer = restored.create_optimizer()
    assert checkpoint.restore(run / "checkpoints" / "000003", restored, optimizer)["number"] == 3
    assert {int(state["step"]) for state in optimizer.state.values()} == {3}
    loaded = Policy.load(str(run / "artifact" / "weights"), device="cpu", dtype="float32")
    written = load_file(run / "artifact" / "weights" / "model.safetensors")
    for name, weight in loaded.model.named_parameters():
        assert written[name].equal(weight) and weight.equal(restored.model.get_parameter(name))
    assert set(written) == {name for name, _ in loaded.model.named_parameters()}  # tied ones once


# ---- errors ------------------------------------------------------------------------------------------------


def fail_alone(model: str, part: str) -> None:
    module, name = {"update": (updating, "backward_slice"), "sampling": (Engine, "answer")}[part]
    real = getattr(module, name)

    def short(*args: Any) -> Any:
        if join_process_group().rank == 1:
            raise MemoryError("no room")
        return real(*args)

    setattr(module, name, short)
    train(task(test=2), model=model, run="run", **{**SMALL, "shard": True})


@pytest.mark.parametrize(("part", "lost"), [("update", True), ("sampling", False)])
def test_failure_of_one_process_ends_all_with_a_message(model: str, tmp_path: Path, part: str, lost: bool) -> None:
    assert several.wait_for_all(several.start_processes(fail_alone, model, part, folder=tmp_path), 30) == [1, 1]
    output = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert "MemoryError: no room" in output[1]
    assert all(("LostProcess: A process that shares the weights has failed" in text) is lost for text in output)
    assert ("MemoryError: no room" in output[0]) is not lost  # who waits for a tensor can only see that none comes


def test_shard_with_one_process_is_refused(model: str) -> None:
    with pytest.raises(ConfigError, match="torchrun"):
        train(task(), model=model, run="run", **{**SMALL, "shard": True})
    with pytest.raises(ConfigError, match="this is one"):
        fsdp.load_sharded("nowhere", SINGLE_PROCESS, device="cpu", dtype="auto", checkpointing=False)


@pytest.mark.parametrize("other", [{"lora": 4}, {"sampler": "http://127.0.0.1:1/v1#m"}])
def test_shard_with_lora_or_sampler_is_refused(model: str, other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="leave out lora and sampler"):
        WeightsSpec(task(), WeightsConfig(model=model, shard=True, **other))
