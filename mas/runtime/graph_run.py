"""A graph run on one query, as a rollout: one step whose subrollouts are those of its nodes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgewise.mas.graph.graph import Graph
from edgewise.mas.runtime.context import UNLIMITED, GraphLimits, ProcessReward, RunContext
from edgewise.mas.runtime.node import NodeOutput, Team
from edgewise.mas.runtime.node_cache import NodeCache
from edgewise.mas.runtime.schedule import latest_output
from edgewise.toolkit.run.driver import Drive
from edgewise.toolkit.types import AsyncHost, Example, Message, Plan, Rollout, Step, StopReason, Usage

ROLE = "graph"


@dataclass(frozen=True, slots=True)
class GraphRun:
    """
    Result of a graph run.

    `outcomes` holds the outputs of each node, one for each round that it ran. `reused` are nodes whose output came
    from another run of the group: their rollouts are in `rollout` too, though nothing was paid for them here.
    `rewards` are the process rewards of nodes.
    """

    graph: Graph
    rollout: Rollout
    outcomes: Mapping[str, tuple[NodeOutput, ...]]
    reused: frozenset[str] = frozenset()
    rewards: Mapping[str, float] = field(default_factory=dict)


def run_graph(
    graph: Graph,
    team: Team,
    example: Example,
    *,
    sample: int,
    seed: int,
    limits: GraphLimits = UNLIMITED,
    cache: NodeCache | None = None,
    version: str | None = None,
    process_reward: ProcessReward | None = None,
    eager: bool = True,
) -> Plan[GraphRun]:
    """
    Run a graph on a query; the output of its exit is the answer.

    Every node draws with a seed derived from `seed`, the query, `sample` and the node's content. Nodes that fail, take
    too long or reach a limit end with an output that says so; others go on without them. Which node reaches a limit of
    calls or tokens may depend on timing. `process_reward` is called when a node ends. Raises GraphError for an unknown
    role or a missing tool before anything is paid, and all errors of the driver.
    """

    async def invoke(drive: Drive) -> RunContext:
        from edgewise.mas.runtime.langgraph_compiler import compile_plain

        context = RunContext(
            graph,
            team,
            example,
            drive,
            sample=sample,
            seed=seed,
            limits=limits,
            cache=cache,
            process_reward=process_reward,
            eager=eager,
        )
        query = example.messages[-1].content if example.messages else ""
        async with context.supervise():
            context.start_entries()
            # No stream of states: the outputs of nodes are in the context.
            await compile_plain(graph).ainvoke({"query": query}, context=context, stream_mode=[])
        return context

    context: RunContext = yield AsyncHost(invoke)
    outcomes = {name: tuple(context.outcomes[name]) for name in graph.order}
    rollout = build_rollout(graph, example, outcomes, sample, seed, graph.version if version is None else version)
    return GraphRun(graph, rollout, outcomes, frozenset(context.reused), context.rewards)


def extract_inner_run(run: GraphRun, name: str, example: Example) -> GraphRun | None:
    """
    Return the run of the graph that ends at a node, as part of this run.

    Run by itself it would give the same outputs, as a node draws with a seed derived from its content and from what it
    receives (where an equal node is left out, with another draw of the same distribution). None if the node has no
    text, a limit of this run was reached on the way to it, or it is in a loop that goes beyond it.
    """
    graph = run.graph.subgraph_to(name)
    outcomes = {node: run.outcomes[node] for node in graph.order}
    # Run by itself, the smaller graph would have had the room that others used up here.
    is_limited = any(outcome.status == "limit" for rounds in outcomes.values() for outcome in rounds)
    # A loop that the smaller graph lacks ran its nodes more often than the smaller graph would.
    lost_bodies = [run.graph.loop_body(loop) for loop in run.graph.loops if loop not in graph.loops]
    if is_limited or not latest_output(outcomes[name]).has_text:
        return None
    if any(not outcomes.keys().isdisjoint(body) for body in lost_bodies):
        return None
    rollout = build_rollout(graph, example, outcomes, run.rollout.sample, run.rollout.seed, graph.version)
    return GraphRun(graph, rollout, outcomes)


def build_rollout(
    graph: Graph, example: Example, outcomes: Mapping[str, tuple[NodeOutput, ...]], sample: int, seed: int, version: str
) -> Rollout:
    """Return the outputs of a graph's nodes as one rollout, which failed if the exit has no text."""
    last = latest_output(outcomes[graph.exit])
    runs = tuple(x.rollout for name in graph.order for x in outcomes[name] if x.rollout)
    # No usage of its own: the subrollouts carry theirs.
    step = Step(example.messages, Message("assistant", last.answer), Usage(), subrollouts=runs)
    stop: StopReason = "length" if last.rollout and last.rollout.stop == "length" else "stop"
    error = ""
    if not last.has_text:
        stop = "timeout" if last.status == "timeout" else "failed"
        error = f"node {last.node!r} {last.status}: {last.error}"
    return Rollout(example.id, ROLE, sample, (step,), stop, seed=seed, version=version, error=error)
