"""
The gradient of an update by two processes against that by one: same model, same batch, same method.

Small models of three families in float64 and float32, and SmolLM2-135M in float32 (not with --quick), all weights and
LoRA. Two processes cut other slices than one and add up in another order; nothing else may differ.
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
SLICES = {"small": 40, REAL: 512}
METHODS = {"dr_grpo": (), "grpo": ("penalties.kl3.beta=0.1", "epochs=2", "minibatches=2"), "gspo": ()}
LORA = Lora(rank=8, alpha=16.0)


def cases(short: bool) -> Iterator[tuple[str, Policy, Batch, int]]:
    """A name, a policy, a batch and the tokens of a slice."""
    given = exact.batch((9, 4, 9, 21), ((3, 1, 7, 4), (4, 1), (1, 6, 17), (5, 2, 2)))
    rng = torch.Generator().manual_seed(5)
    given = replace(given, advantage=torch.randn(len(given), 1, generator=rng, dtype=torch.float64))
    for family in ("Llama", "Qwen3", "Gemma2"):
        for dtype in (torch.float64, torch.float32):
            name = f"{family} {str(dtype).removeprefix('torch.')}"
            yield name, exact.policy(family, dtype), given, SLICES["small"]
    if not short:
        work = real_batch(prompts=2, prompt=48, group=4, reply=16)
        for name, lora in ((f"{REAL} float32", None), (f"{REAL} float32 LoRA", LORA)):
            policy = Policy.load(REAL, device="cpu", dtype="float32", lora=lora)
            yield name, policy, work, SLICES[REAL]


def gradients(together: Ranks, short: bool) -> dict[str, Tensor]:
    """The gradient of the last optimizer step of each case and method."""
    found = {}
    for case, policy, work, tokens in cases(short):
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


def main() -> int:
    short = quick()
    torch.set_num_threads(1)
    found, alone = two(short), gradients(ALONE, short)
    worst, relative = {}, {}
    for name, gradient in alone.items():
        case = name.partition(",")[0]
        off = float((found[name] - gradient).abs().max())
        worst[case] = max(worst.get(case, 0.0), off)
        relative[case] = max(relative.get(case, 0.0), off / float(gradient.abs().max()))
    figures = {
        "largest_difference": {case: float(f"{off:.2g}") for case, off in worst.items()},
        "relative": {case: float(f"{off:.2g}") for case, off in relative.items()},
        "methods": list(METHODS),
    }
    return report("two_processes", figures, "gradients equal to 1e-6", max(worst.values()) <= BAR)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        side(Path(sys.argv[1]), sys.argv[2] == "quick")
        sys.exit()
    sys.exit(main())
