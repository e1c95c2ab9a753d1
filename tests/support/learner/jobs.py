"""A task file that a tiny random model learns in a few steps, for the commands."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomli_w

REWARDS = '''
import math

def early(completion, **_):
    """The share of characters below "P"; 0 for no reply."""
    return sum(letter < "P" for letter in completion) / len(completion) if completion else 0.0

def constant(completion, **_):
    return 0.5

def nothing(completion, **_):
    return math.nan
'''
WEIGHTS = {
    "method": "dr_grpo",
    "steps": 10,
    "batch_size": 4,
    "group_size": 4,
    "lr": 0.02,
    "device": "cpu",
    "dtype": "float32",
}
SHARED = {"max_tokens": 6, "samples": 4, "eval_temperature": 1.0, "force": True, "calling": "text"}


def task_file(folder: Path, model: str, prompt: str = "say {text}", reward: str = "early", **weights: Any) -> Path:
    """Its directory; `weights` are changes of the [weights] table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rewards.py").write_text(REWARDS)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows())))
    task = {"name": "shares", "rows": "rows.jsonl", "id": "id", "prompt": prompt, "target": ""}
    task |= {"reward": f"rewards:{reward}", "splits": {"train": 0.4, "validation": 0.2, "test": 0.4}}
    tables = {"task": task, "improve": {"model": model, **SHARED}, "weights": {**WEIGHTS, **weights}}
    (folder / "task.toml").write_text(tomli_w.dumps(tables))
    return folder


def rows(count: int = 24) -> Iterable[dict[str, str]]:
    return [{"id": f"r{i}", "text": f"word {i}"} for i in range(count)]
