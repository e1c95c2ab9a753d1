"""
An engine in several processes: process 0 leads, the others follow.

    process 0   plan, journal, run directory        processes 1, 2, ...
        │                                                 │  follow: wait for a message
        ├── broadcast (function, arguments) ─────────────▶│
        │   function(own engine, ...)                     │  function(own engine, ...)
        │◀────────── all-gather: did it succeed? ────────▶│
        └── broadcast LeaderEnd ─────────────────────────▶│  end

Only process 0 knows of tasks, journals and run directories. A call is complete once it succeeded in all processes.
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
from edgewise.learner.hardware.process_group import ProcessGroup, make_picklable, run_on_all
from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.method import Method
from edgewise.learner.training.engine import Engine
from edgewise.learner.update.collate import ScoredRollout
from edgewise.learner.update.gradient_step import UpdateStats
from edgewise.toolkit.errors import LostProcess
from edgewise.toolkit.types import Reply, Request


@dataclass(frozen=True, slots=True)
class LeaderEnd:
    """Last message of process 0: its result, or its error."""

    result: Any = None
    error: BaseException | None = None

    def get_result(self) -> Any:
        """Return the result, or raise the error."""
        if self.error:
            raise self.error
        return self.result


class Leader:
    """Process 0's side of the messages; the others end with `result`."""

    def __init__(self, group: ProcessGroup):
        self.group = group
        self.result: Any = None
        # One message at a time: a run that is interrupted twice ends while a thread of it still works.
        self._lock = Lock()

    def make_engine(self, config: WeightsConfig, method: Method) -> Engine:
        """Return the engine of process 0."""
        return Engine(config, method) if self.group.size == 1 else DistributedEngine(config, method, self)

    def run_on_all(self, work: Callable[..., Any], engine: Engine, *args: Any, **options: Any) -> Any:
        """Call `work` with the engine of every process. Raises in all of them what one of them raises."""
        with self._lock:
            self.group.broadcast_object((work, args, options))
            return run_on_all(self.group, partial(work, engine, *args, **options))

    def end_followers(self, end: LeaderEnd) -> None:
        """Let the others end."""
        with self._lock, contextlib.suppress(LostProcess):  # those that are lost have ended
            self.group.broadcast_object(end)


class DistributedEngine(Engine):
    """
    Engine of process 0: each call runs in all processes.

    The policy takes part by itself where weights are sharded: then all processes save, restore and export together.
    """

    def __init__(self, config: WeightsConfig, method: Method, leader: Leader):
        self._leader = leader
        super().__init__(config, method, leader.group)

    def reload(self, *, learning: bool = False) -> None:
        """Load the first weights in all processes."""
        self._leader.run_on_all(_load, self, self.config, self.method, learning)

    def answer(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """Answer a share of the requests in each process."""
        return self._leader.run_on_all(_answer, self, requests)

    def update(self, batch: Batch, number: int, *, slowed: float = 1.0) -> UpdateStats:
        """Compute a share of the slices in each process."""
        self.last_step = number
        return self._leader.run_on_all(Engine.update, self, batch, number, slowed=slowed)

    def compute_kl(self, rollouts: Sequence[ScoredRollout]) -> list[float]:
        """Compute a share of the slices in each process."""
        return self._leader.run_on_all(Engine.compute_kl, self, rollouts)

    def save(self, folder: Path, number: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint in process 0, with the shards of the others."""
        self._leader.run_on_all(_write, self, Engine.save, folder, number, state)

    def export(self, folder: Path) -> None:
        """Write the weights in process 0, with the shards of the others."""
        self._leader.run_on_all(_write, self, Engine.export, folder)

    def restore(self, path: Path) -> dict[str, Any]:
        """Load the same checkpoint in all processes."""
        return self._leader.run_on_all(_restore, self, path)


@contextlib.contextmanager
def lead(group: ProcessGroup) -> Iterator[Leader]:
    """Lead the processes that `follow`; they end when the block does, with its result or its error."""
    leader = Leader(group)
    try:
        yield leader
    except LostProcess:
        raise  # the others may wait in a collective, and notice the loss as this process did
    except BaseException as error:
        leader.end_followers(LeaderEnd(error=make_picklable(error)))
        raise
    leader.end_followers(LeaderEnd(leader.result))


def follow(group: ProcessGroup) -> LeaderEnd:
    """Run what process 0 broadcasts, until it ends. Raises LostProcess if it is gone."""
    engine = Engine.__new__(Engine)  # `_load` fills it
    engine.group = group
    # Ctrl-C reaches all processes at once, but process 0 decides when to stop.
    handlers = {}
    if current_thread() is main_thread():
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not isinstance(message := group.broadcast_object(None), LeaderEnd):
            work, args, options = message
            try:
                run_on_all(group, partial(work, engine, *args, **options))
            except LostProcess:
                raise
            except Exception:  # process 0 raises it, too, and decides what follows
                continue
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return message


# ---- functions that run in all processes -------------------------------------------------------------------


def _load(engine: Engine, config: WeightsConfig, method: Method, learning: bool) -> None:
    engine.config, engine.method, engine.slice_tokens = config, method, config.slice_tokens
    # One process of each machine loads first: it may download or convert files for the others. With sharded weights
    # they load one by one, because each has all weights in memory meanwhile.
    turn = engine.group.local if config.shard else min(engine.group.local, 1)
    for current in range(max(engine.group.all_gather_object(turn)) + 1):
        # Each round ends with a gathering, which is a barrier and carries failures.
        if current == turn:
            Engine.reload(engine, learning=learning)
        engine.group.all_gather_object(None)


def _answer(engine: Engine, requests: Sequence[Request]) -> list[Reply]:
    # Requests with the same messages go to one process where possible, as their prompt is encoded once.
    first: dict[Any, int] = {}
    for i, request in enumerate(requests):
        first.setdefault(request.messages, i)
    order = sorted(range(len(requests)), key=lambda i: first[requests[i].messages])
    rank, size = engine.group.rank, engine.group.size
    share = [requests[i] for i in order[rank * len(order) // size : (rank + 1) * len(order) // size]]

    results = engine.policy.run_with_all_weights(lambda: Engine.answer(engine, share) if share else [])
    # By rank, which is the order of the shares; then back to the order of the requests.
    replies = [reply for part in engine.group.all_gather_object(results) for reply in part]
    return [reply for _, reply in sorted(zip(order, replies, strict=True), key=lambda pair: pair[0])]


def _write(engine: Engine, work: Callable[..., None], *args: Any) -> None:
    if engine.policy.is_sharded or not engine.group.rank:
        work(engine, *args)


def _restore(engine: Engine, path: Path) -> dict[str, Any]:
    """
    Load a checkpoint in all processes and return the state of training, {} in all but process 0.

        process 0                            others, which may not see the disk
        read the checkpoint
        gather: names, shapes, types  ─────▶ allocate moments of AdamW like these
        broadcast: weights, moments   ─────▶ receive them in place

    With sharded weights every process reads the file and takes its shards.
    """
    group, policy, optimizer = engine.group, engine.policy, engine.optimizer
    if policy.is_sharded:
        return policy.restore(path, optimizer)
    # If process 0 can't read it, the others learn so in the gathering below: see `run_on_all`.
    state = {} if group.rank else Engine.restore(engine, path)
    parameters = policy.parameters()
    moments = [optimizer.state.get(parameter, {}) for parameter in parameters]
    own_layouts = [{name: (x.shape, x.dtype) for name, x in values.items()} for values in moments]
    layouts = group.all_gather_object(own_layouts)[0]
    if group.rank:
        # What was there before, if a run goes back to a checkpoint, may have other moments, or none.
        optimizer.state.clear()
        for parameter, layout in zip(parameters, layouts, strict=True):
            for name, (shape, dtype) in layout.items():
                optimizer.state[parameter][name] = torch.empty(shape, dtype=dtype, device=parameter.device)

    # All processes list the same tensors in the same order; only then a broadcast fits.
    tensors = [
        optimizer.state[parameter][name]
        for parameter, layout in zip(parameters, layouts, strict=True)
        for name in layout
    ]
    group.broadcast([*(parameter.data for parameter in parameters), *tensors])
    # Copies in another precision are made from the weights that have just been received.
    policy.update_copies()
    return state
