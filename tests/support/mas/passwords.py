"""
A task in which planner and sub-agents each need a lesson, and a model that plays planner, sub-agent and distiller.

The password of a word is the word backwards. The planner hands the word over (twice, and says what came back first)
only by luck of its seed, until a lesson tells it to; it calls natively where it is given tools. A sub-agent spells
backwards likewise. As distiller it writes what it can see in the attempts, and nothing else.
"""

import json
import re

from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Message, Reply, Request, ToolCall

WORDS = """
stone river paper cloud apple bread chair glass light night green table plant horse sugar lemon mouse train beach dance
spoon knife clock shirt grass honey house onion piano queen robin salad tiger uncle voice water yacht zebra amber brick
candle dragon engine forest garden hammer island jacket kitten ladder magnet needle orange pencil rabbit saddle turtle
""".split()
LEAD, WORK = "You lead.", "You work."
HAND_OVER = "Hand the word to a sub-agent."
BACKWARDS = "Spell the word backwards."
SETTINGS = {
    "model": "scripted/passwords",
    "epochs": 1,
    "batch_size": 100,
    "group_size": 4,
    "planner_prompt": LEAD,
    "sub_prompt": WORK,
    "calling": "native",
}


def task(**splits) -> Task:
    rows = [{"word": word, "target": word[::-1]} for word in WORDS]
    shares = splits or {"train": 0.3, "validation": 0.5, "test": 0.2}
    return Task.from_rows(rows, prompt="Say the password for: {word}", splits=shares, name="passwords")


def expert(answer: str, target: str) -> float:
    """1 for the password."""
    return float(answer.strip() == target)


def play(request: Request) -> str | Reply:
    """The model as a scripted one."""
    text = "\n".join(message.content for message in request.messages)
    seed = request.sampling.seed or 0
    if request.schema:
        return operations(text)
    if request.messages[0].content.startswith("You study"):
        return "It handed the word over." if "delegate(" in text else "It answered by itself."
    word = text.split()[-1]
    if request.messages[0].content.startswith(LEAD):
        return planner(request, text, word, seed)
    return word[::-1] if BACKWARDS in text or seed % 2 else word


def planner(request: Request, text: str, word: str, seed: int) -> str | Reply:
    if answers := [m.content for m in request.messages if m.role == "tool"]:
        return answers[0]
    if answers := [m.content for m in request.messages if m.content.startswith("<result>")]:
        return answers[0].split("\n")[1]
    if HAND_OVER not in text and not seed % 2:
        return word
    arguments = {"task": f"Password for {word}"}
    if not request.tools:
        return f"<tool>{json.dumps({'name': 'delegate', 'arguments': arguments})}</tool>\n" * 2
    calls = tuple(ToolCall(f"c{n}", "delegate", json.dumps(arguments)) for n in "ab")
    return Reply(Message("assistant", "", calls), "tools")


def operations(text: str) -> str:
    """What the attempts show, or all that is proposed."""
    proposed = re.findall(r"^\d+\. add \(content\): (.+)$", text, re.MULTILINE)
    if proposed:
        return written(*proposed)
    attempts = re.findall(r"## Attempt \d+ \(reward ([\d.]+)[^\n]*\)\n(.+(?:\nResult: .+)?)", text)
    best = max(float(reward) for reward, _ in attempts)
    won = [shown for reward, shown in attempts if float(reward) == best]
    lost = [shown for reward, shown in attempts if float(reward) < best]
    if "those of a planner" in text:
        return written(*([HAND_OVER] if all("handed" in x for x in won) and lost else []))
    return written(*([BACKWARDS] if all(map(backwards, won)) and not any(map(backwards, lost)) else []))


def backwards(shown: str) -> bool:
    word, result = re.findall(r"(\w+)$", shown, re.MULTILINE)
    return result == word[::-1]


def written(*lessons: str) -> str:
    found = [{"action": "add", "id": None, "kind": "content", "text": x} for x in dict.fromkeys(lessons)]
    return json.dumps({"operations": found})
