"""
Problems of reasoning-gym (from PyPI), four kinds mixed, as a task: what works differs by kind.

An answer counts if reasoning-gym's own scorer gives it full marks, or its last line, or what stands behind the last
"=" or ":" of that line: no way of answering shall lose by a form of words.
"""

import re
from typing import Any

import reasoning_gym

from edgewise.toolkit.task.task import Task

KINDS = ("chain_sum", "number_filtering", "letter_counting", "simple_equations")
PROMPT = "{question}\n\nGive only the final answer."
SEED = 7


def task(each: int) -> Task:
    """`each` problems of each kind: a third to learn from, 30 % to test the change on, the rest held out."""
    rows = [row for kind in KINDS for row in _rows(kind, each)]
    splits = {"train": 0.34, "validation": 0.3, "test": 0.36, "seed": SEED}
    return Task.from_rows(rows, prompt=PROMPT, target="answer", reward=right, splits=splits, id="id", name="puzzles")


def _rows(kind: str, count: int) -> list[dict[str, Any]]:
    data = reasoning_gym.create_dataset(kind, size=count, seed=SEED)
    return [
        {"id": f"{kind}-{i:03d}", "kind": kind, "question": entry["question"], "answer": entry["answer"]}
        for i, entry in enumerate(data)
    ]


SCORERS = {kind: reasoning_gym.create_dataset(kind, size=1, seed=SEED).score_answer for kind in KINDS}


def right(response: str, target: str, metadata: dict[str, Any]) -> float:
    """1 for an answer with full marks, else 0."""
    entry = {"question": metadata["question"], "answer": target, "metadata": {}}
    return float(any(_full(metadata["kind"], said, entry) for said in _readings(response)))


def _readings(response: str) -> list[str]:
    text = response.strip().strip("`").strip()
    last = text.splitlines()[-1].strip() if text else ""
    behind = re.split(r"[=:]", last)[-1].strip()
    return [part.strip(" .*$`\\") for part in (text, last, behind)]


def _full(kind: str, said: str, entry: dict[str, Any]) -> bool:
    try:
        return SCORERS[kind](said, entry) >= 1
    except Exception:
        return False
