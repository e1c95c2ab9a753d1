"""
Design a graph of agents for your own rows, in Python.

Run it as it is: the scripted model costs nothing. For your own task, name a real model, such as "openai/gpt-4o-mini",
and keep the limit. The rows here are of two kinds, which need different agents.
"""

import re
import sys
import tempfile
from pathlib import Path

from edgewise import Limits, Request, Task, design

ROWS = [{"ask": f"What is {n} + {3 * n}?", "answer": str(4 * n)} for n in range(40)]
ROWS += [{"ask": f"Say word{n}.", "answer": f"word{n}"} for n in range(40)]


def model(request: Request) -> str:
    """Add only if the prompt allows thinking step by step; repeat words only if it does not."""
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
