"""
One update against TRL 1.16's GRPOTrainer (`pip install trl==1.16.0 datasets`): time and peak memory.

SmolLM2-135M, all weights, one prompt of 512 tokens and 8 completions of 64: forward, backward, clipping and AdamW.
TRL's own loss and optimizer run in float32 and in bfloat16, with and without gradient checkpointing. One update of
each setting says which is the fastest; that one is then held against ours, in time and in memory, and the others are
not run again. Both sides do as many updates after one to warm up, each in a process of its own, and of both the least
time counts. They have the same threads and the same allocator, `learner.hardware.memory.keep_freed_memory`, which TRL
alone does not. Memory is the process's peak during updates over what it had before the model was loaded.
"""

import sys
from typing import Any

from common import quick, report
from one_update import run

SHAPE = {"prompts": 1, "prompt": 512, "group": 8, "reply": 64}
THEIRS = {
    f"{dtype}{' checkpointing' if checkpointing else ''}": {"dtype": dtype, "checkpointing": checkpointing}
    for dtype in ("bfloat16", "float32")
    for checkpointing in (False, True)
}
MEGABYTE = 1 << 20


def best(short: bool) -> tuple[str, dict[str, float]]:
    """TRL's fastest setting by one update of each, and the seconds of these."""
    if short:
        return next(iter(THEIRS)), {}
    found = {}
    for name, setting in THEIRS.items():
        found[name] = run(side="trl", warm=0, repeats=1, **SHAPE, **setting)["seconds"][0]
        print(f"TRL {name}: {found[name]:.2f} s", flush=True)
    return min(found, key=lambda name: found[name]), found


def least(side: str, repeats: int, **setting: Any) -> dict[str, float]:
    """Seconds, processor's seconds and peak (MB) of a side: the least of its updates."""
    found = run(side=side, repeats=repeats, **SHAPE, **setting)
    told = {name: round(min(found[name]), 2) for name in ("seconds", "cpu_seconds")}
    told["megabytes"] = round(found["peak"] / MEGABYTE)
    print(side, told, flush=True)
    return told


def main() -> int:
    short = quick()
    repeats = 1 if short else 3
    name, others = best(short)
    ours, theirs = least("ours", repeats), least("trl", repeats, **THEIRS[name])
    figures = {
        "faster": round(theirs["seconds"] / ours["seconds"], 2),
        "less_processor_time": round(theirs["cpu_seconds"] / ours["cpu_seconds"], 2),
        "memory": round(ours["megabytes"] / theirs["megabytes"], 3),
        "ours": ours,
        "trl": theirs,
        "against": name,
        "one_update_of_each": {name: round(seconds, 2) for name, seconds in others.items()},
    }
    bar = "faster >= 6, memory <= 0.5 of TRL's fastest setting"
    return report("update_vs_trl", figures, bar, figures["faster"] >= 6 and figures["memory"] <= 0.5)


if __name__ == "__main__":
    sys.exit(main())
