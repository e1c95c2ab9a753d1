"""
The processes that train together, each with all weights and the whole batch: one, or as many as a launcher started.

A batch is small beside its activations, so nothing of it is split: every process computes the same weights of tokens,
takes its share of the slices, and gradients are summed. Several processes are nothing but more slices.
"""

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from torch import Tensor, cuda, distributed

from edgewise.toolkit.errors import EdgewiseError, Interrupted, LostProcess

T = TypeVar("T")
WAIT = timedelta(days=7)
"""How long a process waits to be told something: process 0 may itself wait for a judge or a server."""
RANK_VARIABLES = "RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"
SIZE_VARIABLES = "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"
"""Where torchrun, accelerate and MPI write the number of a process, and how many there are."""


class ProcessGroup(Protocol):
    """Processes that share the work; `rank` is the number of this one, `local` that on its machine, `size` of all."""

    rank: int
    local: int
    size: int

    def shard(self, units: Sequence[T]) -> Sequence[T]:
        """The units of work of this process."""
        ...

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all processes, in place."""
        ...

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give each tensor the values that it has in process 0, in place."""
        ...

    def broadcast_object(self, what: Any) -> Any:
        """What process 0 says, in all of them."""
        ...

    def all_gather_object(self, what: T) -> list[T]:
        """What each process says, in their order, in all of them. Raises Broken where one of them says Failed."""
        ...


class SingleProcess:
    """One process."""

    rank, local, size = 0, 0, 1

    def shard(self, units: Sequence[T]) -> Sequence[T]:
        """All of them."""
        return units

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """They are sums already."""

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """They are those of process 0."""

    def broadcast_object(self, what: Any) -> Any:
        """The same."""
        return what

    def all_gather_object(self, what: T) -> list[T]:
        """What it says."""
        return [what]


SINGLE_PROCESS = SingleProcess()


def bind_device(ranks: ProcessGroup) -> None:
    """Let this thread compute on the GPU of its process: CUDA keeps which that is for each thread apart."""
    if ranks.size > 1 and cuda.is_available():
        cuda.set_device(ranks.local)


class TorchProcessGroup:
    """
    The processes that a launcher started; nccl on GPUs, gloo on CPUs, set up by accelerate.

    What is said goes over gloo in any case: there a process that is gone is noticed at once, as LostProcess.
    """

    def __init__(self) -> None:
        from accelerate import PartialState

        with _in_touch():
            self._state = PartialState(cpu=not cuda.is_available())
            self._voice: Any = distributed.new_group(backend="gloo", timeout=WAIT)
        self.rank, self.size = self._state.process_index, self._state.num_processes
        self.local = self._state.local_process_index

    def shard(self, units: Sequence[T]) -> Sequence[T]:
        """Every `size`-th, from this rank on."""
        return units[self.rank :: self.size]

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all processes, in place."""
        self._each(tensors, distributed.all_reduce)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give each tensor the values that it has in process 0, in place."""
        self._each(tensors, distributed.broadcast, src=0)

    def _each(self, tensors: Sequence[Tensor], function: Callable[..., Any], **options: Any) -> None:
        there = [tensor.detach().to(self._state.device).contiguous() for tensor in tensors]
        with _in_touch():
            for work in [function(tensor, async_op=True, **options) for tensor in there]:
                work.wait()
        for tensor, found in zip(tensors, there, strict=True):
            if found.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(found)

    def broadcast_object(self, what: Any) -> Any:
        """What process 0 says, in all of them."""
        found = [what]
        with _in_touch():
            distributed.broadcast_object_list(found, src=0, group=self._voice)
        return found[0]

    def all_gather_object(self, what: T) -> list[T]:
        """What each process says, in their order, in all of them. Raises Broken where one of them says Failed."""
        found: list[Any] = [None] * self.size
        with _in_touch():
            distributed.all_gather_object(found, what, group=self._voice)
        for each in found:
            if isinstance(each, FailureMessage):
                raise PeerFailed(each.error)
        return found


@contextlib.contextmanager
def _in_touch() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch.distributed raises has no class of its own
        raise LostProcess(
            "Another process of this run has ended or can't be reached: see what it printed, and start all of them "
            f"again with the same --run. ({str(error).splitlines()[0]})"
        ) from error


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """
    What all processes do at the same time, each waiting for the others' tensors.

    Whatever goes wrong inside is raised as LostProcess: those that wait can't be told but by the end of this process.
    """
    try:
        yield
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        raise LostProcess(
            "A process that shares the weights has failed, here or elsewhere: where memory is short set slice_tokens "
            f"lower or checkpointing=true, then start all again with the same --run. ({type(error).__name__}: {line})"
        ) from error


def read_launcher_variable(names: Sequence[str]) -> int:
    """What a launcher wrote for this process: `started(RANK)`, `started(SIZE)`; -1 where there is none."""
    return next((int(os.environ[name]) for name in names if name in os.environ), -1)


def join_process_group() -> ProcessGroup:
    """The processes that this one was started with. Waits until all have come; LostProcess where they don't."""
    return TorchProcessGroup() if read_launcher_variable(SIZE_VARIABLES) > 1 else SINGLE_PROCESS


# ---- errors ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FailureMessage:
    """What a process says in the place of anything else, after an error."""

    error: BaseException


class PeerFailed(Exception):
    """Some process said Failed, and all of them heard it."""

    def __init__(self, error: BaseException):
        self.error = error


def run_on_all(ranks: ProcessGroup, work: Callable[[], T]) -> T:
    """
    What `work` returns, if it goes well in all processes; else each raises its own error, or the first of the others.

    All of them must do the same `work`, and nothing in it may be said but by `gathered`: so one that fails early is
    heard wherever the others are.
    """
    try:
        result = work()
        ranks.all_gather_object(None)
        return result
    except PeerFailed as broken:
        raise broken.error from None
    except LostProcess:
        raise
    except BaseException as error:
        with contextlib.suppress(PeerFailed):
            ranks.all_gather_object(FailureMessage(make_picklable(error)))
        raise


def make_picklable(error: BaseException) -> BaseException:
    """An error as other processes can read it: itself if it is for users, else one with its traceback as text."""
    if isinstance(error, EdgewiseError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("Stopped.")
    return RuntimeError("".join(traceback.format_exception(error)))
