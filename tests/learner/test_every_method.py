"""Every row of the table trains a tiny model in the real loop, and a run that is taken up ends the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from learner.api import train
from learner.methods import METHODS
from tests.learner import tiny
from tests.learner.shares import SETTINGS
from toolkit import Task
from toolkit.types import Note

ANSWERS = ("ABBA", "zebra", "OKAY", "?!")


def right(completion: str, target: str = "", **_: Any) -> float:
    """1 for an early first letter: about every third reply of a random model, and the given answer."""
    return float(completion[:1] < "P" and completion[:1].isprintable() and bool(completion))


def task() -> Task:
    def rows(name: str, count: int) -> list[dict[str, Any]]:
        return [
            {"id": f"{name}{i}", "text": f"{name} {i}", "target": "ABBA", "candidates": list(ANSWERS)}
            for i in range(count)
        ]

    split = {"train": rows("a", 6), "validation": rows("b", 2), "test": rows("c", 2)}
    return Task.from_rows(split, prompt="{text}", reward=right)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"torch/{tiny.saved(tmp_path_factory.mktemp('tiny'))}"


@pytest.mark.parametrize("name", METHODS)
def test_it_trains(name: str, model: str, tmp_path: Path) -> None:
    notes: list[Note] = []
    settings = {**SETTINGS, "steps": 3, "method": name, "samples": 1, "group_size": 6, "save_every": 2}
    train(task(), model=model, run=tmp_path / "r", watch=notes.append, **settings)
    records = [note.data for note in notes if note.topic == "step"]
    assert len(records) == 3
    assert any(record.updated and record.updated.norm > 0 for record in records)
    assert all(record.updated is None or record.updated.loss == record.updated.loss for record in records)


@pytest.mark.parametrize(
    ("name", "key"), [("skywork_r1v2", "buffer"), ("deepvideo_r1", "recent"), ("scaf_grpo", "records")]
)
def test_what_a_method_recalls_is_in_the_checkpoint(name: str, key: str, model: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "steps": 4, "method": name, "samples": 1, "group_size": 3, "batch_size": 2}
    train(task(), model=model, run=tmp_path / "r", **settings)
    state = json.loads((tmp_path / "r" / "checkpoints" / "000004" / "state.json").read_text())
    assert state["memory"][key]
    again = train(task(), model=model, run=tmp_path / "r", **{**settings, "steps": 4})
    assert again.path == tmp_path / "r"
