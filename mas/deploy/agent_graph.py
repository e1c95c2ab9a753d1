"""
A designed graph in use: from your own code or behind `edgewise serve`, with or without a checkpointer.

    async with AgentGraph.load("runs/first") as graph:
        print((await graph.answer("What is six by seven?")).text)

With a checkpointer each run has a thread: it can wait for a person before chosen nodes, and resume in another process.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from edgewise.mas.config import GraphConfig
from edgewise.mas.deploy.graph_thread import GraphThread, edit_outcomes, find_nodes, read_sampling, thread_config
from edgewise.mas.designs.fixed import FixedDesign, parse_tools
from edgewise.mas.designs.interface import Design, Query
from edgewise.mas.designs.query_encoder import encode
from edgewise.mas.graph.graph import Graph
from edgewise.mas.graph.roles import CATALOGUE, parse_roles
from edgewise.mas.runtime import checkpoint
from edgewise.mas.runtime.checkpoint import Retention
from edgewise.mas.runtime.context import GraphLimits, RunContext
from edgewise.mas.runtime.langgraph_compiler import compile_graph, compile_plain, read_outcomes, read_usage
from edgewise.mas.runtime.node import NodeOutput, Team
from edgewise.mas.runtime.schedule import latest_output
from edgewise.mas.search.load_design import read_design
from edgewise.toolkit.errors import ArtifactError, ConfigError, GraphError
from edgewise.toolkit.model.middleware import stack_middleware
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
"""Runs between two deletions of threads that `retention` does not keep."""


@dataclass(frozen=True, slots=True)
class GraphAnswer:
    """
    Result of a run: the exit's answer, or the nodes that the run waits before (then `text` is usually "").

    `outcomes` holds the outputs of each node by round, `usage` the tokens that this call paid for.
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
        outcomes = self.outcomes.get(self.graph.exit)
        if self.waiting or not outcomes or latest_output(outcomes).has_text:
            return ""
        return f"node {self.graph.exit!r} {outcomes[-1].status}: {outcomes[-1].error}"


@dataclass
class AgentGraph(contextlib.AbstractAsyncContextManager["AgentGraph"], contextlib.AbstractContextManager["AgentGraph"]):
    """
    A design of agent graphs, its team, and how the graphs are run.

    `interrupt_before` names nodes, or roles, before which a run waits; that needs a `checkpointer` (see
    `mas.runtime.checkpoint`). `retention` is applied every 100 runs. Use it as a context manager, sync or async, and
    in one event loop: the client and the checkpointer belong to it.
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
            raise ConfigError("To wait before a node needs a checkpointer: memory, sqlite:PATH or postgresql://...")
        # Other designs choose a graph for each question, so their nodes are not known yet.
        if isinstance(self.design, FixedDesign):
            self.team.check(self.design.graph)
            for name in self.interrupt_before:
                if not find_nodes(self.design.graph, (name,)):
                    raise GraphError(f"There is no node or role {name!r} to wait before.")

        self._stack = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()
        self._opened = False
        self._saver: Any = None
        self._runs = 0
        self._runner: asyncio.Runner | None = None

    @classmethod
    def load(cls, path: str | Path, *, model: str = "", tools: Sequence[Any] = (), **options: Any) -> Self:
        """
        Load the graph of an artefact or of a finished run, with the model and the settings of its measurement.

        `tools` are those of the task, as in a task file. `options` are the fields from `client` on; `limits` are those
        of the measurement by default. Raises ArtifactError, GraphError, or ConfigError where a tool of the task is
        missing.
        """
        return cls.from_artifact(Artifact.load(path), model=model, tools=tools, **options)

    @classmethod
    def from_artifact(cls, artifact: Artifact, *, model: str = "", tools: Sequence[Any] = (), **options: Any) -> Self:
        """Return the graph of an artefact that is already loaded; see `load`."""
        if "graph.json" not in artifact.files:
            raise ArtifactError("This artefact holds no graph: it was not made by --by graph.")
        data, settings = artifact.files["graph.json"], GraphConfig.from_artifact(artifact.settings)

        # The Python tool is always there; the task's own come with the call, as an artefact holds no code.
        own_tools = {function.tool.name: function for function in load_tools(tools, Path.cwd())}
        all_tools = {"python": python_tool(), **own_tools}
        task_tools = tuple(dict.fromkeys((*parse_tools(data), *own_tools)))
        if missing := [name for name in task_tools if name not in all_tools]:
            raise ConfigError(
                f"This graph was measured with tools of its task that are missing here: {', '.join(missing)}. Give "
                "them in Python, by AgentGraph.load(..., tools=[...]) of mas.deploy.agent_graph; `edgewise serve` has "
                "none."
            )
        # Turns, call format and limits are those of the measurement, so that the graph does what was measured.
        team = Team(
            {**CATALOGUE, **parse_roles(artifact.files.get("roles.json", {}))},
            model or artifact.model,
            artifact.sampling,
            all_tools,
            settings.turns,
            settings.calling,
            payer="use",
            task_tools=task_tools,
        )
        return cls(read_design(data), team, **{"limits": settings.graph_limits, **options})

    # ---- questions -------------------------------------------------------------------------------

    async def answer(
        self, question: str | Sequence[Message], thread: str = "", sampling: Sampling | None = None
    ) -> GraphAnswer:
        """
        Answer a question, or the last of some messages. Raises the errors of the model's client.

        `thread` names the run, which a checkpointer needs; a thread that has ended begins anew. Raises ConfigError for
        one that waits.
        """
        run = await self._begin(question, thread, sampling)
        return await self._invoke(run, run.start)

    def answer_sync(self, question: str | Sequence[Message], thread: str = "") -> GraphAnswer:
        """Answer a question where there is no event loop."""
        return self._wait(self.answer(question, thread))

    async def astream(self, question: str | Sequence[Message], thread: str = "") -> AsyncIterator[NodeOutput]:
        """Yield the outputs of nodes as they end; after the last one the run is over, or waits."""
        run = await self._begin(question, thread, None)
        async with run.context.supervise():
            stream = run.app.astream(run.start, run.config, context=run.context, stream_mode="updates")
            async for update in stream:
                # An interrupt is an update too, but no dictionary.
                for change in (x for x in update.values() if isinstance(x, dict)):
                    for outcomes in read_outcomes(change).values():  # type: ignore[arg-type]
                        for outcome in outcomes:
                            yield outcome
        await self._finish(run)

    async def resume(self, thread: str, edit: Mapping[str, str] | None = None) -> GraphAnswer:
        """
        Go on with a run that waits, or that a crash broke off.

        `edit` replaces the texts of nodes that have run. Sampling is that of the first call, and the limits of the run
        count what was used before. Raises ConfigError for a thread that does not wait, GraphError for an edit of a
        node that has not run, or if the design has changed since.
        """
        saver = await self._open()
        if saver is None:
            raise ConfigError("Nothing waits without a checkpointer.")
        stored = await saver.aget_tuple(thread_config(thread))
        if stored is None:
            raise ConfigError(f"There is no thread {thread!r}.")

        # The design is asked again for its graph; the thread can only go on if it is the same one.
        values = stored.checkpoint["channel_values"]
        messages = tuple(Message(x["role"], x["content"]) for x in values.get("messages", ()))
        run = await self._prepare(messages, thread, read_sampling(stored.metadata))
        if stored.metadata.get("graph") != run.graph.version:
            raise GraphError(f"The thread {thread!r} was begun with another graph.")
        state = await run.app.aget_state(run.config)
        if not state.next:
            raise ConfigError(f"The thread {thread!r} does not wait for anything.")

        run.context.add_usage(read_usage(state.values))
        # LangGraph resumes a thread when it is invoked with None.
        return await self._invoke(run, edit_outcomes(state.values, edit) if edit else None)

    def resume_sync(self, thread: str, edit: Mapping[str, str] | None = None) -> GraphAnswer:
        """Go on with a run where there is no event loop."""
        return self._wait(self.resume(thread, edit))

    async def prune(self, retention: Retention | None = None) -> list[str]:
        """Delete the threads that `retention`, or the graph's own, does not keep; return their names."""
        saver, retention = await self._open(), retention or self.retention
        return await checkpoint.prune(saver, retention) if saver is not None and retention else []

    # ---- a run -----------------------------------------------------------------------------------

    async def _begin(self, question: str | Sequence[Message], thread: str, sampling: Sampling | None) -> GraphThread:
        """Prepare a new run; its thread must not wait."""
        messages = (Message("user", question),) if isinstance(question, str) else tuple(question)
        if not messages:
            raise ConfigError("There is nothing to answer: give a question, or messages.")
        saver = await self._open()
        if saver is not None and not thread:
            raise ConfigError("A graph with a checkpointer needs the name of a thread.")
        # Prepared before the thread is looked at, as LangGraph reads states through the compiled graph.
        run = await self._prepare(messages, thread, sampling)
        if saver is not None:
            if (await run.app.aget_state(run.config)).next:
                raise ConfigError(f"The thread {thread!r} waits: resume it, or ask in another one.")
            # Outputs left from the last run would count as outputs of this one.
            await saver.adelete_thread(thread)
        return run

    async def _prepare(self, messages: tuple[Message, ...], thread: str, sampling: Sampling | None) -> GraphThread:
        """Choose the graph for the messages, compile it and make a context."""
        assert self.client is not None
        drive = Driver(self.client).run
        if isinstance(self.design, FixedDesign):
            graph = self.design.graph
        else:
            # A policy looks at the last message only.
            text = messages[-1].content
            vectors = await drive(encode(getattr(self.design, "encoder", ""), [text]))
            graph = self.design.graphs([Query("asked", text, vectors[0])])[0]

        # A seed is for the whole run: each node derives one of its own from it, the question and its content.
        root = sampling.seed if sampling and sampling.seed is not None else 0
        seed = derive_seed(root, "use", *(message.content for message in messages))
        own_sampling = sampling and replace(sampling, seed=None)
        # Hashes of nodes are cached by team, so a new team is made only where the sampling differs.
        is_usual = own_sampling in (None, self.team.sampling)
        team = self.team if is_usual else replace(self.team, sampling=own_sampling)
        context = RunContext(
            graph,
            team,
            Example(thread or "asked", messages),
            drive,
            seed=seed,
            limits=self.limits,
            eager=self._saver is None,
        )
        if self._saver is None:
            app = compile_plain(graph)
        else:
            places = find_nodes(graph, self.interrupt_before)
            app = compile_graph(graph, checkpointer=self._saver, interrupt_before=places)
        return GraphThread(graph, app, context, messages, thread, sampling)

    async def _invoke(self, run: GraphThread, start: Any) -> GraphAnswer:
        async with run.context.supervise():
            await run.app.ainvoke(start, run.config, context=run.context)
        return await self._finish(run)

    async def _finish(self, run: GraphThread) -> GraphAnswer:
        """Wait for the run's branches and return its answer."""
        async with run.context.supervise():
            await run.context.wait_for_branches(cancel=False)
            if run.context.error:
                raise run.context.error
        # Only what ran in this call: outputs from a checkpoint have no rollouts.
        rollouts = (x.rollout for rounds in run.context.outcomes.values() for x in rounds)
        usage = sum((rollout.usage for rollout in rollouts if rollout), Usage())

        outcomes: Mapping[str, Sequence[NodeOutput]] = run.context.outcomes
        waiting: tuple[str, ...] = ()
        if self._saver is not None:
            # The context holds what ran in this process, the checkpoint all nodes of the thread.
            state = await run.app.aget_state(run.config)
            outcomes, waiting = read_outcomes(state.values), tuple(state.next)
            self._runs += 1
            if self.retention and self._runs % PRUNE_EVERY == 0:
                await self.prune()
        exit_ = outcomes.get(run.graph.exit)
        text = latest_output(exit_).answer if exit_ and not waiting else ""
        return GraphAnswer(text, run.graph, outcomes, waiting, usage, run.thread)

    # ---- resources -------------------------------------------------------------------------------

    async def _open(self) -> Any:
        """Open client and checkpointer once; return the checkpointer, None where there is none."""
        # Several questions may come at once, and the second must not run before the first has opened everything.
        async with self._opening:
            if not self._opened:
                if self.client is None:
                    self.client = stack_middleware(Router())
                    self._stack.push_async_callback(self.client.aclose)
                if self.checkpointer:
                    saver = checkpoint.open_checkpointer(self.checkpointer)
                    self._saver = await self._stack.enter_async_context(saver)
                self._opened = True
        return self._saver

    async def aclose(self) -> None:
        """Close the checkpointer, and the client if it was opened here."""
        await self._stack.aclose()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _wait(self, work: Any) -> Any:
        # One runner for all calls: connections of the client belong to its event loop.
        self._runner = self._runner or asyncio.Runner()
        return self._runner.run(work)

    def __exit__(self, *_: object) -> None:
        self._wait(self.aclose())
        if self._runner:
            self._runner.close()


def answerer(artifact: Artifact, model: str, client: ModelClient) -> Answer:
    """Return a function that answers requests with an artefact's graph, for `edgewise serve`."""
    graph = AgentGraph.from_artifact(artifact, model=model, client=client)

    async def answer(request: Request) -> Reply:
        # Refused rather than ignored: a client would wait for calls or JSON that never come.
        if request.tools:
            return build_refusal("an agent graph can't be asked for calls of tools, as it has its own: leave out tools")
        if request.schema:
            return build_refusal(
                "an agent graph can't be asked for JSON of some form, as each of its agents has a form of its own"
            )
        # What the request leaves open is taken from the artefact.
        result = await graph.answer(request.messages, sampling=merge_sampling(request, artifact.sampling))
        if result.error:
            return Reply(Message("assistant", ""), "failed", result.usage, error=result.error)
        return Reply(Message("assistant", result.text), usage=result.usage)

    return answer
