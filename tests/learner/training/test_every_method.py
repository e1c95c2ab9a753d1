"""Every row of the table trains a tiny model in the real loop, and what its plan adds is there and survives a stop."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from edgewise import Task
from edgewise.learner.api import train
from edgewise.learner.methods.published import METHODS
from edgewise.learner.training.state import WeightsStep
from edgewise.toolkit.groups.sampling.hints import HINTS_HEADER
from edgewise.toolkit.tracking.events import Event, StepFinished
from edgewise.toolkit.types import Rollout, Score
from tests.support.learner.shares import SETTINGS

ANSWERS = ("ABBA", "zebra", "OKAY", "?!")
HINTS = {tier: [f"{tier} {n}" for n in range(2)] for tier in ("knowledge", "planning", "solution")}


def get_prompt(run: Rollout) -> str:
    return run.steps[0].prompt[-1].content


def right(answer: str, rollout: Rollout) -> Score:
    """1 for an early first letter, about every third reply of a random model; hard rows need a hint or an example."""
    early = bool(answer) and answer[0].isprintable() and answer[0] < "P"
    lost = "hard" in get_prompt(rollout) and not (
        HINTS_HEADER in get_prompt(rollout) or "Question: " in get_prompt(rollout)
    )
    won = float(early and not lost)
    return Score(won, {"step_reward 0": won, "partner_reward 0": 1 - won})


def task() -> Task:
    def rows(name: str, count: int) -> list[dict[str, Any]]:
        more = {"target": "ABBA", "candidates": list(ANSWERS), "hints": HINTS}
        return [
            {"id": f"{name}{i}", "text": f"{name} {i} {'hard' if i % 3 == 2 else 'easy'}", **more} for i in range(count)
        ]

    split = {"train": rows("a", 6), "validation": rows("b", 2), "test": rows("c", 1)}
    return Task.from_rows(split, prompt="{text}", reward=right)


@pytest.mark.parametrize("name", METHODS)
def test_method_trains(name: str, model: str, tmp_path: Path) -> None:
    events: list[Event] = []
    settings = {**SETTINGS, "steps": 3, "method": name, "samples": 1, "group_size": 6, "save_every": 2}
    train(task(), model=model, run=tmp_path / "r", on_event=events.append, **settings)
    records = [event.record for event in events if isinstance(event, StepFinished)]
    assert len(records) == 3
    assert any(record.update and record.update.norm > 0 for record in records)
    assert all(record.update is None or record.update.loss == record.update.loss for record in records)


# ---- what plans add, and a run that is stopped in the middle of it -------------------------------------------------


class Stopped(Exception):
    pass


def runs(record: WeightsStep) -> list[Rollout]:
    return [run for group in record.groups for run in group.rollouts]


def hinted(record: WeightsStep) -> bool:
    return any(HINTS_HEADER in get_prompt(run) for run in runs(record))


def shown(record: WeightsStep) -> bool:
    return any("Question: " in get_prompt(run) for run in runs(record))


def old(record: WeightsStep) -> bool:
    return any(run.version != f"w{record.number - 1}" for run in runs(record))


def dead(record: WeightsStep) -> bool:
    """Where there is something to replay, it is learned from in place of these."""
    return any(not group.is_mixed for group in record.groups) and record.update is not None


@pytest.mark.parametrize(
    ("name", "key", "adds", "changes"),
    [
        ("scaf_grpo", "rescued", hinted, {"overrides": "plan.exempt=0"}),
        ("deepvideo_r1", "recent", hinted, {}),
        ("xrpo", "worked", shown, {}),
        ("confucius3_math", "leftover", old, {"group_size": 6, "seed": 5}),
        ("skywork_r1v2", "buffer", dead, {}),
    ],
)
def test_resumed_run_has_the_memory_of_its_method(
    name: str, key: str, adds: Callable[[WeightsStep], bool], changes: dict[str, Any], model: str, tmp_path: Path
) -> None:
    """Stopped in the first step that leaves something, it ends with the weights and the memory of one that was not."""
    events: list[Event] = []
    settings = {**SETTINGS, "steps": 5, "save_every": 1, "batch_size": 2, "lr": 0.005, "samples": 1}
    settings |= {"method": name, "monitor": False, **changes}
    train(task(), model=model, run=tmp_path / "whole", on_event=events.append, **settings)
    assert any(adds(event.record) for event in events if isinstance(event, StepFinished))

    def state(run: str) -> dict[str, Any]:
        text = max((tmp_path / run / "checkpoints").glob("*/state.json")).read_text()
        return json.loads(text, object_hook=lambda found: {k: v for k, v in found.items() if k != "latency"})

    def stop(event: Event) -> None:
        if isinstance(event, StepFinished) and (recalled := state("cut"))["memory"][key] and recalled["number"] < 5:
            raise Stopped

    with pytest.raises(Stopped):
        train(task(), model=model, run=tmp_path / "cut", on_event=stop, **settings)
    train(task(), model=model, run=tmp_path / "cut", **settings)
    whole, cut = (load_file(tmp_path / run / "weights" / "model.safetensors") for run in ("whole", "cut"))
    assert all(weight.equal(cut[name]) for name, weight in whole.items())
    assert state("whole")["memory"] == state("cut")["memory"]
