"""
What compiling costs: a compiled graph against the same graph written by hand in LangGraph, with an instant model.

Both are one LangGraph run: three solvers, a critic of two of them, a reviser of all, a summary (six nodes, joins of
unequal depth), and both ask the same instant client through a `Driver`, as every program here does. By hand, a node
dresses the same messages, asks, and writes the text to a dict with a reducer; there are no seeds, limits, roles,
outcomes, notes or rollouts. Compiled, `graph_run` does all that it does in use. CPU seconds per run (nothing waits)
are the least of many repeats in turn, so that others on the machine count for neither.
"""

import asyncio
import operator
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from common import quick, report
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from edgewise.mas.graph.graph import Graph, Node
from edgewise.mas.graph.roles import Role
from edgewise.mas.runtime.graph_run import run_graph
from edgewise.mas.runtime.node import Team
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.run.driver import Drive, Driver, plan_request
from edgewise.toolkit.types import Example, Message, Request, Sampling

RUNS = 20
PROMPTS = {
    "first": "",
    "second": "",
    "third": "",
    "critic": "Say what is wrong.",
    "reviser": "Write it anew.",
    "summary": "Say it in short.",
}
EDGES = (
    ("first", "critic"),
    ("second", "critic"),
    ("first", "reviser"),
    ("third", "reviser"),
    ("critic", "reviser"),
    ("reviser", "summary"),
)
EXAMPLE = Example("q", (Message("user", "What is the sum of all numbers from one to ten?"),))
SAMPLING = Sampling(temperature=1.0, max_tokens=100)
FORM = "{task}\n\n# What others found\n\n{said}\n\n# Your part\n\n{prompt}"


@dataclass
class Hand:
    """The runtime context by hand."""

    drive: Drive
    example: Example


class Said(TypedDict, total=False):
    """The state by hand."""

    query: str
    said: Annotated[dict[str, str], operator.or_]


def by_hand() -> Any:
    """The graph as one would write it in LangGraph."""
    builder = StateGraph(Said, context_schema=Hand)
    for name, prompt in PROMPTS.items():
        builder.add_node(name, _agent(name, prompt, [a for a, b in EDGES if b == name]))
        sources = [a for a, b in EDGES if b == name]
        builder.add_edge(sources if len(sources) > 1 else sources[0] if sources else START, name)
    builder.add_edge("summary", END)
    return builder.compile()


def _agent(name: str, prompt: str, hears: list[str]) -> Callable[..., Awaitable[Said]]:
    async def agent(state: Said, runtime: Runtime[Hand]) -> Said:
        task = runtime.context.example.messages[0].content
        said = "\n\n".join(f"## {other}\n{state.get('said', {})[other]}" for other in hears)
        asked = Message("user", FORM.format(task=task, said=said, prompt=prompt) if said else task)
        reply = await runtime.context.drive(plan_request(Request("m", (asked,), SAMPLING)))
        return {"said": {name: reply.message.content}}

    return agent


def ours() -> tuple[Graph, Team]:
    """The same graph as a value."""
    roles = {name: Role(name=name, does="speaks", prompt=prompt) for name, prompt in PROMPTS.items()}
    nodes = tuple(Node(name=name, role=name) for name in PROMPTS)
    return Graph(nodes, EDGES, "summary"), Team(roles, "m", SAMPLING)


async def timed(run: Callable[[], Awaitable[Any]], runs: int) -> float:
    """Seconds per run, one after the other."""
    start = time.process_time()
    for _ in range(runs):
        await run()
    return (time.process_time() - start) / runs


async def measured(repeats: int) -> tuple[float, float]:
    """Seconds per run by hand and compiled."""
    hand, (graph, team) = by_hand(), ours()

    def client() -> ScriptedClient:
        return ScriptedClient(lambda request: "It is fifty five.")

    async def written() -> None:
        context = Hand(Driver(client()).run, EXAMPLE)
        result = await hand.ainvoke({"query": EXAMPLE.messages[0].content}, context=context)
        assert len(result["said"]) == len(PROMPTS)

    async def compiled() -> None:
        run = await Driver(client()).run(run_graph(graph, team, EXAMPLE, sample=0, seed=0))
        assert len(run.outcomes) == len(PROMPTS) and not run.rollout.failed

    await timed(written, 5), await timed(compiled, 5)
    pairs = [(await timed(written, RUNS), await timed(compiled, RUNS)) for _ in range(repeats)]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def main() -> int:
    """Measure, print, judge."""
    hand, compiled = asyncio.run(measured(40 if quick() else 200))
    figures = {
        "by_hand_ms": round(hand * 1e3, 3),
        "compiled_ms": round(compiled * 1e3, 3),
        "ratio": round(compiled / hand, 3),
        "nodes": len(PROMPTS),
    }
    return report("graph_overhead", figures, "<= 1.15 x time per run", compiled <= 1.15 * hand)


if __name__ == "__main__":
    sys.exit(main())
