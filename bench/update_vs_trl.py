"""
One update against TRL 1.16's GRPOTrainer (`pip install trl==1.16.0 datasets`): time and peak memory.

SmolLM2-135M, all weights, one prompt of 512 tokens and 8 completions of 64: forward, backward, clipping and AdamW.
TRL's own loss and optimizer run in float32 and in bfloat16, with and without gradient checkpointing; ours is held
against the fastest of them in time, and against that same one in memory. Runs alternate, each in a process of its own;
the least time of all counts. Memory is the process's peak during updates over what it had before the model was loaded.
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


def merged(runs: list[dict[str, Any]]) -> tuple[float, float, float]:
    """The least seconds, peak (MB) and processor's seconds of some runs of the same."""
    seconds, work = (min(t for r in runs for t in r[name]) for name in ("seconds", "cpu_seconds"))
    return seconds, min(r["peak"] for r in runs) / MEGABYTE, work


def main() -> int:
    short = quick()
    repeats = {"repeats": 1 if short else 3}
    settings = dict(list(THEIRS.items())[:1]) if short else THEIRS
    mine, others = [], {}
    for name, setting in settings.items():
        mine.append(run(side="ours", **SHAPE, **repeats))
        others[name] = merged([run(side="trl", **SHAPE, **repeats, **setting)])
        print(f"TRL {name}: {others[name][0]:.2f} s, {others[name][1]:,.0f} MB", flush=True)
    seconds, peak, work = merged(mine)
    print(f"ours: {seconds:.2f} s, {peak:,.0f} MB", flush=True)
    best = min(others, key=lambda name: others[name][0])
    faster, smaller = others[best][0] / seconds, peak / others[best][1]
    figures = {
        "faster": round(faster, 2),
        "less_processor_time": round(others[best][2] / work, 2),
        "memory": round(smaller, 3),
        "seconds": round(seconds, 2),
        "megabytes": round(peak),
        "trl": {name: [round(t, 2), round(m)] for name, (t, m, _) in others.items()},
        "against": best,
    }
    bar = "faster >= 6, memory <= 0.5 of TRL's fastest setting"
    return report("update_vs_trl", figures, bar, faster >= 6 and smaller <= 0.5)


if __name__ == "__main__":
    sys.exit(main())
