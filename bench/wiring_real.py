"""
Graphs designed for a real task by a real model on this machine: reasoning-gym problems of four kinds, mixed.

The command's own loop: MasHost-HRPO over a handful of roles, the gate against one agent at equal tokens, and the
measurement on held-out rows. The clock runs from the start to the gate's decision, with models already there; the
measurement comes after it. One agent at equal tokens answers several times and takes a vote (self-consistency), as
often as its tokens are no fewer than those of the designed graphs on some training rows; what both used on the
held-out rows is printed. Runs that failed count as wrong, so none of one agent's may.

`--run DIR` takes up a run, `--quick` uses the small model and few rows, and only shows that the road is open.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import report
from puzzles import task as mixed

from edgewise import design
from edgewise.mas.training.records import DESIGNED
from edgewise.toolkit.cli.progress import show_progress
from edgewise.toolkit.tracking.events import Event, StageStarted

ROLES = "drafter,reasoner,programmer,reviser,majority"
SETTINGS: dict[str, Any] = {
    "roles": ROLES,
    "agents": 3,
    "steps": 4,
    "batch_size": 8,
    "group_size": 5,
    "credit": 2,
    "max_tokens": 400,
    "eval_temperature": 0.0,
    "eval_top_p": None,
    "concurrency": 8,
}
SHORT = {"model": "local/smollm2-135m", "steps": 1, "batch_size": 2, "group_size": 2, "max_tokens": 48, "force": True}
BAR = (
    "better than one agent at equal tokens, of which no run fails, with its whole 95 % interval, "
    "found within 40 minutes"
)


class Clock:
    """When the measurement on held-out rows began, in minutes from the start."""

    def __init__(self) -> None:
        self.started, self.found, self.show = time.monotonic(), 0.0, show_progress()

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStarted) and str(event.text).startswith("measuring"):
            self.found = (time.monotonic() - self.started) / 60
        self.show(event)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="the small model, few rows")
    parser.add_argument("--run", type=Path, help="run directory, taken up again if it exists")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    task = mixed(6 if options.quick else 26)
    settings = {**SETTINGS, **(SHORT if options.quick else {}), "seed": options.seed}
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        result = design(task, run=options.run or Path(folder) / "run", on_event=clock, **settings)
        wiring = json.loads((result.path / "wiring.json").read_text())
    equal = wiring["equal_tokens"]
    arms = {each["arm"]: each for each in wiring["front"]}
    figures = {
        "minutes": round(clock.found, 1),
        "rows": result.evidence.examples,
        **{name: [round(each["mean"], 3), round(each["tokens"])] for name, each in arms.items()},
        "gain_at_equal_tokens": [round(equal[key], 3) for key in ("estimate", "low", "high")],
        "p": equal["p"],
        "failed": {each.name: each.failed for each in result.evidence.results},
        "kept": result.improved,
        "by_kind": by_kind(result.evidence),
        "graphs": [[node["role"] for node in each["graph"]["nodes"]] + [each["rows"]] for each in wiring["graphs"]],
        "learning_calls": result.costs["learning"]["calls"],
        "model": "small" if options.quick else "default",
    }
    whole = not any(count for name, count in figures["failed"].items() if name != DESIGNED)
    holds = options.quick or (equal["low"] > 0 and clock.found <= 40 and whole)
    return report("wiring_real", figures, BAR, holds)


def by_kind(evidence: Any) -> dict[str, dict[str, float]]:
    """Mean reward of each arm on each kind of problem."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in evidence.rows:
        kind = row.example.rpartition("-")[0]
        found.setdefault(kind, {}).setdefault(row.arm, []).append(row.mean)
    return {
        kind: {arm: round(sum(values) / len(values), 2) for arm, values in arms.items()} for kind, arms in found.items()
    }


if __name__ == "__main__":
    sys.exit(main())
