"""Weights are trained in an environment: its steps, its states and its failures reach the learner."""

import asyncio
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgewise import Task
from edgewise.learner.api import train
from edgewise.learner.methods.method import override
from edgewise.learner.methods.published import find_method
from edgewise.learner.training.state import WeightsStep
from edgewise.learner.update import collate
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.rollout.agent import Agent, run_group
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.tracking.events import Event, StepFinished
from edgewise.toolkit.types import Example, Group, Request, Rollout, TokenizedTurn
from tests.support.learner.shares import SETTINGS


class Ladder:
    """Three turns; an action that begins with an early letter leads a rung up, which gives 1."""

    def reset(self, row: Example) -> str:
        self.at = self.turn = 0
        return "rung 0"

    def step(self, action: str) -> tuple[str, float, bool]:
        self.turn += 1
        up = action[:1] < "P"
        self.at += up
        return f"rung {self.at}", float(up), self.turn == 3


class Shaky(Ladder):
    """Breaks now and then."""

    broken = random.Random(0)

    def step(self, action: str) -> tuple[str, float, bool]:
        if self.broken.random() < 0.3:
            raise OSError("the ladder fell")
        return super().step(action)


def trained(environment: Any, model: str, folder: Path, method: str) -> list[WeightsStep]:
    rows = {"train": [{"n": n} for n in range(4)], "test": [{"n": n} for n in range(4, 6)]}
    task = Task.from_rows(rows, prompt="Climb.", environment={"kind": environment, "history": 0})
    events: list[Event] = []
    settings = {**SETTINGS, "steps": 2, "method": method, "samples": 1, "max_tokens": 3, "turns": 4}
    train(task, model=model, run=folder / "run", on_event=events.append, **settings)
    return [event.record for event in events if isinstance(event, StepFinished)]


@pytest.mark.parametrize("method", ["gigpo", "salt"])
def test_credit_over_steps_trains_in_an_environment(method: str, model: str, tmp_path: Path) -> None:
    records = trained(Ladder, model, tmp_path, method)
    assert [bool(record.update and record.update.norm > 0) for record in records] == [True, True]
    scored = collate.collect_scored(records[0].groups)
    assert {len(member.steps) for member in scored} <= {3, 4}
    table = collate.build_table(scored, find_method("gigpo"))
    assert table.column("step_reward").sum() == pytest.approx(table.reward.sum())
    states = table.column("state").tolist()
    assert states.count("rung 0") >= len(scored), "all begin alike"


def test_salt_equals_grpo_with_a_longer_window() -> None:
    """Steps that it merges then have equal prompts and actions: the credit of each such pair adds up to the same."""
    task = Task.from_rows([{"n": n} for n in range(9)], prompt="x", environment={"kind": "house", "history": 2})
    agent = Agent("scripted/x", turns=25, world=task.world)
    row = task.train[0]
    plan = run_group(agent, row, row.messages, task.reward, judge="", size=16, seed=1)
    runs = asyncio.run(drive(plan, ScriptedClient(at_random))).rollouts
    scored = collate.collect_scored([Group(row, "solver", tuple(map(with_tokens, runs)))])

    def by_pair(window: int) -> dict[Any, float]:
        method = override(find_method("salt"), f"credit.history={window}")
        credit = collate.assign_credit(scored, method).credit
        steps = [(step.prompt, step.completion) for member in scored for step in member.rollout.steps]
        total: dict[Any, float] = defaultdict(float)
        for key, value in zip(steps, credit.tolist(), strict=True):
            total[key] += value
        return total

    never_merged = by_pair(99)
    assert len({member.reward for member in scored}) == 2
    assert by_pair(3) == pytest.approx(never_merged)
    assert by_pair(1) != pytest.approx(never_merged)


def at_random(request: Request) -> str:
    legal = request.messages[-1].content.rpartition("Actions: ")[2].split(", ")
    return legal[(request.sampling.seed or 0) % len(legal)]


def with_tokens(run: Rollout) -> Rollout:
    """The run as if a model of ours had spoken: credit reads no token."""
    steps = tuple(replace(step, tokens=TokenizedTurn((0,), (1,), (0.0,))) for step in run.steps)
    return replace(run, steps=steps)


def test_rollouts_with_a_broken_environment_are_left_out(model: str, tmp_path: Path) -> None:
    records = trained(Shaky, model, tmp_path, "gigpo")
    runs = [run for record in records for group in record.groups for run in group.rollouts]
    assert len(runs) == 32
    failed = [run for run in runs if run.failed]
    assert 0 < len(failed) < 32 and len(records) == 2
    assert all("raised OSError: the ladder fell" in run.error for run in failed)
    assert any(run.steps for run in failed), "what was said before is kept"
