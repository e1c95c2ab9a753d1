"""
A graph as an ordinary compiled LangGraph `StateGraph`: the only file that imports LangGraph.

Joins are barrier edges, which wait for all their nodes, at any depth. A loop is a conditional route out of its source:
back to its target, or on to a small node that stands for its end, so that joins after it are barriers too. The number
of steps is bounded by the graph.

A node that fails or takes too long says so in its outcome, and is not left to LangGraph's error handlers and
timeouts: in LangGraph 1.2 a node whose handler ran never arrives at a barrier, so what joins it would never run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from edgewise.mas.graph.graph import Graph
from edgewise.mas.runtime.context import Context, spent
from edgewise.mas.runtime.node import NodeOutput
from edgewise.mas.runtime.schedule import flow, most_runs, standing
from edgewise.toolkit.types import Usage

Data = dict[str, Any]


def added(old: dict[str, list[Data]], new: dict[str, list[Data]]) -> dict[str, list[Data]]:
    """The reducer of outcomes: each takes the place of the one of its node and round, or comes after the others."""
    merged = dict(old)
    for name, outcomes in new.items():
        if name not in old:
            merged[name] = outcomes
            continue
        by_round: dict[int, Data] = {}
        for each in (*old[name], *outcomes):  # what was used stays, whatever else is said to have been said
            by_round[each["round"]] = {**by_round.get(each["round"], {}), **each}
        merged[name] = [by_round[number] for number in sorted(by_round)]
    return merged


class RunState(TypedDict, total=False):
    """
    What a run has come to, as plain data.

    `query` is the text asked, `outcomes` those of each node by round, `answer` what the exit said.
    """

    query: str
    outcomes: Annotated[dict[str, list[Data]], added]
    answer: str


class Kept(RunState, total=False):
    """The same where a checkpointer keeps it, with all messages that were asked."""

    messages: list[Data]


@lru_cache(maxsize=512)
def plain(graph: Graph) -> Any:
    """The compiled graph, without a checkpointer or interrupts; made once."""
    return compiled(graph)


def compiled(
    graph: Graph, *, checkpointer: Any = None, interrupt_before: Sequence[str] = (), **options: Any
) -> Any:
    """
    The compiled graph. It is run with `context=Context(...)`, of a fresh one for each run.

    `checkpointer` and `options` are those of LangGraph's `compile`. Runs with one of the first two need a context
    that is not `ahead`.
    """
    builder = StateGraph(Kept if checkpointer else RunState, context_schema=Context)
    ends = {loop.source: f"{loop.source}.end" for loop in graph.loops}
    for node in graph.nodes:
        builder.add_node(node.name, _node(graph, node.name))
    for loop in graph.loops:
        end = ends[loop.source]
        builder.add_node(end, _end)
        builder.add_conditional_edges(loop.source, _route(graph, loop.source, end), [loop.target, end])
    for name, heard in graph.before.items():
        sources = [ends.get(other, other) for other in heard] or [START]
        builder.add_edge(sources if len(sources) > 1 else sources[0], name)
    builder.add_edge(ends.get(graph.exit, graph.exit), END)
    app = builder.compile(checkpointer=checkpointer, interrupt_before=list(interrupt_before), **options)
    return app.with_config(recursion_limit=most_runs(graph) + len(ends) + 2)


def _node(graph: Graph, name: str) -> Any:
    exit_ = name == graph.exit

    async def node(state: RunState, runtime: Runtime[Context]) -> RunState:
        earlier = state.get("outcomes", {}).get(name, ())
        outcome = await runtime.context.run(name, len(earlier), partial(said_in, state))
        update: RunState = {"outcomes": {name: [data_of(outcome, len(earlier))]}}
        if exit_:
            update["answer"] = outcome.answer or standing(said_in(state).get(name, [outcome])).answer
        return update

    return node


async def _end(state: RunState) -> RunState:
    """The end of a loop."""
    return {}


def _route(graph: Graph, source: str, end: str) -> Callable[[RunState], str]:
    def route(state: RunState) -> str:
        return flow(graph).back(source, said_in(state)) or end

    return route


SPENT = "spent"


def data_of(outcome: NodeOutput, round_: int) -> Data:
    """An outcome as plain data: of its rollout, if it has one, only what it used."""
    calls, usage = spent(outcome)
    used = {SPENT: [calls, asdict(usage)]} if calls else {}
    return {
        **used,
        "node": outcome.node,
        "round": round_,
        "ended": outcome.ended,
        "text": outcome.text,
        "accepts": outcome.accepts,
        "error": outcome.error,
        "weight": outcome.weight,
        "result": outcome.result,
    }


def said_in(state: RunState) -> dict[str, list[NodeOutput]]:
    """The outcomes in a state, without their rollouts."""
    return {
        name: [
            NodeOutput(**{k: v for k, v in each.items() if k not in ("round", SPENT)}) for each in outcomes
        ]
        for name, outcomes in state.get("outcomes", {}).items()
    }


def spent_in(state: RunState) -> Iterator[tuple[str, int, Usage]]:
    """Names of nodes that ended, and the calls and tokens of each of their runs."""
    for name, outcomes in state.get("outcomes", {}).items():
        for calls, usage in (each[SPENT] for each in outcomes if SPENT in each):
            yield name, calls, Usage(**usage)


def resumed_with(outcomes: Mapping[str, tuple[NodeOutput, int]]) -> Any:
    """What a run that waits is resumed with so that nodes have said something else, each in its round."""
    return Command(update={"outcomes": {name: [data_of(*said)] for name, said in outcomes.items()}})
