"""
A task whose best wiring differs by query, and a model that shows it.

Asked for a sum, the model guesses by its seed, unless it is told to calculate; asked to say a word, it does, unless it
is told to calculate. So sums want a calculator and words want none.
"""

import re
from typing import Any

from edgewise.mas.graph.roles import Role
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Request

SCRIPTED = "scripted/tests.support.mas.sums:play"
JUDGE = "scripted/tests.support.mas.sums:judge"
ROLES = {"calculator": Role(name="calculator", does="calculates", prompt="Calculate exactly.")}
SPLITS = {"train": 0.4, "validation": 0.3, "test": 0.3, "seed": 1}


def rows(each: int) -> list[dict[str, Any]]:
    sums = [{"id": f"s{i:02}", "q": f"What is {i} + {3 * i}?", "target": str(4 * i)} for i in range(each)]
    return sums + [{"id": f"w{i:02}", "q": f"Say word{i}", "target": f"word{i}"} for i in range(each)]


def task(each: int = 60) -> Task:
    return Task.from_rows(rows(each), prompt="{q}", reward="exact", id="id", name="sums", splits=SPLITS)


def play(request: Request) -> str:
    """The model as a scripted one."""
    return reply("\n".join(message.content for message in request.messages), request.sampling.seed or 0)


def judge(request: Request) -> str:
    """A judge that likes everything."""
    return '{"reason": "it is fine", "score": 1}'


def serve(body: dict[str, Any]) -> str:
    """The model behind a server."""
    return reply("\n".join(message["content"] for message in body["messages"]), body.get("seed") or 0)


def reply(text: str, seed: int) -> str:
    asked = re.search(r"(\d+) \+ (\d+)", text)
    if "Calculate" in text:
        return str(int(asked[1]) + int(asked[2])) if asked else "0"
    if asked:
        return str(seed % 50)
    word = re.search(r"Say (\w+)", text)
    return word[1] if word else "?"
