"""
How much of an update is matrix products, and how near the whole update comes to the machine's peak in them.

SmolLM2-135M, all weights, 8 replies of 64 tokens to a prompt of 128, 512 and 2048. The peak is the best rate, of
five repeats, of bfloat16 products of the model's own shapes with as many rows as the update has tokens. `of_peak`
divides the products' arithmetic by the time of the whole update, forward, backward and AdamW, and by that peak.
"""

import sys

from one_update import batch, ours, timed  # isort: skip (before torch: it says how threads wait)

import torch
from common import quick, report
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

PRODUCTS = {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"}
TOLD = {"model": "smollm2-135m", "dtype": "auto", "checkpointing": False, "tokens": 1 << 20}


def peak(tokens: int, dtype: torch.dtype) -> float:
    """Products a second of the model's shapes, times 2."""
    best = 0.0
    for wide, out in ((576, 576), (576, 1536), (1536, 576), (2048, 2048)):
        x, w = torch.randn(tokens, wide, dtype=dtype), torch.randn(out, wide, dtype=dtype)
        seconds = min(timed(lambda x=x, w=w: torch.nn.functional.linear(x, w))[0] for _ in range(5))
        best = max(best, 2 * tokens * wide * out / seconds)
    return best


def measured(prompt: int, repeats: int) -> dict[str, float]:
    work = batch(1, prompt, 8, 64)
    step, _ = ours(work, TOLD)
    step()
    with FlopCounterMode(display=False) as counter:
        step()
    seconds = min(timed(step)[0] for _ in range(repeats))
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    rows = seen.key_averages()
    total = sum(row.self_cpu_time_total for row in rows)
    share = sum(row.self_cpu_time_total for row in rows if row.key in PRODUCTS) / total
    rate, top = counter.get_total_flops() / seconds, peak(prompt + 8 * 63, torch.bfloat16)
    found = {"seconds": seconds, "products": share, "gflops": rate / 1e9, "peak": top / 1e9, "of_peak": rate / top}
    print(f"prompt {prompt:5}", {name: round(value, 3) for name, value in found.items()}, flush=True)
    return found


def main() -> int:
    short = quick()
    found = {prompt: measured(prompt, 2 if short else 5) for prompt in ((512,) if short else (128, 512, 2048))}
    figures = {f"{name}_{p}": round(x[name], 3) for p, x in found.items() for name in ("products", "of_peak")}
    figures |= {f"{name}_512": round(found[512][name], 2) for name in ("seconds", "gflops", "peak")}
    return report("roofline", figures, "of_peak >= 0.5 at prompt 512", found[512]["of_peak"] >= 0.5)


if __name__ == "__main__":
    sys.exit(main())
