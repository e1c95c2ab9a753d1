"""
The gradient of an update by two processes against that by one: same model, same batch, same method.

Small models of three families and SmolLM2-135M (not with --quick), all weights and LoRA, in float64 and float32. Slices
are one sequence each, so both sides cut the same ones and add them up in another order. In float64 that must not show.
In float32 it is rounding: how much a gradient moves in one process where the slices are cut otherwise is printed beside
it (`other_slices`).
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from common import ROOT, quick, report
from one_update import batch as real_batch
from torch import Tensor

from learner.batch import Batch
from learner.method import override
from learner.methods import find
from learner.policy import Lora, Policy
from learner.ranks import ALONE, Ranks, ranks
from learner.update import How, update
from tests.learner import exact

BAR = 1e-6
REAL = "smollm2-135m"
SMALLEST, LARGER = 1, 512
"""Tokens of a slice: one sequence, or many."""
METHODS = {"dr_grpo": (), "grpo": ("penalties.kl3.beta=0.1", "epochs=2", "minibatches=2"), "gspo": ()}
LORA = Lora(rank=8, alpha=16.0)


def cases(short: bool) -> Iterator[tuple[str, Policy, Batch]]:
    """A name, a policy and a batch."""
    given = exact.batch((9, 4, 9, 21), ((3, 1, 7, 4), (4, 1), (1, 6, 17), (5, 2, 2)))
    rng = torch.Generator().manual_seed(5)
    given = replace(given, advantage=torch.randn(len(given), 1, generator=rng, dtype=torch.float64))
    for family in ("Llama", "Qwen3", "Gemma2"):
        for dtype in (torch.float64, torch.float32):
            name = f"{family} {str(dtype).removeprefix('torch.')}"
            yield name, exact.policy(family, dtype), given
    if not short:
        work = real_batch(prompts=2, prompt=48, group=4, reply=16)
        for dtype, lora in (("float64", None), ("float32", None), ("float32", LORA)):
            policy = Policy.load(REAL, device="cpu", dtype=dtype, lora=lora)
            yield f"{REAL} {dtype}" + (" LoRA" if lora else ""), policy, work


def gradients(together: Ranks, short: bool, tokens: int = SMALLEST) -> dict[str, Tensor]:
    """The gradient of the last optimizer step of each case and method."""
    found = {}
    for case, policy, work in cases(short):
        policy.with_reference()
        for name, parts in METHODS.items():
            optimizer = torch.optim.SGD(policy.parameters(), lr=1e-3)
            how, rng = How(tokens=tokens, clip=1e9), torch.Generator().manual_seed(0)
            update(policy, optimizer, override(find(name), *parts), work, how, rng, together)
            grads = [p.grad.flatten() for p in policy.parameters() if p.grad is not None]
            found[f"{case}, {name}"] = torch.cat(grads).clone()
    return found


def side(folder: Path, short: bool) -> None:
    """One of the two processes."""
    together = ranks()
    found = gradients(together, short)
    if not together.rank:
        torch.save(found, folder / "two.pt")


def two(short: bool) -> dict[str, Tensor]:
    """The gradients by two processes, as torchrun starts them."""
    with tempfile.TemporaryDirectory() as folder:
        launch = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--standalone",
            "--",
        ]
        told = [str(ROOT / "bench" / "two_processes.py"), folder, "quick" if short else "full"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        subprocess.run([*launch, *told], check=True, env=environment, timeout=1800)
        return torch.load(Path(folder) / "two.pt")


def largest(found: dict[str, Tensor], alone: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference of any entry, by case."""
    worst: dict[str, float] = {}
    for name, gradient in alone.items():
        case, off = name.partition(",")[0], float((found[name] - gradient).abs().max())
        worst[case] = max(worst.get(case, 0.0), float(f"{off:.2g}"))
    return worst


def main() -> int:
    short = quick()
    torch.set_num_threads(1)
    alone = gradients(ALONE, short)
    worst, sliced = largest(two(short), alone), largest(gradients(ALONE, short, LARGER), alone)
    figures = {"largest_difference": worst, "other_slices": sliced, "methods": list(METHODS)}
    exactly = max(off for case, off in worst.items() if "float64" in case)
    rounding = all(off <= max(BAR, 2 * sliced[case]) for case, off in worst.items())
    bar = (
        "gradients equal to 1e-6 in float64; in float32 to 1e-6 or to what other slices change in one process"
    )
    return report("two_processes", figures, bar, exactly <= BAR and rounding)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        side(Path(sys.argv[1]), sys.argv[2] == "quick")
        sys.exit()
    sys.exit(main())
