"""
What an update costs as prompts, completions, groups and the model grow, against what the arithmetic says.

A random Llama in bfloat16 where the processor has it, one axis at a time grown twice. Time is the processor's, the
least of several updates; arithmetic is the products that are counted while one runs. No axis may grow in time by more
than 1.3 times what its arithmetic grows by.
"""

import sys
from typing import Any

from one_update import batch, timed  # isort: skip (before torch: it says how threads wait)

import torch
from common import quick, report
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from edgewise.learner.hardware.memory import keep_freed_memory
from edgewise.learner.methods.method import override
from edgewise.learner.methods.published import METHODS
from edgewise.learner.policy.policy import Policy
from edgewise.learner.policy.precision import select_dtype
from edgewise.learner.update.gradient_step import UpdateConfig, update
from tests.support.learner import tiny

BASE = {"prompts": 2, "prompt": 128, "group": 8, "reply": 32, "width": 384}
GROWN = {"prompt": (128, 512, 2048), "reply": (32, 64, 128), "group": (8, 16, 32), "prompts": (2, 4, 8)}
WIDTHS = (384, 768, 1152)


def policy(width: int) -> Policy:
    """Eight layers, 64 wide heads."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16384,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=8,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 192,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    dtype = select_dtype("auto", torch.device("cpu"))
    return Policy.from_model(LlamaForCausalLM(config), tiny.tokenizer(), dtype=dtype)


def cost(shape: dict[str, int], repeats: int) -> tuple[float, float]:
    """Processor seconds and products of an update."""
    model = policy(shape["width"])
    work = batch(*(shape[name] for name in ("prompts", "prompt", "group", "reply")))
    optimizer, method = model.create_optimizer(lr=1e-6), override(METHODS["grpo"], "penalties=none")

    def step() -> Any:
        return update(model, optimizer, method, work, UpdateConfig(slice_tokens=1 << 20), torch.Generator())

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    return min(timed(step)[1] for _ in range(repeats)), counter.get_total_flops()


def main() -> int:
    short = quick()
    keep_freed_memory()
    axes = {**GROWN, "width": WIDTHS}
    worst = 0.0
    print("| axis | size | seconds | GFLOP | time x | arithmetic x |\n|---|---|---|---|---|---|")
    for axis, sizes in axes.items():
        found = [cost({**BASE, axis: size}, 2 if short else 3) for size in (sizes[:2] if short else sizes)]
        for size, (seconds, products) in zip(sizes, found, strict=False):
            grown, due = seconds / found[0][0], products / found[0][1]
            worst = max(worst, grown / due)
            row = (axis, size, f"{seconds:.2f}", f"{products / 1e9:.0f}", f"{grown:.2f}", f"{due:.2f}")
            print(f"| {' | '.join(map(str, row))} |", flush=True)
    figures = {"worst": round(worst, 2), "axes": len(axes)}
    return report("scaling", figures, "time grows <= 1.3 x arithmetic on every axis", worst <= 1.3)


if __name__ == "__main__":
    sys.exit(main())
