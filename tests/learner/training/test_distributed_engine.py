"""Several processes that train together: the same gradients and weights as one, one voice, and one end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from torch import Tensor

from edgewise.learner.api import train
from edgewise.learner.hardware.process_group import SINGLE_PROCESS, ProcessGroup, join_process_group, run_on_all
from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.method import override
from edgewise.learner.methods.published import find_method
from edgewise.learner.policy.policy import Policy
from edgewise.learner.training import distributed_engine
from edgewise.learner.update import gradient_step as updating
from edgewise.learner.update.gradient_step import UpdateConfig, UpdateStats, update
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.cli.app import main
from edgewise.toolkit.errors import LimitReached, OutOfMemory
from tests.support.learner import exact, several
from tests.support.learner.shares import SETTINGS, task

ROOT = Path(__file__).parents[3]
SMALL = {**SETTINGS, "slice_tokens": 60, "shape": "less_kl"}
METHODS = {"dr_grpo": (), "grpo": ("penalties.kl3.beta=0.1", "epochs=2", "minibatches=2"), "gspo": ()}


@pytest.fixture(autouse=True)
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ---- gradients ---------------------------------------------------------------------------------------------


def batch() -> Batch:
    """Ragged groups; two have the same prompt length."""
    results = exact.batch((9, 4, 9, 21), ((3, 1, 7, 4), (4, 1), (1, 6, 17), (5, 2, 2)))
    advantage = torch.randn(len(results), 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return replace(results, advantage=advantage)


def gradients(
    together: ProcessGroup,
    dtype: torch.dtype,
    tokens: int = 30,
    make_policy: Callable[[torch.dtype], Policy] = lambda dtype: exact.policy(dtype=dtype),
) -> dict[str, tuple[Tensor, UpdateStats]]:
    """The last gradient of an update by each method, and what it saw."""
    results = {}
    for name, parts in METHODS.items():
        policy = make_policy(dtype).with_reference()
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.05)
        how, rng = UpdateConfig(slice_tokens=tokens, clip=1e9), torch.Generator().manual_seed(0)
        method = override(find_method(name), *parts)
        stats = update(policy, optimizer, method, batch(), how, rng, together)
        flat = torch.cat([policy.gather_full(p.grad).flatten() for p in policy.parameters() if p.grad is not None])
        results[name] = flat, stats
    return results


def save_gradients(folder: Path) -> None:
    together = join_process_group()
    results = {str(dtype): gradients(together, dtype) for dtype in (torch.float32, torch.float64)}
    if together.rank == 1:
        real = updating.compute_logps

        def forgetful(policy: Policy, part: Batch, **how: Any) -> Any:
            if part.mask.sum() > 10:
                raise MemoryError
            return real(policy, part, **how)

        updating.compute_logps = forgetful  # type: ignore[assignment]
    updating.MIN_SLICE_TOKENS = 1
    results["short"] = gradients(together, torch.float64, tokens=1000)
    torch.save(results, folder / f"{together.rank}.pt")


def test_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    assert several.wait_for_all(several.start_processes(save_gradients, tmp_path, folder=tmp_path)) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    for kind, close in (("torch.float64", 1e-10), ("short", 1e-10), ("torch.float32", 1e-6)):
        alone = gradients(SINGLE_PROCESS, torch.float32 if kind.endswith("32") else torch.float64)
        for name, (gradient, stats) in alone.items():
            assert gradient.norm() > 1e-3
            assert float((first[kind][name][0] - gradient).abs().max()) <= close
            assert first[kind][name][0].equal(second[kind][name][0])
            there = first[kind][name][1]
            assert (there.steps, second[kind][name][1]) == (stats.steps, there)
            assert there.norm == pytest.approx(stats.norm, rel=1e-5)
            assert (there.loss, there.kl) == pytest.approx((stats.loss, stats.kl), abs=1e-6)
    assert first["short"]["gspo"][1].tokens < 1000  # both halved, for the one that was short


# ---- whole runs --------------------------------------------------------------------------------------------


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "weights" / "model.safetensors")


def apart(first: Path, second: Path) -> Tensor:
    """The difference of each weight."""
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    return torch.cat([(a[key] - b[key]).abs().flatten() for key in a])


def train_twice(model: str) -> None:
    """A run that a limit stops, and the same one taken up again; what this process came to and answered."""
    counted, real = [], distributed_engine.Engine.answer

    def counting(engine: Any, requests: Sequence[Any]) -> Any:
        counted.append(len(requests))
        return real(engine, requests)

    distributed_engine.Engine.answer = counting  # type: ignore[method-assign]
    rows, settings = task(test=2), {**SMALL, "steps": 3, "save_every": 1}
    try:
        train(rows, model=model, run="run", limits=Limits(calls=40), **settings)
        stopped = ""
    except LimitReached as error:
        stopped = str(error)
    result = train(rows, model=model, run="run", limits=Limits(calls=500), **settings)
    outcomes = {"stopped": stopped, "result": result.to_json(), "answered": sum(counted)}
    Path("outcome.json").write_text(json.dumps(outcomes))


def test_run_equals_one_process_and_is_written_once(model: str, tmp_path: Path) -> None:
    assert several.wait_for_all(several.start_processes(train_twice, model, folder=tmp_path)) == [0, 0]
    outcomes = [json.loads((tmp_path / str(rank) / "outcome.json").read_text()) for rank in (0, 1)]
    alone = train(task(test=2), model=model, run="alone", **{**SMALL, "slice_tokens": 8192, "steps": 3})
    gap = apart(tmp_path / "0" / "run", tmp_path / "alone")
    # AdamW makes steps of 0.02 of gradients however small, so that the rounding of the smallest is seen.
    assert gap.mean() < 5e-7 and gap.max() < 1e-3
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["outcome.json"]
    assert outcomes[0]["result"] == outcomes[1]["result"]
    assert outcomes[0]["stopped"] == outcomes[1]["stopped"] != ""
    calls = alone.costs["total"]["calls"]
    assert outcomes[0]["result"]["costs"]["total"]["calls"] == calls
    assert sum(item["answered"] for item in outcomes) == calls
    assert all(item["answered"] > 0.4 * calls for item in outcomes)


# ---- the command -------------------------------------------------------------------------------------------


def file(folder: Path, model: str, **improve: Any) -> Path:
    """The task as files."""
    rows = [{"id": f"r{i}", "text": f"say {i}"} for i in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(
        "def early(completion, **_):\n    return sum(x < 'P' for x in completion) / max(1, len(completion))\n"
    )
    head = {"name": "early", "rows": "rows.jsonl", "id": "id", "prompt": "{text}", "target": ""}
    head["reward"] = "reward:early"
    settings = {**{k: v for k, v in SMALL.items() if v is not None}, "model": model, **improve}
    path = folder / "task.toml"
    path.write_text(tomli_w.dumps({"task": head, "weights": settings}))
    return path


def start(tmp_path: Path, *arguments: Any) -> list[BaseProcess]:
    command = ["improve", str(tmp_path / "task.toml"), "--by", "weights", "--run", "run", *map(str, arguments)]
    return several.start_processes(main, command, folder=tmp_path)


def test_a_launcher_starts_it_and_process_0_prints(model: str, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
        *(
            "-m",
            "--",
            "edgewise.toolkit.cli.app",
            "improve",
            file(tmp_path, model, steps=2),
            "--by",
            "weights",
            "--run",
            "run",
            "--json",
        ),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=several.SECONDS)
    assert done.stdout, done.stderr
    printed = json.loads(done.stdout)
    assert done.stderr.count("run directory:") == 1
    assert (done.returncode == 0) is printed["improved"]
    assert Path("run", "steps", "002", "step.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--calls", 40), 3, "calls"),
        (("--set", "method=grop"), 2, "did you mean 'grpo'"),
        (("--model", "torch/nowhere"), 2, "There is no nowhere"),
        (("--model", "torch/.."), 2, "can read"),
        (("--dry-run",), 0, ""),
    ],
)
def test_all_processes_end_with_process_0_and_it_prints_why(
    model: str, tmp_path: Path, arguments: tuple[Any, ...], code: int, words: str
) -> None:
    file(tmp_path, model)
    assert several.wait_for_all(start(tmp_path, *arguments), 60) == [code, 0]
    printed = (tmp_path / "0.txt").read_text()
    assert words in printed and printed.count("edgewise: ") == bool(words)
    assert (tmp_path / "1.txt").read_text() == ""


def learning(processes: Sequence[BaseProcess], tmp_path: Path) -> None:
    """Wait for the first step."""
    while not (tmp_path / "0" / "run" / "steps" / "001" / "step.json").exists():
        assert all(process.is_alive() for process in processes)
        time.sleep(0.02)


def test_ctrl_c_reaches_all_and_process_0_decides(model: str, tmp_path: Path) -> None:
    file(tmp_path, model, steps=1000)
    processes = start(tmp_path)
    learning(processes, tmp_path)
    for process in reversed(processes):
        assert process.pid
        os.kill(process.pid, signal.SIGINT)
    assert several.wait_for_all(processes, 20) == [130, 0]
    assert "edgewise: Stopped." in (tmp_path / "0.txt").read_text()
    assert (tmp_path / "1.txt").read_text() == ""


@pytest.mark.parametrize("gone", [0, 1])
def test_a_process_that_is_killed_ends_the_others(model: str, tmp_path: Path, gone: int) -> None:
    file(tmp_path, model, steps=1000)
    processes = start(tmp_path)
    learning(processes, tmp_path)
    processes[gone].kill()
    codes = several.wait_for_all(processes, 20)
    assert codes[gone] == -signal.SIGKILL and codes[1 - gone] == 3
    assert ("start all of them again" in (tmp_path / "0.txt").read_text()) is (gone == 1)


# ---- errors ------------------------------------------------------------------------------------------------


def fail_in_turn() -> None:
    together = join_process_group()

    def only(rank: int, when: str) -> None:
        if together.rank == rank and when == "early":
            raise OutOfMemory(f"process {rank}")
        together.all_gather_object("half way")
        if together.rank == rank and when == "late":
            raise ZeroDivisionError

    results = []
    for rank in (0, 1):
        for when in ("early", "late", "never"):
            try:
                run_on_all(together, lambda: only(rank, when))  # noqa: B023 (called at once)
                results.append("")
            except Exception as error:
                results.append(f"{type(error).__name__} {'ZeroDivisionError' in repr(error)}")
    with contextlib.suppress(FileExistsError):
        Path("errors.json").write_text(json.dumps(results))


def test_error_in_one_process_is_raised_in_all(tmp_path: Path) -> None:
    assert several.wait_for_all(several.start_processes(fail_in_turn, folder=tmp_path)) == [0, 0]
    results = [json.loads((tmp_path / str(rank) / "errors.json").read_text()) for rank in (0, 1)]
    memory, own, others = "OutOfMemory False", "ZeroDivisionError True", "RuntimeError True"
    assert results[0] == [memory, own, "", memory, others, ""]
    assert results[1] == [memory, others, "", memory, own, ""]
