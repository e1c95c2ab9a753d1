"""
A task small enough to follow by hand, and a simulated model that really learns it from lessons.

Each row names a thing; each thing belongs to a colour. The model guesses by its seed until a lesson in its prompt
names the colour. As distiller it reads the reference answer, so what it writes depends on its prompt.
"""

import json
import re
from dataclasses import replace
from typing import Any

from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Example, Request

COLOURS = ("red", "green", "blue")
THINGS = ("brick", "leaf", "sea", "rose", "grass", "sky", "ruby", "moss", "ink")
PROMPT = "Which colour, red, green or blue, has number {n}, a {thing}?"


def rows(count: int = 60) -> list[dict[str, Any]]:
    """Return rows with as many different prompts; the colour follows from the thing."""
    return [{"id": f"r{n:03d}", "n": n, "thing": THINGS[n % 9], "target": COLOURS[n % 3]} for n in range(count)]


def task(count: int = 60) -> Task:
    """Return the rows as a task."""
    return Task.from_rows(rows(count), prompt=PROMPT, id="id", name="colours")


def with_train(task: Task, rows: tuple[Example, ...]) -> Task:
    """Return the task with other training rows."""
    return replace(task, train=rows)


def play(request: Request) -> str:
    """Answer a request, as a scripted model."""
    text = "\n".join(message.content for message in request.messages)
    return reply(text, request.sampling.seed or 0, request.schema is not None)


def serve(body: dict[str, Any]) -> str:
    """Answer the body of a request, behind a server."""
    text = "\n".join(message["content"] for message in body["messages"])
    return reply(text, body.get("seed") or 0, "response_format" in body)


def reply(text: str, seed: int, as_operations: bool) -> str:
    if text.startswith("You say in 3 to 8 words"):
        return re.findall(r"Input: \d+\n(\w+)", text)[-1]
    if text.startswith("What do all inputs of the list"):
        items = re.search(r"(?:- [^\n]*\n?)+$", text)
        return ", ".join(dict.fromkeys(re.findall(r"[a-z]+", items[0]))) if items else ""
    if not as_operations:
        return _answer(text, seed)
    thing, truth = re.search(r"a (\w+)\?", text), re.search(r"# Reference answer\n(\w+)", text)
    if thing and truth:
        return _operations([f"A {thing[1]} is {truth[1]}"])
    return _operations(re.findall(r"^\d+\. add \(content\): (.+)$", text, re.MULTILINE))


def _answer(text: str, seed: int) -> str:
    thing = re.search(r"a (\w+)\?", text)
    known = thing and (re.search(rf"A {thing[1]} is (\w+)", text) or re.search(rf"(?i)\b{thing[1]}\b.* -> (\w+)", text))
    return known[1] if known else COLOURS[seed % 3]


def _operations(lessons: list[str]) -> str:
    additions = [{"action": "add", "id": None, "kind": "content", "text": x} for x in dict.fromkeys(lessons)]
    return json.dumps({"operations": additions})
