"""
A full step, sampling and update, against TRL 1.16's GRPOTrainer (`pip install trl==1.16.0`) on the same CPU.

SmolLM2-135M, all weights, 4 prompts of 45 tokens, 8 replies of at most 16 tokens to each, no reference model, one
optimizer step of AdamW: what TRL does by default, but for the sizes. TRL runs in float32 and in bfloat16, with
activations recomputed (its default) and not; the fastest of these counts. Each side runs in a process of its own, they
take turns. A step is clocked from the end of the one before to its own end, whatever lies between. The first step of
each side is left out, and the last, in which ours writes a checkpoint; figures are medians.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import ROOT, quick, report
from sentences import PROMPT, WORDS

from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import Event, StepFinished

PROMPTS, GROUP, LONGEST, BAR = 4, 8, 16, 4.0
MODEL = "smollm2-135m"
SIDES = {
    "trl_bf16": {"bf16": True, "gradient_checkpointing": False},
    "trl_bf16_recomputed": {"bf16": True, "gradient_checkpointing": True},
    "trl_fp32": {"bf16": False, "gradient_checkpointing": False},
    "trl_fp32_recomputed": {"bf16": False, "gradient_checkpointing": True},
}


def prompts() -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": PROMPT.format(word=word)}] for word in WORDS.split()[:PROMPTS]]


def graded(completion: str, **_: Any) -> float:
    """Any reward that differs within groups."""
    return float(len(completion) % 7)


def theirs(model: str, steps: int, settings: dict[str, Any]) -> list[float]:
    """Seconds of each step of TRL's trainer."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.at: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.at.append(time.perf_counter())

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            report_to=[],
            max_steps=steps,
            per_device_train_batch_size=PROMPTS * GROUP,
            num_generations=GROUP,
            max_completion_length=LONGEST,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            **settings,
        )
        GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [graded(c[0]["content"]) for c in completions],
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts()}),
            callbacks=[clock],
        ).train()
    return between(clock.at)


def ours(model: str, steps: int) -> list[float]:
    """Seconds of each step of `learner.train`, from one that is written down to the next."""
    from edgewise import train

    at: list[float] = []

    def on_event(event: Event) -> None:
        if isinstance(event, StepFinished):
            at.append(time.perf_counter())

    rows = [{"word": word} for word in WORDS.split()]
    split = {"train": rows[:PROMPTS], "validation": rows[4:5], "test": rows[5:6]}
    with tempfile.TemporaryDirectory() as folder:
        train(
            Task.from_rows(split, prompt=PROMPT, target="", reward=graded),
            model=f"torch/{model}",
            run=folder,
            on_event=on_event,
            method="bnpo",
            steps=steps,
            batch_size=PROMPTS,
            group_size=GROUP,
            max_tokens=LONGEST,
            save_every=1000,
            force=True,
        )
    return between(at)


def between(ends: Sequence[float]) -> list[float]:
    """Seconds of each step but the first and the last, from when they ended."""
    return [b - a for a, b in pairwise(ends)][:-1]


def side(name: str, model: str, steps: int) -> list[float]:
    """The seconds of one side, in a process of its own."""
    command = [sys.executable, __file__, "--side", name, model, str(steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT / "bench")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--side"]:
        name, model, steps = arguments[1], arguments[2], int(arguments[3])
        print(json.dumps(ours(model, steps) if name == "edgewise" else theirs(model, steps, SIDES[name])))
        return 0
    rounds, steps = (1, 2) if quick() else (2, 3)
    names = list(SIDES)[:1] if quick() else list(SIDES)
    seconds: dict[str, list[float]] = {name: [] for name in ("edgewise", *names)}
    with tempfile.TemporaryDirectory() as folder:
        from edgewise.learner.policy.policy import Policy

        Policy.load(MODEL, device="cpu", dtype="float32").save(Path(folder))
        for _ in range(rounds):
            for name in seconds:
                seconds[name] += side(name, folder, steps + 2)
    figures = {name: round(statistics.median(found), 2) for name, found in seconds.items()}
    best = min(found for name, found in figures.items() if name != "edgewise")
    figures["faster"] = round(best / figures["edgewise"], 2)
    holds = figures["faster"] >= BAR
    return report("step_vs_trl", figures, f"at least {BAR:g} times as fast as TRL's best setting", holds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
