"""
A designed graph in use: asked from your own code or behind `edgewise serve`, with or without a checkpointer.

    async with AgentGraph.load("runs/first") as graph:
        print((await graph.answer("What is six by seven?")).text)

With a checkpointer each run has a thread: it can wait for a person before chosen nodes, and go on in another process.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from edgewise.mas.config import GraphConfig
from edgewise.mas.designs.fixed import FixedDesign, parse_tools
from edgewise.mas.designs.interface import Design, Query
from edgewise.mas.designs.query_encoder import encoded
from edgewise.mas.graph.graph import Graph
from edgewise.mas.graph.roles import CATALOGUE, Roles, parse_roles
from edgewise.mas.runtime import checkpoint
from edgewise.mas.runtime.checkpoint import Retention
from edgewise.mas.runtime.context import Context, GraphLimits
from edgewise.mas.runtime.node import NodeOutput, Team
from edgewise.mas.runtime.schedule import standing
from edgewise.mas.search.load_design import read_design
from edgewise.toolkit.errors import ArtifactError, ConfigError, GraphError
from edgewise.toolkit.model import middleware
from edgewise.toolkit.model.openai_format import build_refusal
from edgewise.toolkit.model.router import Router
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.driver import Driver, ModelClient
from edgewise.toolkit.serve.server import Answer, merge_sampling
from edgewise.toolkit.tools.python_tool import python_tool
from edgewise.toolkit.tools.registry import load_tools
from edgewise.toolkit.types import Example, Message, Reply, Request, Sampling, Usage
from edgewise.toolkit.util.seeds import derive_seed

PRUNE_EVERY = 100
"""Runs between two looks for threads that need not be kept."""


@dataclass(frozen=True, slots=True)
class Answered:
    """
    What came of a run: the exit's answer, or the nodes that it waits before (then `text` is "" as a rule).

    `outcomes` are those of each node by round. `usage` are the tokens that this call paid for.
    """

    text: str
    graph: Graph
    outcomes: Mapping[str, Sequence[NodeOutput]]
    waiting: tuple[str, ...] = ()
    usage: Usage = Usage()
    thread: str = ""

    @property
    def error(self) -> str:
        """Why there is no answer, "" if there is one or the run waits."""
        said = self.outcomes.get(self.graph.exit)
        if self.waiting or not said or standing(said).heard:
            return ""
        return f"node {self.graph.exit!r} {said[-1].ended}: {said[-1].error}"


@dataclass
class AgentGraph:
    """
    A design of agent graphs, the roles it uses, and how they are run.

    `interrupt_before` names nodes, or roles, before which a run waits; that needs a `checkpointer` (see
    `mas.runtime.checkpoint`). `retention` is kept by itself, now and then. Use it as a context manager, sync or async, and in
    one event loop.
    """

    design: Design
    team: Team
    client: ModelClient | None = None
    checkpointer: str = ""
    interrupt_before: tuple[str, ...] = ()
    retention: Retention | None = None
    limits: GraphLimits = field(default_factory=GraphLimits)

    def __post_init__(self) -> None:
        if self.interrupt_before and not self.checkpointer:
            raise ConfigError(
                "To wait before a node needs a checkpointer: memory, sqlite:PATH or postgresql://..."
            )
        if isinstance(self.design, FixedDesign):
            self.team.check(self.design.graph)
            graph = self.design.graph
            for name in self.interrupt_before:
                if not _places(graph, (name,)):
                    raise GraphError(f"There is no node or role {name!r} to wait before.")
        self._stack = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()
        self._opened = False
        self._saver: Any = None
        self._runs = 0
        self._runner: asyncio.Runner | None = None

    @classmethod
    def load(cls, path: str | Path, *, model: str = "", tools: Sequence[Any] = (), **how: Any) -> Self:
        """
        The graph of an artefact or of a finished run, with the model and the settings that it was measured with.

        `tools` are those that the task gave, as in a task file. `how` are the fields from `client` on; `limits` are
        those of the measurement where nothing else is said. Raises ArtifactError, GraphError, or ConfigError where a
        tool of the task is missing.
        """
        return cls.of(Artifact.load(path), model=model, tools=tools, **how)

    @classmethod
    def of(cls, artifact: Artifact, *, model: str = "", tools: Sequence[Any] = (), **how: Any) -> Self:
        """The same from an artefact that is loaded."""
        if "graph.json" not in artifact.files:
            raise ArtifactError("This artefact holds no graph: it was not made by --by graph.")
        data, settings = artifact.files["graph.json"], GraphConfig.from_artifact(artifact.settings)
        given = {each.tool.name: each for each in load_tools(tools, Path.cwd())}
        there = {"python": python_tool(), **given}
        own = tuple(dict.fromkeys((*parse_tools(data), *given)))
        if missing := [name for name in own if name not in there]:
            raise ConfigError(
                f"This graph was measured with tools of its task that are missing here: {', '.join(missing)}. Give "
                "them in Python, by AgentGraph.load(..., tools=[...]) of mas.deploy.agent_graph; `edgewise serve` has none."
            )
        team = Team(
            _roles(artifact),
            model or artifact.model,
            artifact.sampling,
            there,
            settings.turns,
            settings.calling,
            payer="use",
            own=own,
        )
        return cls(read_design(data), team, **{"limits": settings.graph_limits, **how})

    # ---- asking ----------------------------------------------------------------------------------

    async def answer(
        self, asked: str | Sequence[Message], thread: str = "", sampling: Sampling | None = None
    ) -> Answered:
        """
        Answer a question, or the last of some messages. Raises what the model's client raises.

        `thread` names the run, which a checkpointer needs; one that has ended begins anew. Raises ConfigError for one
        that waits.
        """
        run = await self._begun(asked, thread, sampling)
        return await self._went(run, run.start)

    def answer_sync(self, asked: str | Sequence[Message], thread: str = "") -> Answered:
        """The same where there is no event loop."""
        return self._wait(self.answer(asked, thread))

    async def astream(self, asked: str | Sequence[Message], thread: str = "") -> AsyncIterator[NodeOutput]:
        """The outcomes of nodes as they end; after the last one the run is over, or waits."""
        run = await self._begun(asked, thread, None)
        async with run.context.running():
            async for update in run.app.astream(
                run.start, run.config, context=run.context, stream_mode="updates"
            ):
                for outcome in _outcomes(update):
                    yield outcome
        await self._ended(run)

    async def resume(self, thread: str, edit: Mapping[str, str] | None = None) -> Answered:
        """
        Go on with a run that waits, or that a crash broke off.

        `edit` puts other words into the mouth of nodes that have spoken. Raises ConfigError for a thread that does not
        wait, GraphError for an edit of a node that has said nothing, or if the design has changed since. It draws as it
        was asked to, and the limits of the run count what was used before.
        """
        from edgewise.mas.runtime.langgraph_compiler import spent_in

        saver = await self._open()
        if saver is None:
            raise ConfigError("Nothing waits without a checkpointer.")
        kept = await saver.aget_tuple(_config(thread))
        if kept is None:
            raise ConfigError(f"There is no thread {thread!r}.")
        values = kept.checkpoint["channel_values"]
        messages = tuple(Message(m["role"], m["content"]) for m in values.get("messages", ()))
        run = await self._run(messages, thread, _sampling(kept.metadata.get("sampling", "")))
        if kept.metadata.get("graph") != run.graph.version:
            raise GraphError(f"The thread {thread!r} was begun with another graph.")
        state = await run.app.aget_state(run.config)
        if not state.next:
            raise ConfigError(f"The thread {thread!r} does not wait for anything.")
        run.context.count(spent_in(state.values))
        start = self._edited(state.values, edit) if edit else None
        return await self._went(run, start)

    def resume_sync(self, thread: str, edit: Mapping[str, str] | None = None) -> Answered:
        """The same where there is no event loop."""
        return self._wait(self.resume(thread, edit))

    async def prune(self, retention: Retention | None = None) -> list[str]:
        """Delete the threads that need not be kept, by `retention` or the graph's own; their names."""
        saver, wanted = await self._open(), retention or self.retention
        return await checkpoint.prune(saver, wanted) if saver is not None and wanted else []

    # ---- a run -----------------------------------------------------------------------------------

    async def _begun(self, asked: str | Sequence[Message], thread: str, sampling: Sampling | None) -> "_Run":
        messages = (Message("user", asked),) if isinstance(asked, str) else tuple(asked)
        if not messages:
            raise ConfigError("There is nothing to answer: give a question, or messages.")
        saver = await self._open()
        if saver is not None and not thread:
            raise ConfigError("A graph with a checkpointer needs the name of a thread.")
        run = await self._run(messages, thread, sampling)
        if saver is not None:
            if (await run.app.aget_state(run.config)).next:
                raise ConfigError(f"The thread {thread!r} waits: resume it, or ask in another one.")
            # What was left of the last run would count as said in this one.
            await saver.adelete_thread(thread)
        return run

    async def _run(self, messages: tuple[Message, ...], thread: str, sampling: Sampling | None) -> "_Run":
        from edgewise.mas.runtime.langgraph_compiler import compiled, plain

        graph = await self._graph(messages)
        # A seed is for the whole run: of it and the question each node has one of its own.
        wanted = sampling and replace(sampling, seed=None)
        # Keys of nodes are kept by team, so a new one is made only where something is different.
        team = self.team if wanted in (None, self.team.sampling) else replace(self.team, sampling=wanted)
        example = Example(thread or "asked", messages)
        root = sampling.seed if sampling and sampling.seed is not None else 0
        seed = derive_seed(root, "use", *(message.content for message in messages))
        context = Context(
            graph,
            team,
            example,
            Driver(self._asks).run,
            seed=seed,
            limits=self.limits,
            ahead=self._saver is None,
        )
        if self._saver is None:
            return _Run(graph, plain(graph), context, messages, thread, sampling)
        places = _places(graph, self.interrupt_before)
        app = compiled(graph, checkpointer=self._saver, interrupt_before=places)
        return _Run(graph, app, context, messages, thread, sampling)

    async def _graph(self, messages: tuple[Message, ...]) -> Graph:
        """The graph for a question; a policy looks at the last message."""
        if isinstance(self.design, FixedDesign):
            return self.design.graph
        text = messages[-1].content
        encoder = getattr(self.design, "encoder", "")
        vectors = await Driver(self._asks).run(encoded(encoder, [text]))
        return self.design.graphs([Query("asked", text, vectors[0])])[0]

    async def _went(self, run: "_Run", start: Any) -> Answered:
        async with run.context.running():
            await run.app.ainvoke(start, run.config, context=run.context)
        return await self._ended(run)

    async def _ended(self, run: "_Run") -> Answered:
        from edgewise.mas.runtime.langgraph_compiler import said_in

        async with run.context.running():
            await run.context.ended(cancel=False)
            if run.context.error:
                raise run.context.error
        paid = (x.rollout.usage for all_ in run.context.outcomes.values() for x in all_ if x.rollout)
        usage = sum(paid, Usage())
        if self._saver is None:
            outcomes: Mapping[str, Sequence[NodeOutput]] = run.context.outcomes
            waiting: tuple[str, ...] = ()
        else:
            state = await run.app.aget_state(run.config)
            outcomes, waiting = said_in(state.values), tuple(state.next)
            self._runs += 1
            if self.retention and self._runs % PRUNE_EVERY == 0:
                await self.prune()
        said = outcomes.get(run.graph.exit)
        text = standing(said).answer if said and not waiting else ""
        return Answered(text, run.graph, outcomes, waiting, usage, run.thread)

    def _edited(self, values: Any, edit: Mapping[str, str]) -> Any:
        from edgewise.mas.runtime.langgraph_compiler import resumed_with, said_in

        said = said_in(values)
        for name in edit:
            if name not in said:
                raise GraphError(f"Node {name!r} has said nothing yet that could be edited.")
        changed = {
            name: replace(said[name][-1], text=text, result="", ended="ok", error="")
            for name, text in edit.items()
        }
        return resumed_with({name: (outcome, len(said[name]) - 1) for name, outcome in changed.items()})

    # ---- what is open ----------------------------------------------------------------------------

    async def _open(self) -> Any:
        """The checkpointer, opened once; None where there is none."""
        async with self._opening:
            if not self._opened:
                if self.client is None:
                    self.client = middleware.stack_middleware(Router())
                    self._stack.push_async_callback(self.client.aclose)
                if self.checkpointer:
                    self._saver = await self._stack.enter_async_context(checkpoint.opened(self.checkpointer))
                self._opened = True
        return self._saver

    @property
    def _asks(self) -> ModelClient:
        assert self.client is not None
        return self.client

    async def aclose(self) -> None:
        """Close what was opened."""
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _wait(self, work: Any) -> Any:
        self._runner = self._runner or asyncio.Runner()
        return self._runner.run(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self.aclose())
        if self._runner:
            self._runner.close()


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that is about to start."""

    graph: Graph
    app: Any
    context: Context
    messages: tuple[Message, ...]
    thread: str
    sampling: Sampling | None

    @property
    def start(self) -> dict[str, Any]:
        """The state that it starts with."""
        messages = [{"role": m.role, "content": m.content} for m in self.messages]
        return {"query": self.messages[-1].content, "messages": messages}

    @property
    def config(self) -> dict[str, Any]:
        """What LangGraph is told of it."""
        drawn = json.dumps(asdict(self.sampling)) if self.sampling else ""
        return {**_config(self.thread), "metadata": {"graph": self.graph.version, "sampling": drawn}}


def _sampling(kept: str) -> Sampling | None:
    """How the run was asked to draw, as its checkpoint has it."""
    if not kept:
        return None
    data = json.loads(kept)
    return Sampling(**{**data, "stop": tuple(data["stop"])})


def _config(thread: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread}}


def _places(graph: Graph, wanted: Sequence[str]) -> list[str]:
    """The nodes of a graph that have one of these names or roles."""
    return [node.name for node in graph.nodes if {node.name, node.role} & set(wanted)]


def _outcomes(update: Mapping[str, Any]) -> list[NodeOutput]:
    from edgewise.mas.runtime.langgraph_compiler import said_in

    changes: list[Any] = [change for change in update.values() if isinstance(change, dict)]
    return [outcome for change in changes for said in said_in(change).values() for outcome in said]


def _roles(artifact: Artifact) -> Roles:
    """The roles of the catalogue and those that an artefact keeps."""
    return {**CATALOGUE, **parse_roles(artifact.files.get("roles.json", {}))}


def _unsupported(request: Request) -> str:
    """What a request asks for that no graph can do; "" for nothing."""
    if request.tools:
        return "calls of tools, as it has its own: leave out tools"
    return "JSON of some form, as each of its agents has a form of its own" if request.schema else ""


def answerer(artifact: Artifact, model: str, client: ModelClient) -> Answer:
    """What answers with an artefact's graph, through `client`: for `edgewise serve`."""
    graph = AgentGraph.of(artifact, model=model, client=client)

    async def answer(request: Request) -> Reply:
        if asked := _unsupported(request):
            return build_refusal(f"an agent graph can't be asked for {asked}")
        done = await graph.answer(request.messages, sampling=merge_sampling(request, artifact.sampling))
        if done.error:
            return Reply(Message("assistant", ""), "failed", done.usage, error=done.error)
        return Reply(Message("assistant", done.text), usage=done.usage)

    return answer
