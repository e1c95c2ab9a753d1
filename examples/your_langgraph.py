"""
Learn lessons for the nodes of your own LangGraph graph, without a change to it.

The graph is in receipts_graph.py. Run this as it is: the scripted model costs nothing. For your own graph, name a real
model, such as "openai/gpt-4o-mini", with a limit, and your module in place of receipts_graph. Then run
`edgewise serve receipts.edge`, and your program with OPENAI_BASE_URL=http://127.0.0.1:8000/v1: its calls get the
lessons.
"""

import re
import sys
import tempfile
from pathlib import Path

from edgewise import Limits, Request, Task, adopt

GOODS = ["coffee", "cake", "soup", "bread", "tea", "apples"]
PRICES = [(n * 37 % 900 + 50, n * 53 % 700 + 25) for n in range(50)]
ROWS = [
    {
        "receipt": f"One {GOODS[n % 6]} at {a / 100:.2f}, one {GOODS[(n + 2) % 6]} at {b / 100:.2f}",
        "target": f"{(a + b) / 100:.2f} EUR",
    }
    for n, (a, b) in enumerate(PRICES)
]
WRITER = "You write the total"


def model(request: Request) -> str:
    """Add, and write the currency by luck or because a lesson says so; as distiller, return that lesson."""
    text = "\n".join(message.content for message in request.messages)
    if request.schema:
        lesson = '{"action": "add", "id": null, "kind": "form", "text": "Write EUR behind the total."}'
        return f'{{"operations": [{lesson if WRITER in text or "Write EUR" in text else ""}]}}'
    amounts = re.findall(r"\d+\.\d\d", request.messages[-1].content)
    if WRITER not in text:
        return ", ".join(amounts)
    knows = "Write EUR" in text or (request.sampling.seed or 0) % 3 == 0
    return f"{sum(map(float, amounts)):.2f}" + (" EUR" if knows else "")


def main() -> None:
    """Learn, print the evidence and the lessons of each node, save the artefact."""
    sys.modules["my_model"] = sys.modules[__name__]
    task = Task.from_rows(ROWS, prompt="{receipt}", reward="exact", name="receipts")
    with tempfile.TemporaryDirectory() as folder:
        result = adopt(
            task,
            "receipts_graph:ask",
            model="scripted/my_model:model",
            processes=2,
            limits=Limits(calls=5000),
            run=Path(folder) / "run",
            group_size=3,
            epochs=1,
            batch_size=20,
        )
        print("\n".join(result.evidence.lines()))
        for node, library in result.artifact.files["nodes.json"].items():
            print(node, [lesson["text"] for lesson in library["lessons"]])
        print(result.artifact.save(Path(folder) / "receipts.edge").name)


if __name__ == "__main__":
    main()
