"""
The processes that train together, each with all weights and the whole batch.

A batch is small beside its activations, so it is not split: each process computes the weights of all tokens, takes its
share of the slices, and gradients are summed. Several processes only mean more slices at a time.
"""

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from torch import Tensor, cuda, distributed

from edgewise.toolkit.errors import EdgewiseError, Interrupted, LostProcess

T = TypeVar("T")
WAIT = timedelta(days=7)
"""Time that a process waits for an object of another: process 0 may itself wait for a judge or a server."""
RANK_VARIABLES = "RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"
SIZE_VARIABLES = "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"
"""Variables in which torchrun, accelerate and MPI pass the number of a process, and how many there are."""


class ProcessGroup:
    """Interface of the processes that share the work, and the group of this process alone."""

    rank: int = 0  # number of this process among all
    local: int = 0  # and on its machine
    size: int = 1

    def shard(self, units: Sequence[T]) -> Sequence[T]:
        """Return the units of work of this process."""
        return units

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all processes, in place."""

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Set each tensor to its values in process 0, in place."""

    def broadcast_object(self, value: Any) -> Any:
        """Return the value that process 0 passes, in all processes."""
        return value

    def all_gather_object(self, value: T) -> list[T]:
        """Return the values of all processes, by rank. Raises PeerFailed if one of them is a FailureMessage."""
        return [value]


SINGLE_PROCESS = ProcessGroup()


class TorchProcessGroup(ProcessGroup):
    """
    The processes that a launcher started, set up by accelerate: tensors over nccl on GPUs, over gloo on CPUs.

    Objects go over gloo in any case, because gloo notices at once that a process has ended (LostProcess).
    """

    def __init__(self) -> None:
        from accelerate import PartialState

        with _detect_lost_process():
            self._state = PartialState(cpu=not cuda.is_available())
            self._object_group: Any = distributed.new_group(backend="gloo", timeout=WAIT)
        self.rank, self.size = self._state.process_index, self._state.num_processes
        self.local = self._state.local_process_index

    def shard(self, units: Sequence[T]) -> Sequence[T]:
        """Return every `size`-th unit, from this rank on."""
        return units[self.rank :: self.size]

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all processes, in place."""
        self._communicate(tensors, distributed.all_reduce)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Set each tensor to its values in process 0, in place."""
        self._communicate(tensors, distributed.broadcast, src=0)

    def _communicate(self, tensors: Sequence[Tensor], collective: Callable[..., Any], **options: Any) -> None:
        # nccl wants tensors on the GPU; all are under way before the first is waited for.
        buffers = [tensor.detach().to(self._state.device).contiguous() for tensor in tensors]
        with _detect_lost_process():
            for work in [collective(buffer, async_op=True, **options) for buffer in buffers]:
                work.wait()
        for tensor, buffer in zip(tensors, buffers, strict=True):
            if buffer.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(buffer)

    def broadcast_object(self, value: Any) -> Any:
        """Return the value that process 0 passes, in all processes."""
        values = [value]
        with _detect_lost_process():
            distributed.broadcast_object_list(values, src=0, group=self._object_group)
        return values[0]

    def all_gather_object(self, value: T) -> list[T]:
        """Return the values of all processes, by rank. Raises PeerFailed if one of them is a FailureMessage."""
        values: list[Any] = [None] * self.size
        with _detect_lost_process():
            distributed.all_gather_object(values, value, group=self._object_group)
        for message in values:
            if isinstance(message, FailureMessage):
                raise PeerFailed(message.error)
        return values


def join_process_group() -> ProcessGroup:
    """Return the group that this process was started in. Waits for all to join; raises LostProcess if they don't."""
    return TorchProcessGroup() if read_launcher_variable(SIZE_VARIABLES) > 1 else SINGLE_PROCESS


def read_launcher_variable(names: Sequence[str]) -> int:
    """Return the value of the first of RANK_VARIABLES or SIZE_VARIABLES that a launcher set, else -1."""
    return next((int(os.environ[name]) for name in names if name in os.environ), -1)


def bind_device(group: ProcessGroup) -> None:
    """Let this thread compute on its process's GPU. CUDA has a current device for each thread."""
    if group.size > 1 and cuda.is_available():
        cuda.set_device(group.local)


# ---- errors ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _detect_lost_process() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # errors of torch.distributed have no class of their own
        raise LostProcess(
            "Another process of this run has ended or can't be reached: see what it printed, and start all of them "
            f"again with the same --run. ({str(error).splitlines()[0]})"
        ) from error


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """
    Raise any error inside as LostProcess, for work in which all processes wait for each other's tensors.

    Only the end of this process tells the others: in the middle of a collective they can't receive a message.
    """
    try:
        yield
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        raise LostProcess(
            "A process that shares the weights has failed, here or elsewhere: where memory is short set slice_tokens "
            f"lower or checkpointing=true, then start all again with the same --run. ({type(error).__name__}: {line})"
        ) from error


@dataclass(frozen=True, slots=True)
class FailureMessage:
    """An error that a process sends in `all_gather_object` in place of its value."""

    error: BaseException


class PeerFailed(Exception):
    """Some process sent a FailureMessage, which all of them received."""

    def __init__(self, error: BaseException):
        self.error = error


def run_on_all(group: ProcessGroup, work: Callable[[], T]) -> T:
    """
    Return the result of `work` if it succeeds in all processes; else raise the own error, or the first of the others.

    All processes must call it with the same `work`, which may communicate by `all_gather_object` only: then a failure
    reaches the others wherever they are.
    """
    try:
        result = work()
        group.all_gather_object(None)
        return result
    except PeerFailed as failure:
        raise failure.error from None
    except LostProcess:
        raise  # nobody is there to tell
    except BaseException as error:
        with contextlib.suppress(PeerFailed):
            group.all_gather_object(FailureMessage(make_picklable(error)))
        raise


def make_picklable(error: BaseException) -> BaseException:
    """Return an error that other processes can unpickle: itself if it is for users, else its traceback as text."""
    if isinstance(error, EdgewiseError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("Stopped.")
    return RuntimeError("".join(traceback.format_exception(error)))
