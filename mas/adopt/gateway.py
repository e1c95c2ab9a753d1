"""
A user's own program, run unchanged: its calls of the openai package reach a loopback server and go on from there.

    row ── program ── openai client ── /run/KEY/v1 ── node_of ── lessons of the node ── client of the run ── model
                          (journal, ledger and limits hold for every call)

Each run has an address of its own (http://127.0.0.1:PORT/run/KEY/v1), so that runs at the same time are never mixed.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from edgewise.experience.library.library import Library
from edgewise.mas.adopt.programs import Program
from edgewise.toolkit.model.names import get_server
from edgewise.toolkit.run.driver import Drive, plan_request
from edgewise.toolkit.serve.server import route_by_key, run_server
from edgewise.toolkit.types import BilledTo, Example, Message, Reply, Request, Rollout, Step, StopReason, Usage
from edgewise.toolkit.util.seeds import derive_seed

ROLE = "program"
"""The role of whole runs; those of its nodes have the nodes' names."""

LONGEST_NAME = 60
UNNAMED = "(no system prompt)"

Libraries = Mapping[str, Library]
NodeOf = Callable[[Request], str]


# ---- a call ----------------------------------------------------------------------------------------


def node_of(request: Request) -> str:
    """Return the name of the node that made a call: the first line of its system prompt."""
    system = next((m.content for m in request.messages if m.role == "system"), "")
    line = next((line.strip() for line in system.splitlines() if line.strip()), UNNAMED)
    return line[:LONGEST_NAME].rstrip()


def insert_node_lessons(request: Request, libraries: Libraries, node: str) -> Request:
    """Return a call with the lessons of its node at the end of its system prompt."""
    library = libraries.get(node)
    if not library:
        return request
    return replace(request, messages=replace(library, place="system").insert_lessons(request.messages))


def route_request(request: Request, model: str, max_tokens: int | None) -> Request:
    """
    Return a call of the model that the program names, at the server of `model`; an embedded model is taken as it is.

    `max_tokens` bounds the reply where the program does not.
    """
    server = get_server(model)
    if server.startswith(("http://", "https://")):
        model = f"{server}#{request.model}"
    elif server == "openai":
        model = f"openai/{request.model}"
    sampling = request.sampling
    if sampling.max_tokens is None:
        sampling = replace(sampling, max_tokens=max_tokens)
    return replace(request, model=model, sampling=sampling)


# ---- a run -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """One run of the program to be made: on which row, with which lessons, charged to which role."""

    example: Example
    libraries: Libraries
    version: str
    sample: int
    seed: int
    payer: str
    step: int


@dataclass(slots=True)
class _RunState:
    """A run under way: its calls by node and number, and how often each prompt was sent."""

    run: ProgramRun
    calls: dict[tuple[str, int], Rollout] = field(default_factory=dict)
    prompt_counts: Counter[tuple[str, tuple[Message, ...]]] = field(default_factory=Counter)
    node_counts: Counter[str] = field(default_factory=Counter)
    error: BaseException | None = None


class Gateway:
    """
    Server that runs a program and records its calls. All methods run in the event loop that opened it.

    `model` names the server that is called, `max_tokens` bounds a reply where the program does not, `seconds` bounds a
    run, `node_of` names the node of a call.
    """

    def __init__(
        self, program: Program, drive: Drive, model: str, max_tokens: int, seconds: float, node_of: NodeOf = node_of
    ):
        self._program, self._drive = program, drive
        self._model, self._max_tokens, self._seconds, self._node_of = model, max_tokens, seconds, node_of
        self._states: dict[str, _RunState] = {}
        self._url = ""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Gateway"]:
        """Listen while the block runs."""
        async with run_server(route_by_key(self._find, name=ROLE)) as self._url:
            try:
                yield self
            finally:
                await self._program.aclose()

    def _find(self, key: str) -> Callable[[Request], Awaitable[Reply]] | None:
        state = self._states.get(key)
        return None if state is None else lambda request: self._answer(state, request)

    async def run(self, run: ProgramRun) -> Rollout:
        """
        Run the program once and return its calls as rollouts by node; a program that fails is a rollout that failed.

        Raises what the run's own client raised, such as LimitReached.
        """
        async with self._program.lease() as key:
            state = self._states[key] = _RunState(run)
            answer, stop, error = "", "stop", ""
            try:
                async with asyncio.timeout(self._seconds):
                    answer = await self._program.ask(key, f"{self._url}/run/{key}/v1", run.example)
            except TimeoutError:
                stop, error = "timeout", f"the program took longer than {self._seconds:g} seconds"
            except Exception as problem:
                stop, error = "failed", f"{type(problem).__name__}: {problem}"
            finally:
                del self._states[key]
        # The program may have caught the error of a limit as one of its own: the run ends all the same.
        if state.error:
            raise state.error
        return _build_rollout(state, answer, stop, error)

    async def _answer(self, state: _RunState, request: Request) -> Reply:
        """Answer a call of the program; calls that two runs of a group have in common are sampled twice."""
        run, node = state.run, self._node_of(request)
        number, repeat = state.node_counts[node], state.prompt_counts[node, request.messages]
        state.node_counts[node] += 1
        state.prompt_counts[node, request.messages] += 1

        # The seed has the node and the repeat, not the order of arrival: nodes may run at the same time.
        seed = derive_seed(run.seed, node, repeat)
        routed = route_request(insert_node_lessons(request, run.libraries, node), self._model, self._max_tokens)
        final = replace(
            routed,
            sampling=replace(routed.sampling, seed=seed),
            sample=run.sample,
            payer=BilledTo(run.payer, run.step, run.example.id),
        )
        try:
            reply = await self._drive(plan_request(final))
        except Exception as error:
            state.error = state.error or error
            raise
        # What the program sent is recorded, without the lessons: those would teach themselves.
        steps = () if reply.failed else (Step(request.messages, reply.message, reply.usage, reply.latency),)
        state.calls[node, number] = Rollout(
            run.example.id, node, run.sample, steps, reply.stop, seed=seed, error=reply.error
        )
        return reply


def _build_rollout(state: _RunState, answer: str, stop: StopReason, error: str) -> Rollout:
    """Return the run as one rollout: its calls are one rollout for each node, in the order of their names."""
    run = state.run
    by_node: dict[str, list[Rollout]] = {}
    for (node, _), call in sorted(state.calls.items()):
        by_node.setdefault(node, []).append(call)
    calls = tuple(
        replace(calls[-1], steps=tuple(step for call in calls for step in call.steps)) for calls in by_node.values()
    )
    step = Step(run.example.messages, Message("assistant", answer), Usage(), subrollouts=calls)
    return Rollout(run.example.id, ROLE, run.sample, (step,), stop, seed=run.seed, version=run.version, error=error)
