"""
Let a graph of agents be designed for your own rows, in Python.

Run it as it is: the model is a scripted one that costs nothing. Put the name of your own in its place, such as
"openai/gpt-4o-mini", and keep the limit. The rows here are of two kinds, which want different agents.
"""

import re
import sys
import tempfile
from pathlib import Path

from edgewise.mas import design
from edgewise.toolkit import Limits, Task
from edgewise.toolkit.types import Request

ROWS = [{"ask": f"What is {n} + {3 * n}?", "answer": str(4 * n)} for n in range(40)]
ROWS += [{"ask": f"Say word{n}.", "answer": f"word{n}"} for n in range(40)]


def model(request: Request) -> str:
    """Adds only where it may think step by step; repeats words unless it does."""
    prompt = "\n".join(message.content for message in request.messages)
    thinks, numbers = "step by step" in prompt, re.search(r"(\d+) \+ (\d+)", prompt)
    if numbers:
        return f"RESULT: {int(numbers[1]) + int(numbers[2])}" if thinks else "a lot"
    return "RESULT: words" if thinks else re.findall(r"word\d+", prompt)[0]


def main() -> None:
    """Design, print the evidence, save the artefact."""
    sys.modules["my_model"] = sys.modules[__name__]
    task = Task.from_rows(ROWS, prompt="{ask}", target="answer", reward="exact", name="mixed")
    with tempfile.TemporaryDirectory() as folder:
        result = design(
            task,
            model="scripted/my_model:model",
            limits=Limits(calls=20_000),
            run=Path(folder) / "run",
            roles="reasoner,drafter,reviser",
            encoder="hashing",
        )
        print("\n".join(result.evidence.lines()))
        print(result.artifact.save(Path(folder) / "mixed.edge").name)


if __name__ == "__main__":
    main()
