"""
A user's own program, run unchanged: its calls to the openai package come to a loopback server and go on from there.

Each run has an address of its own (http://127.0.0.1:PORT/run/KEY/v1), so that runs at the same time are never mixed.
A call is told apart by the node that made it (`node_of`), gets that node's lessons, and is asked through the run's own
client: journal, ledger and limits hold for it.
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


def node_of(request: Request) -> str:
    """The name of the node that made a call: the first line of its system prompt."""
    system = next((m.content for m in request.messages if m.role == "system"), "")
    line = next((line.strip() for line in system.splitlines() if line.strip()), UNNAMED)
    return line[:LONGEST_NAME].rstrip()


def dressed(request: Request, libraries: Libraries, node: str) -> Request:
    """A call with the lessons of its node at the end of its system prompt."""
    library = libraries.get(node)
    if not library:
        return request
    return replace(request, messages=replace(library, place="system").insert_lessons(request.messages))


def named(request: Request, model: str, most: int | None) -> Request:
    """A call of the model that the program names, at the server of `model`; one of this machine is taken as it is."""
    server = get_server(model)
    if server.startswith(("http://", "https://")):
        model = f"{server}#{request.model}"
    elif server == "openai":
        model = f"openai/{request.model}"
    sampling = request.sampling
    if sampling.max_tokens is None:
        sampling = replace(sampling, max_tokens=most)
    return replace(request, model=model, sampling=sampling)


# ---- how a program is run --------------------------------------------------------------------------


# ---- recording -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trial:
    """One run to be made: on which row, with which lessons, and who pays."""

    example: Example
    libraries: Libraries
    version: str
    sample: int
    seed: int
    payer: str
    step: int


@dataclass(slots=True)
class _Live:
    """A run under way: its calls by node and number, and how often each prompt was asked."""

    trial: Trial
    calls: dict[tuple[str, int], Rollout] = field(default_factory=dict)
    asked: Counter[tuple[str, tuple[Message, ...]]] = field(default_factory=Counter)
    nodes: Counter[str] = field(default_factory=Counter)
    error: BaseException | None = None


class Gateway:
    """Runs a program and records it; `model` says which server is asked, `most` bounds a reply by default."""

    def __init__(
        self, program: Program, drive: Drive, model: str, most: int, seconds: float, node_of: NodeOf = node_of
    ):
        self._program, self._drive = program, drive
        self._model, self._most, self._seconds, self._node_of = model, most, seconds, node_of
        self._live: dict[str, _Live] = {}
        self._url = ""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Gateway"]:
        """Listen while the block runs."""
        async with run_server(route_by_key(self._find, name=ROLE)) as self._url:
            try:
                yield self
            finally:
                await self._program.aclose()

    async def run(self, trial: Trial) -> Rollout:
        """
        One run of the program, its calls as rollouts by node; a program that fails is a rollout that failed.

        Raises what the run's own client raised, such as LimitReached.
        """
        async with self._program.lease() as key:
            live = self._live[key] = _Live(trial)
            said, stop, error = "", "stop", ""
            try:
                async with asyncio.timeout(self._seconds):
                    said = await self._program.ask(key, f"{self._url}/run/{key}/v1", trial.example)
            except TimeoutError:
                stop, error = "timeout", f"the program took longer than {self._seconds:g} seconds"
            except Exception as problem:
                stop, error = "failed", f"{type(problem).__name__}: {problem}"
            finally:
                del self._live[key]
        if live.error:
            raise live.error
        return _recorded(live, said, stop, error)

    def _find(self, key: str) -> Callable[[Request], Awaitable[Reply]] | None:
        live = self._live.get(key)
        return None if live is None else lambda request: self._answer(live, request)

    async def _answer(self, live: _Live, request: Request) -> Reply:
        """A call of the program; what two runs of a group ask alike is drawn twice."""
        trial, node = live.trial, self._node_of(request)
        number, again = live.nodes[node], live.asked[node, request.messages]
        live.nodes[node] += 1
        live.asked[node, request.messages] += 1
        asked = named(dressed(request, trial.libraries, node), self._model, self._most)
        seed = derive_seed(trial.seed, node, again)
        payer = BilledTo(trial.payer, trial.step, trial.example.id)
        sampling = replace(asked.sampling, seed=seed)
        try:
            reply = await self._drive(
                plan_request(replace(asked, sampling=sampling, sample=trial.sample, payer=payer))
            )
        except Exception as error:
            live.error = live.error or error
            raise
        steps = () if reply.failed else (Step(request.messages, reply.message, reply.usage, reply.latency),)
        run = Rollout(trial.example.id, node, trial.sample, steps, reply.stop, seed=seed, error=reply.error)
        live.calls[node, number] = run
        return reply


def _recorded(live: _Live, said: str, stop: StopReason, error: str) -> Rollout:
    """The run as one rollout: its calls are those of its nodes, one for each node, in the order of their names."""
    trial = live.trial
    nodes = sorted({node for node, _ in live.calls})
    calls = tuple(
        _joined([run for (name, _), run in sorted(live.calls.items()) if name == node]) for node in nodes
    )
    step = Step(trial.example.messages, Message("assistant", said), Usage(), subrollouts=calls)
    return Rollout(
        trial.example.id,
        ROLE,
        trial.sample,
        (step,),
        stop,
        seed=trial.seed,
        version=trial.version,
        error=error,
    )


def _joined(calls: list[Rollout]) -> Rollout:
    """All calls of one node in a run as one rollout."""
    return replace(calls[-1], steps=tuple(step for call in calls for step in call.steps))
