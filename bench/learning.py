"""
SmolLM2-135M, all weights, learns a verifiable task on the CPU: short sentences with a given word (bench/sentences.py).

Words of the held-out rows are in no training row. Three methods, the same seed, rows, steps and learning rate. Replies
are drawn at temperature 1 while learning and measuring, four for each held-out row; some of them are printed, for a
reward of 1 is what a regular expression says. `minutes` are those of a whole run:
loading, learning, checkpoints, measuring before and after.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from common import quick, report
from sentences import task

from edgewise import train
from edgewise.toolkit.run.runner import Result
from edgewise.toolkit.tracking.events import Event, GroupsFinished, StepFinished
from edgewise.toolkit.types import Group

MODEL, METHODS = "torch/smollm2-135m", ("dr_grpo", "grpo", "rloo")
SETTINGS: dict[str, Any] = {
    "model": MODEL,
    "steps": 24,
    "batch_size": 8,
    "group_size": 8,
    "max_tokens": 20,
    "lr": 1e-5,
    "samples": 4,
    "eval_temperature": 1.0,
    "eval_top_p": 1.0,
    "save_every": 12,
}
REPLIES = 8
SEEN: list[list[Group]] = []
"""Groups that were noted since the last step."""
SHORT = {"steps": 3, "samples": 1, "save_every": 3, "force": True}
GAIN, START, MINUTES = 0.3, 0.4, 15.0
BAR = "from below 0.4, at least +0.3 on held-out rows, interval above 0, within 15 minutes, each of three methods"


def on_event(event: Event) -> None:
    """Each step as a line; of each measurement, which comes behind them, some replies."""
    if isinstance(event, StepFinished):
        print(event.record.summary(), file=sys.stderr, flush=True)
        SEEN.clear()
    elif isinstance(event, GroupsFinished):
        SEEN.append(event.groups)


def said(method: str) -> None:
    """Print what the weights wrote for the first held-out rows: those that were trained, then those before."""
    for when, groups in zip(("after", "before"), SEEN, strict=True):
        for run in [group.rollouts[0] for group in groups[:REPLIES]]:
            print(f"{method} {when}: {run.score.value if run.score else 0:.0f} {run.answer!r}")


def figures(result: Result) -> dict[str, Any]:
    before, after = result.evidence.results[:2]
    assert after.against is not None
    gain = after.against.mean
    return {
        "before": round(before.mean.estimate, 3),
        "after": round(after.mean.estimate, 3),
        "gain": [round(number, 3) for number in (gain.estimate, gain.low, gain.high)],
        "minutes": round(result.seconds / 60, 1),
    }


def main() -> int:
    settings = SETTINGS | (SHORT if quick() else {})
    found = {}
    for method in METHODS[:1] if quick() else METHODS:
        with tempfile.TemporaryDirectory() as folder:
            rows = task(16, 4, 8) if quick() else task()
            found[method] = figures(train(rows, run=Path(folder), on_event=on_event, method=method, **settings))
            said(method)
    holds = all(
        each["before"] < START and each["gain"][0] >= GAIN and each["gain"][1] > 0 and each["minutes"] <= MINUTES
        for each in found.values()
    )
    return report("learning", found, BAR, holds or quick())


if __name__ == "__main__":
    sys.exit(main())
