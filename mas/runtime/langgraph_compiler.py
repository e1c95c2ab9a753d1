"""
An agent graph as an ordinary compiled LangGraph `StateGraph`: the only file of the runtime that imports LangGraph.

    loop c -> b               b ──► c ──(route)──► c.end ──► d
                              ▲         │
                              └─────────┘

Joins are barrier edges, which wait for all their nodes, at any depth. A loop is a conditional route out of its source:
back to its target, or on to a small node that stands for its end, so that joins after it are barriers too. The number
of steps is bounded by the graph.

A node that fails or takes too long says so in its output. It is not left to LangGraph's error handlers and timeouts:
in LangGraph 1.2 a node whose handler ran never arrives at a barrier, so what joins it would never run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from edgewise.mas.graph.graph import Graph
from edgewise.mas.runtime.context import RunContext, count_usage
from edgewise.mas.runtime.node import NodeOutput
from edgewise.mas.runtime.schedule import build_schedule, latest_output, max_node_runs
from edgewise.toolkit.types import Usage

Data = dict[str, Any]
USAGE = "spent"
"""Key of a node's calls and tokens in the data of its output. Checkpoints hold it, as they hold all keys below."""


def merge_outcomes(old: dict[str, list[Data]], new: dict[str, list[Data]]) -> dict[str, list[Data]]:
    """Merge outputs, LangGraph's reducer: a new one replaces that of its node and round, or joins the others."""
    merged = dict(old)
    for name, outcomes in new.items():
        if name not in old:
            merged[name] = outcomes
            continue
        by_round: dict[int, Data] = {}
        for outcome in (*old[name], *outcomes):
            # Merged by key: an edit by a person has no usage, and what the node used stays counted.
            number = outcome["round"]
            by_round[number] = {**by_round.get(number, {}), **outcome}
        merged[name] = [by_round[number] for number in sorted(by_round)]
    return merged


class RunState(TypedDict, total=False):
    """
    State of a run, as plain data.

    `query` is the question's text, `outcomes` the outputs of each node by round, `answer` that of the exit.
    """

    query: str
    outcomes: Annotated[dict[str, list[Data]], merge_outcomes]
    answer: str


class CheckpointState(RunState, total=False):
    """State of a run with a checkpointer, which also stores the messages of the question."""

    messages: list[Data]


@lru_cache(maxsize=512)
def compile_plain(graph: Graph) -> Any:
    """Compile a graph without a checkpointer or interrupts, once."""
    return compile_graph(graph)


def compile_graph(graph: Graph, *, checkpointer: Any = None, interrupt_before: Sequence[str] = ()) -> Any:
    """
    Compile a graph. Invoke it with `context=RunContext(...)`, a fresh one for each run.

    `checkpointer` and `interrupt_before` are those of LangGraph's `compile`; with them the context must not be `eager`.
    """
    builder = StateGraph(CheckpointState if checkpointer else RunState, context_schema=RunContext)
    ends = {loop.source: f"{loop.source}.end" for loop in graph.loops}
    for node in graph.nodes:
        builder.add_node(node.name, make_node(graph, node.name))
    for loop in graph.loops:
        # The node that stands for the end of the loop does nothing; joins after the loop wait for it.
        builder.add_node(ends[loop.source], lambda state: {})
        route = partial(choose_next, graph, loop.source, ends[loop.source])
        builder.add_conditional_edges(loop.source, route, [loop.target, ends[loop.source]])
    for name, inputs in graph.predecessors.items():
        # A list of several sources is a barrier; a list of one would be one too, but an edge is cheaper.
        sources = [ends.get(other, other) for other in inputs] or [START]
        builder.add_edge(sources if len(sources) > 1 else sources[0], name)
    builder.add_edge(ends.get(graph.exit, graph.exit), END)
    app = builder.compile(checkpointer=checkpointer, interrupt_before=list(interrupt_before))
    return app.with_config(recursion_limit=max_node_runs(graph) + len(ends) + 2)


def make_node(graph: Graph, name: str) -> Any:
    """Return LangGraph's node, which awaits the output of the context's node."""

    async def node(state: RunState, runtime: Runtime[RunContext]) -> RunState:
        rounds = len(state.get("outcomes", {}).get(name, ()))
        outcome = await runtime.context.get_output(name, rounds, partial(read_outcomes, state))
        update: RunState = {"outcomes": {name: [outcome_to_data(outcome, rounds)]}}
        if name == graph.exit:
            # An exit in a loop may fail in its last round: then its text of an earlier round stands.
            update["answer"] = outcome.answer or latest_output(read_outcomes(state).get(name, [outcome])).answer
        return update

    return node


def choose_next(graph: Graph, source: str, end: str, state: RunState) -> str:
    """Return where a loop goes from its source: back to its target, or on to its end."""
    return build_schedule(graph).next_target(source, read_outcomes(state)) or end


def outcome_to_data(outcome: NodeOutput, round_: int) -> Data:
    """Return an output as plain data; of its rollout, if it has one, only calls and tokens."""
    # Plain data only: a checkpointer in a database stores nothing else, and other processes read it.
    calls, usage = count_usage(outcome)
    data: Data = {USAGE: [calls, asdict(usage)]} if calls else {}
    return data | {
        "node": outcome.node,
        "round": round_,
        "ended": outcome.status,
        "text": outcome.text,
        "accepts": outcome.accepts,
        "error": outcome.error,
        "weight": outcome.weight,
        "result": outcome.result,
    }


def read_outcomes(state: RunState) -> dict[str, list[NodeOutput]]:
    """Return the outputs in a state, without their rollouts."""
    outcomes: dict[str, list[NodeOutput]] = {}
    for name, rounds in state.get("outcomes", {}).items():
        for data in rounds:
            fields = {key: value for key, value in data.items() if key not in ("round", "ended", USAGE)}
            outcomes.setdefault(name, []).append(NodeOutput(status=data["ended"], **fields))
    return outcomes


def read_usage(state: RunState) -> Iterator[tuple[str, int, Usage]]:
    """Yield the names of nodes that ended, with the calls and tokens of each of their runs."""
    for name, rounds in state.get("outcomes", {}).items():
        for data in rounds:
            if USAGE in data:
                calls, usage = data[USAGE]
                yield name, calls, Usage(**usage)
