"""A task that a tiny random model learns in a few steps: say bytes that are letters of the first half of ASCII."""

from typing import Any

from edgewise import Task


def early(completion: str, **_: Any) -> float:
    """The share of characters below "P"; 0 for no reply."""
    return sum(letter < "P" for letter in completion) / len(completion) if completion else 0.0


def task(train: int = 8, test: int = 8, reward: Any = early) -> Task:
    def rows(name: str, count: int) -> list[dict[str, str]]:
        return [{"id": f"{name}{i}", "text": f"say {name} {i}"} for i in range(count)]

    split = {"train": rows("a", train), "validation": rows("b", 2), "test": rows("c", test)}
    return Task.from_rows(split, prompt="{text}", target="", reward=reward)


SETTINGS = {
    "method": "dr_grpo",
    "steps": 6,
    "batch_size": 4,
    "group_size": 4,
    "max_tokens": 6,
    "lr": 0.02,
    "eval_temperature": 1.0,
    "eval_top_p": None,
    "samples": 4,
    "device": "cpu",
    "dtype": "float32",
    "force": True,
}
