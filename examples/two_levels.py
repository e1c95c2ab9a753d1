"""
A planner and its sub-agents learn lessons of their own, from the same rollouts (M-GRPO without training weights).

Run it as it is: the scripted model costs nothing. For your own task, name a real model, such as "openai/gpt-4o-mini",
with a limit in dollars. With `run=` in a permanent folder, the same call resumes.
"""

import re
import sys
import tempfile
from pathlib import Path

from edgewise import Limits, Message, Request, Task, design
from edgewise.toolkit.types import ToolCall

ROWS = [{"sum": f"{a}+{b}", "target": str(a + b)} for a in range(11, 20) for b in range(21, 31)]
LESSONS = {"planner": "Hand each sum to a sub-agent.", "sub": "Carry the one."}


def model(request: Request) -> str | Message:
    """Delegate and add right by luck, or because a lesson says so; as distiller, return a lesson for each side."""
    text, lucky = "\n".join(m.content for m in request.messages), (request.sampling.seed or 0) % 2
    if request.schema:
        side = "sub" if "those of sub-agents" in text or LESSONS["sub"] in text else "planner"
        return f'[{{"action": "add", "text": "{LESSONS[side]}"}}]'
    if request.messages[-1].role == "tool":
        return request.messages[-1].content
    a, b = map(int, re.findall(r"(\d+)\+(\d+)", text)[-1])
    if not request.tools:  # a sub-agent
        return str(a + b if lucky or LESSONS["sub"] in text else a + b - 10)
    call = ToolCall("1", "delegate", f'{{"task": "{a}+{b}"}}')
    return Message("assistant", "", (call,)) if lucky or LESSONS["planner"] in text else "about fifty"


def main() -> None:
    """Learn both libraries, print the evidence and the lessons, save the artefact."""
    sys.modules["my_model"] = sys.modules[__name__]
    task = Task.from_rows(ROWS, prompt="How much is {sum}?", reward="exact", name="sums")
    with tempfile.TemporaryDirectory() as folder:
        result = design(
            task,
            search="two_level",
            model="scripted/my_model:model",
            limits=Limits(calls=20_000),
            run=Path(folder) / "run",
            expert="exact",  # grades a sub-agent's answer to its sub-task; by default a judge does
            epochs=1,
            group_size=4,
            samples=4,
        )
        print("\n".join(result.evidence.lines()))
        for agent, library in result.artifact.files["libraries.json"].items():
            print(f"{agent}:", *(lesson["text"] for lesson in library["lessons"]))
        print(result.artifact.save(Path(folder) / "sums.edge").name)


if __name__ == "__main__":
    main()
