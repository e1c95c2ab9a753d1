"""The LangGraph graph."""

import asyncio
from functools import partial
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.types import Overwrite

from edgewise.mas.deploy.exported.model import run_model_node
from edgewise.mas.deploy.exported.programs import run_program_node
from edgewise.mas.deploy.exported.settings import EXIT, LOOPS, MAX_STEPS, NODE_SECONDS, NODES, Data
from edgewise.mas.deploy.exported.state import GraphState, latest_reply
from edgewise.mas.deploy.exported.tools import run_tool_node
from edgewise.mas.deploy.exported.votes import run_vote_node

KINDS = {"model": run_model_node, "tools": run_tool_node, "program": run_program_node, "vote": run_vote_node}


async def run_node(name: str, state: GraphState) -> Data:
    """
    Run a node. Failures and timeouts become its reply, so that the nodes after it go on without its text.

    Not add_node(error_handler=..., timeout=...): a node that failed there never counts as done for those that wait for
    several nodes.
    """
    reply: Data = {"node": name, "text": "", "answer": "", "accepts": None, "error": ""}
    try:
        async with asyncio.timeout(NODE_SECONDS):
            reply |= await KINDS[NODES[name]["kind"]](name, state)
    except TimeoutError:
        reply["error"] = f"stopped after {NODE_SECONDS:g} seconds"
    except Exception as error:
        reply["error"] = f"{type(error).__name__}: {error}"
    # Without a marked result the whole text is the answer.
    reply["answer"] = reply["answer"] or reply["text"]
    return {"said": {name: [reply]}}


async def begin(state: GraphState) -> Data:
    """Forget the replies of the thread's last question."""
    return {"said": Overwrite({})}


async def answer(state: GraphState) -> Data:
    """Return the exit's answer."""
    reply = latest_reply(state, EXIT)
    return {"answer": reply["answer"] if reply else ""}


def goes_back(source: str, rounds: int, state: GraphState) -> bool:
    """Return whether a loop runs once more: the verdict does not accept, and there are rounds left."""
    replies = state.get("said", {}).get(source, [])
    return len(replies) <= rounds and not replies[-1]["accepts"]


def build() -> StateGraph[Any]:
    """Return the graph of `NODES` and `LOOPS`; a node with several inputs waits for all of them."""
    builder: StateGraph[Any] = StateGraph(GraphState)
    builder.add_node("graph.begin", begin)
    builder.add_node("graph.answer", answer)
    builder.add_edge(START, "graph.begin")
    builder.add_edge("graph.answer", END)

    # A loop is left through a node of its own: source -> back to the target, or on to source.done. Nodes after the
    # loop wait for that one, as the source may run several times.
    ends: dict[str, str] = {source: f"{source}.done" for source in LOOPS}
    for source, (target, rounds) in LOOPS.items():
        builder.add_node(ends[source], lambda state: {})
        route = partial(goes_back, source, rounds)
        builder.add_conditional_edges(source, route, {True: target, False: ends[source]})

    for name, row in NODES.items():
        builder.add_node(name, partial(run_node, name))
        inputs: list[str] = row["inputs"]
        # Nodes after a loop wait for its end; a list of several starts waits for all of them.
        starts = [ends.get(other, other) for other in inputs] or ["graph.begin"]
        builder.add_edge(starts if len(starts) > 1 else starts[0], name)
    builder.add_edge(ends.get(EXIT, EXIT), "graph.answer")
    return builder


builder = build()
graph = builder.compile().with_config(recursion_limit=MAX_STEPS)


async def ask(question: str) -> str:
    """Answer one question."""
    return (await graph.ainvoke({"messages": [{"role": "user", "content": question}]}))["answer"]


if __name__ == "__main__":
    import sys

    print(asyncio.run(ask(" ".join(sys.argv[1:]) or sys.stdin.read())))
