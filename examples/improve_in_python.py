"""
Improve a model from a list of dicts and a function, in Python.

Run it as it is: the scripted model costs nothing. For your own task, name a real model, such as "openai/gpt-4o-mini",
and keep the limit.
"""

import sys
import tempfile
from pathlib import Path

from edgewise import Limits, Request, Task, improve

WORDS = """
stone river paper cloud apple bread chair glass light night green table plant horse sugar lemon mouse train beach dance
spoon knife clock shirt grass honey house onion piano queen robin salad tiger uncle voice water yacht zebra amber brick
candle dragon engine forest garden hammer island jacket kitten ladder magnet needle orange pencil rabbit saddle
"""
ROWS = [{"word": word, "target": word[::-1]} for word in WORDS.split()]


def exact(answer: str, target: str) -> float:
    """Return 1 for the right answer, else 0."""
    return float(answer.strip() == target)


def model(request: Request) -> str:
    """Spell backwards by luck, or because a lesson says so; as distiller, return that lesson."""
    if request.schema:
        return '{"operations": [{"action": "add", "id": null, "kind": "content", "text": "Spell the word backwards."}]}'
    prompt = request.messages[-1].content
    word = prompt.split()[-1]
    knows = "backwards" in prompt or (request.sampling.seed or 0) % 2
    return word[::-1] if knows else word


def main() -> None:
    """Improve, print the evidence, save the artefact."""
    sys.modules["my_model"] = sys.modules[__name__]
    task = Task.from_rows(ROWS, prompt="Say the password for: {word}", reward=exact, name="passwords")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        # Few rows: with four samples of each, a smaller gain is detectable.
        result = improve(task, model="scripted/my_model:model", limits=Limits(calls=5000), run=run, samples=4)
        print("\n".join(result.evidence.lines()))
        print(result.artifact.save(Path(folder) / "passwords.edge").name)


if __name__ == "__main__":
    main()
