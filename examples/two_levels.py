"""
A planner and its sub-agents learn lessons of their own, from the same runs (M-GRPO in words).

Run it as it is: the model is a scripted one that costs nothing. Put the name of your own in its place, such as
"openai/gpt-4o-mini", with a limit in dollars; where the journal is kept, a run that was stopped goes on.
"""

import asyncio
import re
import sys
import tempfile
from pathlib import Path

from edgewise.mas.two_level.loop import learn_two_levels
from edgewise.mas.two_level.system import TwoLevelConfig, TwoLibraries, evaluate_two_levels
from edgewise.toolkit import Limits, Task
from edgewise.toolkit.budget.journal import Journal
from edgewise.toolkit.budget.ledger import Ledger
from edgewise.toolkit.model.middleware import stack_middleware
from edgewise.toolkit.model.router import Router
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.types import Message, Request, ToolCall

ROWS = [{"sum": f"{a}+{b}", "target": str(a + b)} for a in range(11, 20) for b in range(21, 31)]
LESSONS = {"planner": "Hand each sum to a sub-agent.", "sub": "Carry the one."}


def model(request: Request) -> str | Message:
    """Delegates, and adds, by luck until it is told; as distiller it has a lesson for each side."""
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


async def main() -> None:
    """Learn both libraries, print them, and measure them on rows that learning never saw."""
    sys.modules["my_model"] = sys.modules[__name__]
    task = Task.from_rows(ROWS, prompt="How much is {sum}?", name="sums")
    config = TwoLevelConfig(model="scripted/my_model:model", epochs=1, group_size=4, samples=4)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.sqlite") as journal:
        client = stack_middleware(Router(), journal, Ledger(Limits(calls=20_000)))
        # The expert grades what a sub-agent says to its sub-task; leave it out, and a judge does.
        both = (await drive(learn_two_levels(task, config, expert="exact"), client)).libraries
        print("planner:", *both.planner.to_flat_json().values(), "\nsub-agents:", *both.sub.to_flat_json().values())
        arms = {"before": TwoLibraries(), "planner only": TwoLibraries(both.planner), "after": both}
        print(await drive(evaluate_two_levels(task, config, arms), client))
        await client.aclose()


if __name__ == "__main__":
    asyncio.run(main())
