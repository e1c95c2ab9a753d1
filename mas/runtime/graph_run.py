"""A graph run on one query, as a rollout: one step whose `calls` hold the rollouts of its agents."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from edgewise.mas.graph.graph import Graph
from edgewise.mas.runtime.context import UNLIMITED, Context, GraphLimits, NodeRun, Process, emit_reward
from edgewise.mas.runtime.node import NodeOutput, Team
from edgewise.mas.runtime.node_cache import Shared
from edgewise.mas.runtime.schedule import standing
from edgewise.toolkit.run.driver import Drive
from edgewise.toolkit.types import AsyncHost, Example, Message, Plan, Rollout, Step, Stop, Usage

__all__ = ["GraphLimits", "GraphRun", "NodeRun", "Shared", "emit_reward", "graph_run"]

ROLE = "graph"


@dataclass(frozen=True, slots=True)
class GraphRun:
    """
    What came of a graph run.

    `outcomes` has those of each node, one for each round that it ran. `reused` are nodes that were taken from another
    run of the group: their rollouts are in `rollout` too, though nothing was paid for them here. `rewards` is what was
    emitted for nodes.
    """

    graph: Graph
    rollout: Rollout
    outcomes: Mapping[str, tuple[NodeOutput, ...]]
    reused: frozenset[str] = frozenset()
    rewards: Mapping[str, float] = field(default_factory=dict)


def graph_run(
    graph: Graph,
    team: Team,
    example: Example,
    *,
    sample: int,
    seed: int,
    limits: GraphLimits = UNLIMITED,
    shared: Shared | None = None,
    version: str | None = None,
    rewards: Process | None = None,
    ahead: bool = True,
) -> Plan[GraphRun]:
    """
    Run a graph on a query: what its exit says is the answer.

    Every node draws with a seed made of `seed`, the query, `sample` and what the node is. Nodes that fail, take too
    long or meet a limit end with an outcome that says so; others go on without them. Which node meets a limit of calls
    or tokens may depend on timing. `rewards` is called when a node ends. Raises GraphError for a role or a tool that
    does not exist, before anything is paid, and whatever the driver raises.
    """
    make = partial(
        Context,
        graph,
        team,
        example,
        sample=sample,
        seed=seed,
        limits=limits,
        shared=shared,
        process=rewards,
        ahead=ahead,
    )
    context: Context = yield AsyncHost(partial(_invoked, make))
    outcomes = {name: tuple(context.outcomes[name]) for name in graph.order}
    rollout = _rollout(graph, example, outcomes, sample, seed, version)
    return GraphRun(graph, rollout, outcomes, frozenset(context.reused), context.rewards)


def inner_run(run: GraphRun, name: str, example: Example) -> GraphRun | None:
    """
    What the graph that ends at a node came to in this run.

    Run by itself it would have said the same, as a node draws with a seed made of what it is and what it hears (where
    its equal is left out, another draw of the same). None where the node said nothing, the run's own limits were met on
    the way to it, or it is in a loop that goes beyond it.
    """
    graph = run.graph.up_to(name)
    outcomes = {each: run.outcomes[each] for each in graph.order}
    met = any(x.ended == "limit" for said in outcomes.values() for x in said)
    cut = (run.graph.body(loop) for loop in run.graph.loops if loop not in graph.loops)
    if met or not standing(outcomes[name]).heard or any(outcomes.keys() & set(body) for body in cut):
        return None
    whole = run.rollout
    rollout = _rollout(graph, example, outcomes, whole.sample, whole.seed, None)
    return GraphRun(graph, rollout, outcomes)


async def _invoked(make: "partial[Context]", drive: Drive) -> Context:
    """Run the compiled graph in a fresh context, and leave nothing behind that still runs."""
    from edgewise.mas.runtime.langgraph_compiler import plain

    context = make(drive)
    query = context.example.messages[-1].content if context.example.messages else ""
    async with context.running():
        context.begin()
        # No stream: what came of the nodes is in the context.
        await plain(context.graph).ainvoke({"query": query}, context=context, stream_mode=[])
    return context


def _rollout(
    graph: Graph,
    example: Example,
    outcomes: Mapping[str, tuple[NodeOutput, ...]],
    sample: int,
    seed: int,
    version: str | None,
) -> Rollout:
    said = standing(outcomes[graph.exit])
    calls = tuple(x.rollout for name in graph.order for x in outcomes[name] if x.rollout)
    step = Step(example.messages, Message("assistant", said.answer), Usage(), calls=calls)
    stop, error = _stop(said)
    named = graph.version if version is None else version
    return Rollout(example.id, ROLE, sample, (step,), stop, seed=seed, version=named, error=error)


def _stop(said: NodeOutput) -> tuple[Stop, str]:
    """Why the run ended, and what is wrong if its exit said nothing."""
    if said.heard:
        return ("length" if said.rollout and said.rollout.stop == "length" else "stop"), ""
    return (
        "timeout" if said.ended == "timeout" else "failed"
    ), f"node {said.node!r} {said.ended}: {said.error}"
