"""
Whole runs of learning in words with a simulated model and distiller, for benches of the gate.

A row is solved by chance, at a rate of its own; a lesson in the prompt may change the rate. Draws under different
prompts are independent, as with a real model at a temperature above zero, which is the worst case for comparing.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.library.library import Library
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training import gate as training_gate
from edgewise.experience.training.loop import learn
from edgewise.toolkit.evaluation import gate
from edgewise.toolkit.evaluation.gate import Choice, Verdict
from edgewise.toolkit.reward.reward import resolve_reward
from edgewise.toolkit.run.runner import RunOutcome
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Example, Message, Request
from tests.support.plans import play

RIGHT, WRONG = "right", "wrong"
LESSON = re.compile(r"lesson (\w+)")


@dataclass
class Simulated:
    """
    A task whose rows are solved at given rates, and the model and distiller that go with it.

    `written(n)` is the text of the n-th lesson that the distiller writes, `gains` what a lesson's first word after
    "lesson" adds to every row's rate, as far as rates go.
    """

    rates: Mapping[str, float]
    written: Callable[[int], str]
    gains: Mapping[str, float] = field(default_factory=dict)
    asked: Counter = field(default_factory=Counter)

    def reply(self, request: Request) -> str:
        self.asked[request.payer.role] += 1
        if request.schema is not None:
            return self._operations(request)
        text = request.messages[-1].content
        row = re.findall(r"row (\w+)", text)[-1]
        lessons = sorted(set(LESSON.findall(text)))
        rate = min(1.0, self.rates[row] + sum(self.gains.get(name, 0.0) for name in lessons))
        draw = hashlib.sha256(f"{row} {lessons} {request.sampling.seed}".encode()).digest()
        return RIGHT if int.from_bytes(draw[:6], "big") < rate * 2**48 else WRONG

    def _operations(self, request: Request) -> str:
        proposed = re.findall(r"^\d+\. add \(content\): (.+)$", request.messages[-1].content, re.MULTILINE)
        texts = proposed[:3] or [self.written(self.asked["distiller"])]
        found = [{"action": "add", "id": None, "kind": "content", "text": text} for text in texts]
        return json.dumps({"operations": found})


def examples(prefix: str, count: int) -> tuple[Example, ...]:
    return tuple(Example(f"{prefix}{n}", (Message("user", f"row {prefix}{n}"),), target=RIGHT) for n in range(count))


def task(train: int, validation: int, test: int) -> Task:
    """A task of so many rows."""
    rows = [{"id": f"{n}", "n": n, "target": RIGHT} for n in range(10)]
    empty = Task.from_rows(rows, prompt="row {n}", id="id", reward=resolve_reward("exact"))
    return replace(empty, train=examples("t", train), validation=examples("v", validation), test=examples("h", test))


def spread(rng: np.random.Generator, task: Task, mean: float = 0.5) -> dict[str, float]:
    """A pass rate for each row, widely spread, as difficulties are."""
    rows = (*task.train, *task.validation, *task.test)
    return {row.id: float(rng.beta(0.8 * mean / (1 - mean), 0.8)) for row in rows}


def run(
    model: Simulated, task: Task, *, raw: bool = False, start: Library | None = None, **settings: Any
) -> RunOutcome:
    """One run from start to artefact; `raw` accepts whatever has the higher mean."""
    common = {"guards": False, "pool": False, "leave_one_out": 0}
    config = ExperienceConfig(model="scripted/x", **{**common, **settings})
    with mock.patch.object(training_gate, "choose", by_mean if raw else gate.choose):
        return play(learn(ExperienceSpec(task, config, start)), model.reply)


def accepted(outcome: RunOutcome) -> bool:
    """Whether learning ends with other lessons than it began with, before the test rows have their say."""
    after, before = (Library.from_json(x["library.json"]) for x in (outcome.files, outcome.start))
    return after.version != before.version


def changed(outcome: RunOutcome) -> bool:
    """Whether the run ends with a changed artefact: other lessons, which measured better on the test rows."""
    gain = outcome.evaluation.results[1].against
    return accepted(outcome) and gain is not None and gain.mean.estimate > 0


def by_mean(current, challengers, rows, measure, level, anchors=()):
    """The rule of many: the best mean on the validation rows wins, by however little."""
    found = yield [measure(each, rows) for each in (current, *challengers.values())]
    gains = {n: float(np.mean(s - found[0])) for n, s in zip(challengers, found[1:], strict=True)}
    best = max(gains, key=lambda name: gains[name])
    accepted = gains[best] > 0
    chosen = challengers[best] if accepted else current
    return Choice(chosen, best if accepted else "", Verdict(accepted, gains[best], len(rows)))
