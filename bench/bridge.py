"""
A library into LoRA: SmolLM2-135M learns a made-up house style from lessons, and keeps it without them.

Five lessons, written by hand, show how this house spells tags, which no model can know: "The tag of lamp is #lamp!".
Alone the model spells none so, with the lessons in its prompt some. Words of the held-out rows are in no training row
and in no lesson. `share` is the gain of the trained weights, without lessons, over that of the lessons in the prompt,
with an interval over rows; `saved` is how many tokens a prompt is shorter.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from common import quick, report
from sentences import WORDS

from edgewise import absorb
from edgewise.experience.library.library import Library, make_lesson
from edgewise.learner.monitoring.retention import measure_retention
from edgewise.toolkit.cli.progress import show_progress
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.runner import Result
from edgewise.toolkit.task.task import Task

MODEL, SHOWN = "torch/smollm2-135m", ("lamp", "dance", "silver", "flower", "coffee")
SETTINGS: dict[str, Any] = {"model": MODEL, "lora": 16, "steps": 12, "max_tokens": 12, "samples": 2}
SHORT = {"steps": 2, "samples": 1, "batch_size": 4, "force": True}
SHARE, GAIN = 0.8, 0.2
BAR = "keeps >= 80 % of the library's gain without it in the prompt, on held-out rows; gain >= 0.2, interval above 0"


def tagged(completion: str, word: str = "", **_: Any) -> float:
    """1 where the tag is spelt as the house has it, else 0."""
    return float(f"#{word.lower()}!" in completion.lower())


def task(train: int = 56, test: int = 60) -> Task:
    """Rows of a word each, drawn with a seed."""
    rows = [{"word": word} for word in WORDS.split()[: train + test]]
    splits = {"train": train / len(rows), "validation": 0.0, "test": test / len(rows), "seed": 3}
    prompt = "What is the tag of {word}?"
    return Task.from_rows(rows, prompt=prompt, target="", reward=tagged, splits=splits, name="tags")


def library(folder: Path) -> Path:
    """The lessons as an artefact."""
    lessons = Library(tuple(make_lesson(f"The tag of {word} is #{word}!") for word in SHOWN))
    return Artifact("", MODEL, {"library.json": lessons.to_json()}).save(folder / "lessons.edge")


def figures(result: Result) -> dict[str, Any]:
    """What the three arms got, and what is kept."""
    found = measure_retention(result.evidence)
    before, after, lessons = result.evidence.results
    gains = {arm.name: arm.against.mean for arm in (after, lessons) if arm.against}
    share = found.share and [found.share.estimate, found.share.low, found.share.high]
    return {
        "rewards": {arm.name: round(arm.mean.estimate, 3) for arm in (before, after, lessons)},
        "gain": {name: [round(x, 3) for x in (g.estimate, g.low, g.high)] for name, g in gains.items()},
        "share": share and [round(x, 3) for x in share],
        "saved": round(found.saved, 1),
        "minutes": round(result.seconds / 60, 1),
    }


def main() -> int:
    short = quick()
    with tempfile.TemporaryDirectory() as place:
        rows = task(8, 8) if short else task()
        settings = SETTINGS | (SHORT if short else {})
        lessons, run = library(Path(place)), Path(place) / "run"
        found = figures(absorb(rows, lessons, run=run, on_event=show_progress(), **settings))
    gain = found["gain"]["with lessons"]
    sure = gain[0] >= GAIN and gain[1] > 0
    holds = sure and bool(found["share"]) and found["share"][0] >= SHARE
    return report("bridge", found, BAR, holds)


if __name__ == "__main__":
    sys.exit(main())
