"""
One run of a graph: the LangGraph context that all its nodes share.

LangGraph runs step by step, and a step ends with its slowest node. The context starts a node as soon as its own inputs
are there (`eager`); LangGraph's node then only awaits the output that is under way:

    a (1 s) ──► c (3 s) ──┐      LangGraph alone:  a b | c d | e   e starts after 3 + 3 s
                          ├──► e
    b (3 s) ──► d (1 s) ──┘      eager:            a c, b d | e    e starts after 4 s

Everything here runs in one event loop and needs no locks; models and tools that block run in threads of the driver.
Each chain of nodes that follow one another is one task, a branch: it ends where a node waits for other branches, and
the last branch to arrive goes on with that node.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial

from edgewise.mas.graph.graph import Graph, Node
from edgewise.mas.runtime.node import NodeOutput, NodeStatus, Team, run_node
from edgewise.mas.runtime.node_cache import CacheEntry, NodeCache, hash_nodes
from edgewise.mas.runtime.node_limits import Meter, NodeFailure, meter_plan
from edgewise.mas.runtime.schedule import OutputsByNode, build_schedule
from edgewise.toolkit.budget.ledger import Ledger, Limits
from edgewise.toolkit.budget.prices import Price
from edgewise.toolkit.errors import ConfigError, EdgewiseError, RewardError
from edgewise.toolkit.run.driver import Drive
from edgewise.toolkit.tracking.events import CallsShared, NodeFinished
from edgewise.toolkit.types import BilledTo, Example, LocalCalls, Plan, Rollout, Step, Usage
from edgewise.toolkit.util.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """
    Limits of one graph run; None for none.

    `node_seconds` bounds one run of a node, from its start. `concurrency` is the maximum of nodes that run at once.
    `prices` replace the known ones, in dollars.
    """

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None
    node_seconds: float | None = None
    concurrency: int | None = None
    prices: Mapping[str, Price] | None = None

    def __post_init__(self) -> None:
        for name in ("calls", "tokens", "usd", "node_seconds", "concurrency"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"The limit {name}={value} of a graph run must be above zero.")


UNLIMITED = GraphLimits()


@dataclass(frozen=True, slots=True)
class NodeRun:
    """A node that ended, as in the event `NodeFinished`; `round` is 0 outside loops."""

    graph: str
    example: str
    sample: int
    round: int
    outcome: NodeOutput


def count_usage(outcome: NodeOutput) -> tuple[int, Usage]:
    """Return the calls and tokens of a node's run."""
    run = outcome.rollout
    return (len(run.steps), run.usage) if run else (0, Usage())


ProcessReward = Callable[["RunContext", NodeOutput], None]
"""A process reward: called when a node ends, it may call `context.emit_reward`."""


class RunStopped(Exception):
    """Ends LangGraph's run; `RunContext.error` says why."""


@dataclass(eq=False)
class RunContext:
    """
    One run of a graph on an example; `drive` runs the plans of its nodes.

    `outcomes` holds the output of each node by round, `reused` the nodes whose output came from the cache, `rewards`
    the process rewards of nodes, `error` what stopped the run. Without `eager`, nodes start when LangGraph gets to
    them and receive what its state holds: for checkpointers and interrupts. Outputs are the same in both cases.
    """

    graph: Graph
    team: Team
    example: Example
    drive: Drive
    sample: int = 0
    seed: int = 0
    limits: GraphLimits = UNLIMITED
    cache: NodeCache | None = None
    process_reward: ProcessReward | None = None
    eager: bool = True
    outcomes: dict[str, list[NodeOutput]] = field(default_factory=dict, init=False)
    reused: set[str] = field(default_factory=set, init=False)
    rewards: dict[str, float] = field(default_factory=dict, init=False)
    error: Exception | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._schedule = build_schedule(self.graph)
        self._hashes = hash_nodes(self.graph, self.team)
        limits = self.limits
        self._room = asyncio.Semaphore(limits.concurrency) if limits.concurrency else contextlib.nullcontext()
        # Without a ledger calls go straight to the driver, and models need no known price.
        self._ledger = None
        if not limits.calls is limits.tokens is limits.usd is None:
            total = Limits(usd=limits.usd, tokens=limits.tokens, calls=limits.calls)
            self._ledger = Ledger(total, limits.prices)
        # By node and round: the output, once it is there. A node is started by whoever makes its entry.
        self._outputs: dict[tuple[str, int], asyncio.Future[NodeOutput]] = {}
        self._branches: list[asyncio.Task[None]] = []

    def emit_reward(self, node: str, value: float) -> None:
        """Add to the process reward of a node. Raises RewardError for a node that the graph does not have."""
        if node not in self.graph.predecessors:
            raise RewardError(f"emit_reward was given the node {node!r}; the graph has {', '.join(self.graph.order)}.")
        self.rewards[node] = self.rewards.get(node, 0.0) + value

    def add_usage(self, usages: Iterable[tuple[str, int, Usage]]) -> None:
        """Count calls and tokens of nodes, by name, from before this run was resumed."""
        if self._ledger is None:
            return
        for name, calls, usage in usages:
            model = self.graph[name].model or self.team.model
            self._ledger.add_local_calls(LocalCalls(BilledTo(self.team.payer), model, calls, usage))

    def start_entries(self) -> None:
        """Start the nodes without predecessors, if the run is eager."""
        if self.eager:
            for name in self.graph.entries:
                self._start_branch(name, 0, self.outcomes)

    async def get_output(self, name: str, round_: int, read_state: Callable[[], OutputsByNode]) -> NodeOutput:
        """Return the output of a node in a round; start it if nobody has, with the inputs in LangGraph's state."""
        if (name, round_) not in self._outputs:
            self._check()
            self._start_branch(name, round_, read_state())
        output = self._outputs[name, round_]
        # Shielded: LangGraph cancels its nodes when one fails, but calls under way are paid for. `supervise` decides.
        return output.result() if output.done() else await asyncio.shield(output)

    @contextlib.asynccontextmanager
    async def supervise(self) -> AsyncIterator[None]:
        """
        Enclose the code that invokes the compiled graph; leave nothing behind that still runs.

        If that code is cancelled or abandoned, branches are cancelled. If it fails, calls under way are paid for and
        end first; the error raised is that of a branch, not LangGraph's view of it.
        """
        try:
            yield
        # GeneratorExit: a stream that the caller left.
        except (asyncio.CancelledError, GeneratorExit):
            await self.wait_for_branches(cancel=True)
            raise
        except Exception:
            await self.wait_for_branches(cancel=False)
            if self.error:
                raise self.error from None
            raise

    async def wait_for_branches(self, *, cancel: bool) -> None:
        """Wait for all branches; cancel them first if told to."""
        if cancel:
            self._stop(RunStopped())
            for task in self._branches:
                task.cancel()
        # In a loop, as a branch may start others before it ends.
        while running := [task for task in self._branches if not task.done()]:
            await asyncio.gather(*running, return_exceptions=True)

    # ---- branches --------------------------------------------------------------------------------

    def _start_branch(self, name: str, round_: int, outcomes: OutputsByNode) -> None:
        self._outputs[name, round_] = asyncio.get_running_loop().create_future()
        self._branches.append(asyncio.create_task(self._run_branch(name, round_, outcomes)))

    async def _run_branch(self, name: str, round_: int, outcomes: OutputsByNode) -> None:
        """Run a node, then one node that it makes ready, and so on; start branches for the others."""
        try:
            while True:
                inputs = self._schedule.inputs(name, round_, outcomes)
                outcome = await self._run_node(self.graph[name], round_, inputs)
                self._check()
                self.outcomes.setdefault(name, []).append(outcome)
                self._outputs[name, round_].set_result(outcome)

                # From here to the next await nothing else runs, so no other branch finds the same nodes ready.
                ready = list(self._schedule.ready_nodes(name, self.outcomes)) if self.eager else []
                if not ready:
                    return
                outcomes, (name, round_) = self.outcomes, ready[0]
                self._outputs[name, round_] = asyncio.get_running_loop().create_future()
                for other in ready[1:]:
                    self._start_branch(*other, outcomes)
        except Exception as error:
            self._stop(error)

    def _check(self) -> None:
        if self.error:
            raise RunStopped

    def _stop(self, error: Exception) -> None:
        """Let no other node start, and LangGraph's run end."""
        self.error = self.error or error
        for output in self._outputs.values():
            if not output.done():
                output.set_exception(RunStopped())
                output.exception()  # read, or asyncio warns of a node that LangGraph never got to

    # ---- one node --------------------------------------------------------------------------------

    async def _run_node(self, node: Node, round_: int, inputs: list[NodeOutput]) -> NodeOutput:
        """Run a node once there is room, or take the output of an equal one from the cache."""
        async with self._room:
            self._check()
            run = partial(self._run_metered, node, round_, inputs)
            # A vote costs nothing, so there is nothing to reuse. Nodes of a loop are left out, as their seed depends on
            # the round and the key does not.
            if self.cache is None or node.name in self._schedule.loop_of or self.team.roles[node.role].votes:
                return (await run())[0]

            texts = tuple((output.node, output.text) for output in inputs if output.has_text)
            key = (self.seed, self.example.id, self.sample, self._hashes[node.name], texts)
            (outcome, paid), is_reused = await self.cache.get_or_run(key, run)
            return await self._reuse(node, outcome, paid) if is_reused else outcome

    async def _run_metered(self, node: Node, round_: int, inputs: list[NodeOutput]) -> CacheEntry:
        """Run a node within its time; one that takes longer has the calls that it made in its rollout."""
        meter, seconds = Meter(self._ledger), self.limits.node_seconds
        current_meter.set(meter)
        plan = self._plan_node(node, round_, inputs, meter)
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                return await self.drive(plan), meter
        except TimeoutError:
            # A TimeoutError of the client's own is an error of the program.
            if not scope.expired():
                raise
            outcome = self._cut_short(node, meter, "timeout", f"it took longer than {seconds:g} seconds")
            await self.drive(self._report(round_, outcome, meter))
            return outcome, meter

    def _plan_node(self, node: Node, round_: int, inputs: list[NodeOutput], meter: Meter) -> Plan[NodeOutput]:
        # The seed depends on what the node is, not on its name or place: equal nodes of two graphs draw alike.
        path = (self.seed, self.example.id, self.sample, self._hashes[node.name])
        seed = derive_seed(*path, round_) if round_ else derive_seed(*path)
        plan = run_node(self.team, node, self.example, inputs, sample=self.sample, seed=seed)
        outcome = yield from meter_plan(plan, meter)
        if isinstance(outcome, NodeFailure):
            error = f"{type(outcome.error).__name__}: {outcome.error}"
            outcome = self._cut_short(node, meter, "failed", error)
        if meter.stopped and outcome.status == "failed":
            outcome = replace(outcome, status="limit", error=meter.stopped)
        yield from self._report(round_, outcome, meter)
        return outcome

    async def _reuse(self, node: Node, outcome: NodeOutput, paid: Meter) -> NodeOutput:
        """Return an equal node's output as this node's. Its calls count against this run's limits all the same."""
        # What a graph may use does not depend on what ran beside it, so limits hold as if nothing were shared.
        meter = Meter(self._ledger, emitted=paid.emitted)
        await meter.charge(paid.calls)
        if meter.stopped:
            outcome = self._cut_short(node, meter, "limit", meter.stopped)
        else:
            rollout = outcome.rollout and replace(outcome.rollout, role=node.name)
            outcome = replace(outcome, node=node.name, rollout=rollout, weight=node.weight)
            self.reused.add(node.name)
        await self.drive(self._report(0, outcome, meter))
        return outcome

    def _report(self, round_: int, outcome: NodeOutput, meter: Meter) -> Plan[None]:
        """Reward a node that ended, and emit its events."""
        # Before the process reward, which may look at what the node's own code emitted.
        for value in meter.emitted:
            self.emit_reward(outcome.node, value)
        try:
            if self.process_reward:
                self.process_reward(self, outcome)
        except EdgewiseError:
            raise
        except Exception as error:
            raise RewardError(
                f"The process reward failed on node {outcome.node!r}: {type(error).__name__}: {error}"
            ) from error
        # Calls that were not made are reported apart: books count them as shared, not as paid.
        is_reused = outcome.node in self.reused
        if is_reused:
            yield CallsShared(*count_usage(outcome))
        run = NodeRun(self.graph.version, self.example.id, self.sample, round_, outcome)
        yield NodeFinished(run, is_reused)

    def _cut_short(self, node: Node, meter: Meter, status: NodeStatus, error: str) -> NodeOutput:
        """Return the output of a node that was stopped; its rollout has the calls that it made."""
        stop = "timeout" if status == "timeout" else "failed"
        steps = (Step(call.messages, got.message, got.usage, got.latency) for call, got in meter.calls)
        rollout = Rollout(self.example.id, node.name, self.sample, tuple(steps), stop, error=error)
        return NodeOutput(node.name, status, rollout=rollout, error=error, weight=node.weight)


# Set for each node in the task that runs it. Threads of tools get a copy of the variable, which holds the same meter.
current_meter: ContextVar[Meter] = ContextVar("current_meter")


def emit_reward(value: float) -> None:
    """Add to the process reward of the running node: for tools and other code that a node calls, in any thread."""
    current_meter.get().emitted.append(value)
