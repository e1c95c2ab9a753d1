"""Lessons are learnt in an environment: they go into the system prompt, and what was shown reaches the distiller."""

import json
from dataclasses import replace

from edgewise import Task
from edgewise.toolkit.environments.protocol import Turn
from edgewise.toolkit.types import Example, Request
from tests.support.learned import run_learning, text_of

LESSON = "Lift the third stone"


class Stones:
    """Under one of three stones lies a key; then the door can be opened."""

    def reset(self, row: Example) -> Turn:
        return Turn("Three stones lie before a door.", ("first", "second", "third"))

    def step(self, action: str) -> Turn:
        won = action == "third"
        return Turn("A key! The door is open." if won else "Nothing but worms.", (), float(won), True, won)


def model(request: Request) -> str:
    """Lifts any stone until it is told which; its distiller reads what was found."""
    text = text_of(request)
    if request.schema:
        has_seen_key = "A key! The door is open." in text and "[environment] Three stones" in text
        return json.dumps([{"action": "add", "text": LESSON}] if has_seen_key and LESSON not in text else [])
    if request.payer.role == "distiller":
        return "The third stone was right. " + text[-2000:]
    return "third" if LESSON in text else ("first", "second", "third")[(request.sampling.seed or 0) % 3]


def test_lessons_are_learnt_in_an_environment() -> None:
    rows = [{"n": n} for n in range(60)]
    run = run_learning(model, Task.from_rows(rows, prompt="Open the door.", environment=Stones))
    assert run.texts == [LESSON]
    before, after = run.outcome.evaluation.results[:2]
    assert (before.mean.estimate < 0.6, after.mean.estimate) == (True, 1.0)
    dressed = [r for r in run.requests_of("rollout") if LESSON in text_of(r)]
    assert dressed and all(LESSON in replace(r).messages[0].content for r in dressed)
    assert all(r.messages[0].role == "system" and r.messages[-1].role == "user" for r in dressed)
