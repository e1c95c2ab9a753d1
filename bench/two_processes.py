"""
The gradient of an update by two processes against that by one: same model, same batch, same method.

Small models of three families and SmolLM2-135M (not with --quick), all weights and LoRA, in float64 and float32. Slices
are one sequence each, so both sides cut the same ones and add them up in another order. In float64 that must not show.
In float32 it is rounding: how much a gradient moves in one process where the slices are cut otherwise is printed beside
it (`other_slices`).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from common import ROOT, quick, report
from one_update import batch as real_batch
from torch import Tensor

from edgewise.learner.hardware.process_group import SINGLE_PROCESS, ProcessGroup, join_process_group
from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.method import override
from edgewise.learner.methods.published import find_method
from edgewise.learner.policy.policy import Lora, Policy
from edgewise.learner.update.gradient_step import UpdateConfig, update
from tests.support.learner import exact

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
        work = real_batch(prompts=2, prompt=32, group=3, reply=12)
        for dtype, lora in (("float64", None), ("float32", None), ("float32", LORA)):
            policy = Policy.load(REAL, device="cpu", dtype=dtype, lora=lora)
            yield f"{REAL} {dtype}" + (" LoRA" if lora else ""), policy, work


def gradient(
    policy: Policy, work: Batch, name: str, together: ProcessGroup, tokens: int = SMALLEST
) -> list[Tensor | None]:
    """The gradient of a method's last optimizer step; the weights are put back to where they were."""
    first = start(policy)
    # Steps so short that what follows them is no chaos: there rounding would grow without bound.
    optimizer = torch.optim.SGD(policy.parameters(), lr=1e-6)
    how, rng = UpdateConfig(slice_tokens=tokens, clip=1e9), torch.Generator().manual_seed(0)
    update(policy, optimizer, override(find_method(name), *METHODS[name]), work, how, rng, together)
    found = [p.grad for p in policy.parameters()]
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for parameter, before in zip(policy.parameters(), first, strict=True):
            parameter.copy_(before)
    return found


def start(policy: Policy) -> list[Tensor]:
    """The weights before training: the reference model's, which has a copy of all, or those of the adapter."""
    if policy.lora:
        return [p.detach().clone() for p in policy.parameters()]
    with policy.reference():
        return list(policy.model.parameters())


def apart(found: Sequence[Tensor | None], alone: Sequence[Tensor | None]) -> float:
    """The largest difference of any entry."""
    pairs = zip(found, alone, strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs if a is not None and b is not None)


def side(folder: Path, short: bool) -> None:
    """One of the two processes; the first then does the same alone, with the same slices and with others."""
    torch.set_num_threads(1)
    together = join_process_group()
    worst: dict[str, list[float]] = {}
    for case, policy, work in cases(short):
        policy.with_reference()
        for name in METHODS:
            found = gradient(policy, work, name, together)
            if not together.rank:
                alone = gradient(policy, work, name, SINGLE_PROCESS)
                off = [apart(found, alone)]
                del found  # a model's gradient in float64 is a gigabyte
                off.append(apart(gradient(policy, work, name, SINGLE_PROCESS, LARGER), alone))
                worst[case] = [max(pair) for pair in zip(off, worst.get(case, off), strict=True)]
                print(f"{case}, {name}: two {off[0]:.1e}, other slices {off[1]:.1e}", flush=True)
    if not together.rank:
        (folder / "worst.json").write_text(json.dumps(worst))


def two(short: bool) -> dict[str, list[float]]:
    """By case the largest difference of any entry, as two processes that torchrun starts find it."""
    with tempfile.TemporaryDirectory() as folder:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--"]
        told = [str(ROOT / "bench" / "two_processes.py"), folder, "quick" if short else "full"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        subprocess.run([*launch, *told], check=True, env=environment, timeout=1800)
        return json.loads((Path(folder) / "worst.json").read_text())


def main() -> int:
    found = two(quick())
    worst, sliced = ({case: float(f"{pair[i]:.2g}") for case, pair in found.items()} for i in (0, 1))
    figures = {"largest_difference": worst, "other_slices": sliced, "methods": list(METHODS)}
    exactly = max(off for case, off in worst.items() if "float64" in case)
    rounding = all(off <= max(BAR, 2 * sliced[case]) for case, off in worst.items())
    bar = "gradients equal to 1e-6 in float64; in float32 to 1e-6 or to what other slices change in one process"
    return report("two_processes", figures, bar, exactly <= BAR and rounding)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        side(Path(sys.argv[1]), sys.argv[2] == "quick")
        sys.exit()
    sys.exit(main())
