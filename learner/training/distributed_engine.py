"""
An engine in several processes: the first leads, the others do what it does.

Only process 0 knows of tasks, journals and run directories. What all must do together (load, answer, update, restore)
it says first; then each does it, and it counts as done once it went well in all of them.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock, current_thread, main_thread
from typing import Any

import torch

from edgewise.learner.config import WeightsConfig
from edgewise.learner.hardware.process_group import ProcessGroup, run_on_all, make_picklable
from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.method import Method
from edgewise.learner.training.engine import Engine
from edgewise.learner.update.collate import ScoredRollout
from edgewise.learner.update.gradient_step import UpdateStats
from edgewise.toolkit.errors import LostProcess
from edgewise.toolkit.types import Reply, Request


@dataclass(frozen=True, slots=True)
class LeaderEnd:
    """How process 0 ended: with what, or with which error."""

    result: Any = None
    error: BaseException | None = None

    def get_result(self) -> Any:
        """The result, or the error raised."""
        if self.error:
            raise self.error
        return self.result


class Leader:
    """Process 0's word to the others. `result` is what they end with."""

    def __init__(self, ranks: ProcessGroup):
        self.ranks = ranks
        self.result: Any = None
        self._one = Lock()  # a user who interrupts twice ends a run while a thread of it still works

    def make_engine(self, config: WeightsConfig, method: Method) -> Engine:
        """The engine of process 0."""
        return Engine(config, method) if self.ranks.size == 1 else DistributedEngine(config, method, self)

    def run_on_all(self, work: Callable[..., Any], engine: Engine, *given: Any, **named: Any) -> Any:
        """Do something with the engine of every process. Raises in all of them what one of them raises."""
        with self._one:
            self.ranks.broadcast_object((work, given, named))
            return run_on_all(self.ranks, partial(work, engine, *given, **named))

    def end_followers(self, how: LeaderEnd) -> None:
        """Let the others end; those that are gone already have."""
        with self._one, contextlib.suppress(LostProcess):
            self.ranks.broadcast_object(how)


class DistributedEngine(Engine):
    """The engine of process 0."""

    def __init__(self, config: WeightsConfig, method: Method, lead: Leader):
        self._lead = lead
        super().__init__(config, method, lead.ranks)

    def reload(self, *, learning: bool = False) -> None:
        """All begin with the weights that training begins with."""
        self._lead.run_on_all(_load, self, self.config, self.method, learning)

    def answer(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """Each process answers its share."""
        return self._lead.run_on_all(_answer, self, requests)

    def update(self, batch: Batch, number: int, *, slowed: float = 1.0) -> UpdateStats:
        """Each process takes its share of the slices."""
        self.last_step = number
        return self._lead.run_on_all(Engine.update, self, batch, number, slowed=slowed)

    def distances(self, found: Sequence[ScoredRollout]) -> list[float]:
        """Each process takes its share of the slices."""
        return self._lead.run_on_all(Engine.compute_kl, self, found)

    def save(self, folder: Path, number: int, state: Mapping[str, Any]) -> None:
        """Process 0 writes; the others give it what they have of the weights."""
        self._lead.run_on_all(_write, self, Engine.save, folder, number, state)

    def export(self, folder: Path) -> None:
        """Process 0 writes; the others give it what they have of the weights."""
        self._lead.run_on_all(_write, self, Engine.export, folder)

    def restore(self, path: Path) -> dict[str, Any]:
        """All go to the same checkpoint."""
        return self._lead.run_on_all(_restore, self, path)


@contextlib.contextmanager
def lead(ranks: ProcessGroup) -> Iterator[Leader]:
    """What process 0 does while the others `follow`; whatever ends it, they end with it."""
    lead = Leader(ranks)
    try:
        yield lead
    except LostProcess:
        raise  # those that are left may be waiting for something else, and notice as this one did
    except BaseException as error:
        lead.end_followers(LeaderEnd(error=make_picklable(error)))
        raise
    lead.end_followers(LeaderEnd(lead.result))


def follow(ranks: ProcessGroup) -> LeaderEnd:
    """What every process but the first does: what that one says, until it ends. LostProcess if it is gone."""
    engine = Engine.__new__(Engine)
    engine.ranks = ranks
    with _unstopped():
        while not isinstance(said := ranks.broadcast_object(None), LeaderEnd):
            work, given, named = said
            try:
                run_on_all(ranks, partial(work, engine, *given, **named))
            except LostProcess:
                raise
            except Exception:  # process 0 raises it too, and says what comes of it
                continue
    return said


@contextlib.contextmanager
def _unstopped() -> Iterator[None]:
    """A Ctrl-C reaches all processes at once; when to stop is for process 0 to say."""
    if current_thread() is not main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- what all do together ----------------------------------------------------------------------------------


def _load(engine: Engine, config: WeightsConfig, method: Method, learning: bool) -> None:
    """
    One process of each machine loads first: it may fetch or convert what the others then find.

    Where weights are shared out they take turns, as each has all of them in memory meanwhile.
    """
    engine.config, engine.method, engine.slice_tokens = config, method, config.slice_tokens
    turn = engine.ranks.local if config.shard else min(engine.ranks.local, 1)
    for now in range(max(engine.ranks.all_gather_object(turn)) + 1):
        if now == turn:
            Engine.reload(engine, learning=learning)
        engine.ranks.all_gather_object(None)


def _answer(engine: Engine, requests: Sequence[Request]) -> list[Reply]:
    """Replies to all requests. Those with the same messages are answered side by side, as they are encoded once."""
    first: dict[Any, int] = {}
    for i, request in enumerate(requests):
        first.setdefault(request.messages, i)
    order = sorted(range(len(requests)), key=lambda i: first[requests[i].messages])
    rank, size = engine.ranks.rank, engine.ranks.size
    mine = order[rank * len(order) // size : (rank + 1) * len(order) // size]
    share = [requests[i] for i in mine]
    found = engine.policy.run_with_all_weights(lambda: Engine.answer(engine, share) if share else [])
    replies = [reply for part in engine.ranks.all_gather_object(found) for reply in part]
    return [reply for _, reply in sorted(zip(order, replies, strict=True), key=lambda pair: pair[0])]


def _write(engine: Engine, work: Callable[..., None], *given: Any) -> None:
    if engine.policy.is_sharded or not engine.ranks.rank:
        work(engine, *given)


def _restore(engine: Engine, path: Path) -> dict[str, Any]:
    """Process 0 reads the checkpoint; the others, which may not see its disk, copy weights and moments from it."""
    if engine.policy.is_sharded:
        return engine.policy.restore(path, engine.optimizer)
    ranks, policy, optimizer = engine.ranks, engine.policy, engine.optimizer
    state = {} if ranks.rank else Engine.restore(engine, path)
    parameters = policy.parameters()
    shapes = [
        {name: (tuple(value.shape), value.dtype) for name, value in optimizer.state.get(p, {}).items()}
        for p in parameters
    ]
    shapes = ranks.all_gather_object(shapes)[0]
    if ranks.rank:
        optimizer.state.clear()
        for p, known in zip(parameters, shapes, strict=True):
            for name, (shape, dtype) in known.items():
                optimizer.state[p][name] = torch.empty(shape, dtype=dtype, device=p.device)
    moments = [
        optimizer.state[p][name] for p, known in zip(parameters, shapes, strict=True) for name in known
    ]
    ranks.broadcast([*(p.data for p in parameters), *moments])
    policy.update_copies()
    return state
