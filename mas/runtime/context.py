"""
What the nodes of a compiled graph share while it runs: LangGraph's runtime context.

LangGraph runs level by level, so a branch would wait for slow ones beside it. The context does not: as soon as all
that a node hears has ended, it starts the node (`ahead`), and LangGraph's node later only awaits what is under way.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial

from edgewise.mas.graph.graph import Graph, Node
from edgewise.mas.runtime.node import Ended, NodeOutput, Team, act
from edgewise.mas.runtime.node_cache import Ran, Shared
from edgewise.mas.runtime.node_hash import keys
from edgewise.mas.runtime.node_limits import Broke, Meter, metered
from edgewise.mas.runtime.schedule import Said, flow
from edgewise.toolkit.budget.ledger import Ledger, Limits
from edgewise.toolkit.budget.prices import Price
from edgewise.toolkit.errors import ConfigError, EdgewiseError, RewardError
from edgewise.toolkit.run.driver import Drive
from edgewise.toolkit.tracking.events import CallsShared, NodeFinished
from edgewise.toolkit.types import BilledTo, Example, Plan, Rollout, Sampled, Usage
from edgewise.toolkit.util.seeds import seed as seed_of


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """
    Limits of one graph run; None for none.

    `node_seconds` is the most that a node may take from its start, `concurrency` how many run at once. `prices` are
    dollars where they are not the known ones.
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

    def ledger(self) -> Ledger | None:
        """A fresh ledger that keeps them; None where calls, tokens and dollars are free."""
        if self.calls is self.tokens is self.usd is None:
            return None
        return Ledger(Limits(usd=self.usd, tokens=self.tokens, calls=self.calls), self.prices)


UNLIMITED = GraphLimits()


@dataclass(frozen=True, slots=True)
class NodeRun:
    """A node that ended, as the Notes "node" and "reused" have it; `round` is 0 outside loops."""

    graph: str
    example: str
    sample: int
    round: int
    outcome: NodeOutput


def spent(outcome: NodeOutput) -> tuple[int, Usage]:
    """The calls and tokens of a node's run."""
    run = outcome.rollout
    return (len(run.steps), run.usage) if run else (0, Usage())


Process = Callable[["Context", NodeOutput], None]
"""A process reward: called when a node ends, it may call `context.emit_reward`."""


class Stopped(Exception):
    """Ends LangGraph's run; `Context.error` is why."""


@dataclass(eq=False)
class Context:
    """
    One run of a graph on an example; `drive` runs the plans of its nodes.

    `outcomes` has those of each node by round, `reused` the nodes that were taken from another run, `rewards` what
    was emitted for nodes, `error` what stopped the run. Without `ahead`, nodes start when LangGraph gets to them, and
    hear what its state says: for runs with a checkpointer or with interrupts. What comes out is the same.
    """

    graph: Graph
    team: Team
    example: Example
    drive: Drive
    sample: int = 0
    seed: int = 0
    limits: GraphLimits = UNLIMITED
    shared: Shared | None = None
    process: Process | None = None
    ahead: bool = True
    outcomes: dict[str, list[NodeOutput]] = field(default_factory=dict, init=False)
    reused: set[str] = field(default_factory=set, init=False)
    rewards: dict[str, float] = field(default_factory=dict, init=False)
    error: Exception | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._flow = flow(self.graph)
        self._keys = keys(self.graph, self.team)
        self._ledger = self.limits.ledger()
        most = self.limits.concurrency
        self._places = asyncio.Semaphore(most) if most else None
        self._ends: dict[tuple[str, int], asyncio.Future[NodeOutput]] = {}
        self._branches: list[asyncio.Task[None]] = []

    def emit_reward(self, node: str, value: float) -> None:
        """Add to the process reward of a node. Raises RewardError for one that the graph does not have."""
        if node not in self.graph.before:
            raise RewardError(
                f"emit_reward was given the node {node!r}; the graph has {', '.join(self.graph.order)}."
            )
        self.rewards[node] = self.rewards.get(node, 0.0) + value

    def count(self, spent: Iterable[tuple[str, int, Usage]]) -> None:
        """Count what nodes used before this run was taken up again: their names, calls and tokens."""
        if self._ledger is None:
            return
        for name, calls, usage in spent:
            model = self.graph[name].model or self.team.model
            self._ledger.add(Sampled(BilledTo(self.team.payer), model, calls, usage))

    def begin(self) -> None:
        """Start the entries, where nodes are started ahead of LangGraph."""
        if self.ahead:
            for name in self.graph.entries:
                self._start(name, 0, self.outcomes)

    async def run(self, name: str, round_: int, said: Callable[[], Said]) -> NodeOutput:
        """The outcome of a node in a round; `said` reads in LangGraph's state what others said."""
        if (name, round_) not in self._ends:
            self._check()
            self._start(name, round_, said())
        end = self._ends[name, round_]
        # LangGraph may cancel its nodes; what is under way is paid for, so it is `ended` that decides.
        return end.result() if end.done() else await asyncio.shield(end)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Around whatever invokes the compiled graph: leaves nothing behind that still runs.

        Where that is cancelled or abandoned, branches are cancelled; where it fails, calls under way are paid for and
        end first, and what is raised is what a branch met, not LangGraph's view of it.
        """
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            await self.ended(cancel=True)
            raise
        except Exception:
            await self.ended(cancel=False)
            if self.error:
                raise self.error from None
            raise

    async def ended(self, *, cancel: bool) -> None:
        """Wait for what is under way; `cancel` it first."""
        if cancel:
            self._stop(Stopped())
            for task in self._branches:
                task.cancel()
        while left := [task for task in self._branches if not task.done()]:
            await asyncio.gather(*left, return_exceptions=True)

    # ---- branches --------------------------------------------------------------------------------

    def _start(self, name: str, round_: int, said: Said) -> None:
        """Start a branch with a node."""
        self._ends[name, round_] = asyncio.get_running_loop().create_future()
        self._branches.append(asyncio.create_task(self._branch(name, round_, said)))

    async def _branch(self, name: str, round_: int, said: Said) -> None:
        """Run a node, then, in the same task, one that waited for it; others that did start branches of their own."""
        try:
            while True:
                heard = self._flow.heard(name, round_, said)
                outcome = await self._in_turn(self.graph[name], round_, heard)
                self._check()
                self.outcomes.setdefault(name, []).append(outcome)
                self._ends[name, round_].set_result(outcome)
                ready = list(self._flow.next(name, self.outcomes)) if self.ahead else []
                if not ready:
                    return
                said, (name, round_) = self.outcomes, ready[0]
                self._ends[name, round_] = asyncio.get_running_loop().create_future()
                for other in ready[1:]:
                    self._start(*other, said)
        except Exception as error:
            self._stop(error)

    def _check(self) -> None:
        if self.error:
            raise Stopped

    def _stop(self, error: Exception) -> None:
        """Let no other node start, and LangGraph's run end."""
        self.error = self.error or error
        for end in self._ends.values():
            if not end.done():
                end.set_exception(Stopped())
                end.exception()  # read, or asyncio warns of a node that LangGraph never got to

    # ---- one node --------------------------------------------------------------------------------

    async def _in_turn(self, node: Node, round_: int, heard: list[NodeOutput]) -> NodeOutput:
        """Run a node once there is a place."""
        if self._places is None:
            return await self._run(node, round_, heard)
        async with self._places:
            self._check()
            return await self._run(node, round_, heard)

    async def _run(self, node: Node, round_: int, heard: list[NodeOutput]) -> NodeOutput:
        if self.shared is None or node.name in self._flow.body or self.team.roles[node.role].votes:
            return (await self._fresh(node, round_, heard))[0]
        said = tuple((x.node, x.text) for x in heard if x.heard)
        key = (self.seed, self.example.id, self.sample, self._keys[node.name], said)
        fresh = partial(self._fresh, node, round_, heard)
        (outcome, meter), reused = await self.shared.once(key, fresh)
        return await self._taken(node, outcome, meter) if reused else outcome

    async def _fresh(self, node: Node, round_: int, heard: list[NodeOutput]) -> Ran:
        """Run a node, for as long as it may take."""
        meter, seconds = Meter(self._ledger), self.limits.node_seconds
        current.set(meter)
        played = self._played(node, round_, heard, meter)
        if seconds is None:
            return await self.drive(played), meter
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                return await self.drive(played), meter
        except TimeoutError:
            if not scope.expired():
                raise
            outcome = self._cut(node, meter, "timeout", f"it took longer than {seconds:g} seconds")
            await self.drive(self._told(round_, outcome, meter))
            return outcome, meter

    async def _taken(self, node: Node, outcome: NodeOutput, paid: Meter) -> NodeOutput:
        """What another run made of its equal. It counts against this run's limits as if it had been run here."""
        meter = Meter(self._ledger, emitted=paid.emitted)
        await meter.charge(paid.calls)
        if meter.stopped:
            outcome = self._cut(node, meter, "limit", meter.stopped)
        else:
            run = outcome.rollout and replace(outcome.rollout, role=node.name)
            outcome = replace(outcome, node=node.name, rollout=run, weight=node.weight)
            self.reused.add(node.name)
        await self.drive(self._told(0, outcome, meter))
        return outcome

    def _played(self, node: Node, round_: int, heard: list[NodeOutput], meter: Meter) -> Plan[NodeOutput]:
        path = (self.seed, self.example.id, self.sample, self._keys[node.name])
        seed = seed_of(*path, round_) if round_ else seed_of(*path)
        acted = act(self.team, node, self.example, heard, sample=self.sample, seed=seed)
        outcome = yield from metered(acted, meter)
        if isinstance(outcome, Broke):
            outcome = self._cut(node, meter, "failed", f"{type(outcome.error).__name__}: {outcome.error}")
        if meter.stopped and outcome.ended == "failed":
            outcome = replace(outcome, ended="limit", error=meter.stopped)
        yield from self._told(round_, outcome, meter)
        return outcome

    def _told(self, round_: int, outcome: NodeOutput, meter: Meter) -> Plan[None]:
        """Reward a node that ended, and tell of it."""
        for value in meter.emitted:
            self.emit_reward(outcome.node, value)
        if self.process:
            _rewarded(self.process, self, outcome)
        ran = NodeRun(self.graph.version, self.example.id, self.sample, round_, outcome)
        if outcome.node in self.reused:
            yield CallsShared(*spent(ran.outcome))
        yield NodeFinished(ran, outcome.node in self.reused)

    def _cut(self, node: Node, meter: Meter, ended: Ended, error: str) -> NodeOutput:
        """The outcome of a node that did not come to its end; its rollout has the calls that it made."""
        stop = "timeout" if ended == "timeout" else "failed"
        run = Rollout(self.example.id, node.name, self.sample, meter.steps, stop, error=error)
        return NodeOutput(node.name, ended, rollout=run, error=error, weight=node.weight)


def _rewarded(process: Process, context: Context, outcome: NodeOutput) -> None:
    try:
        process(context, outcome)
    except EdgewiseError:
        raise
    except Exception as error:
        raise RewardError(
            f"The process reward failed on node {outcome.node!r}: {type(error).__name__}: {error}"
        ) from error


current: ContextVar[Meter] = ContextVar("current")


def emit_reward(value: float) -> None:
    """Add to the process reward of the node that is running: for tools and other code that a node calls."""
    current.get().emitted.append(value)
