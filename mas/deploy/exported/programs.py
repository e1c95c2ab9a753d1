"""Nodes whose reply is what a program of their model prints."""

from edgewise.mas.deploy.exported.model import complete, write_messages
from edgewise.mas.deploy.exported.python_process import run_python
from edgewise.mas.deploy.exported.settings import NODES, Data
from edgewise.mas.deploy.exported.state import GraphState
from edgewise.mas.runtime.node_text import NO_PROGRAM, PROGRAM_FAILED
from edgewise.toolkit.util.extract import BLOCK, extract_code


async def run_program_node(name: str, state: GraphState) -> Data:
    """Ask for a program and run it; one that fails goes back with its error, for at most `turns` calls of the model."""
    messages, problem = write_messages(name, state), ""
    for _ in range(NODES[name]["turns"]):
        reply = (await complete(NODES[name], messages)).content or ""
        printed, problem = await run_python(extract_code(reply)) if BLOCK.search(reply) else ("", NO_PROGRAM)
        if printed and not problem:
            return {"text": printed}
        problem = problem or "it printed nothing"
        # The model sees its program and what was wrong with it.
        messages.append({"role": "assistant", "content": reply})
        messages.append({"role": "user", "content": PROGRAM_FAILED.format(problem=problem)})
    return {"error": problem}
