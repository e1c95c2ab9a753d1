"""
The processes that train together, each with all weights and the whole batch: one, or as many as accelerate started.

A batch is small beside its activations, so nothing of it is split: every process computes the same weights of tokens,
takes its share of the slices, and gradients are summed. Several processes are nothing but more slices.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


class Ranks(Protocol):
    """Processes that share the work; `rank` is the number of this one, `size` how many there are."""

    rank: int
    size: int

    def share(self, units: Sequence[T]) -> Sequence[T]:
        """The units of work of this process."""
        ...

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all processes, in place."""
        ...

    def told(self, what: Any) -> Any:
        """What process 0 says, in all of them."""
        ...

    def gathered(self, what: T) -> list[T]:
        """What each process says, in their order, in all of them."""
        ...


class Alone:
    """One process."""

    rank, size = 0, 1

    def share(self, units: Sequence[T]) -> Sequence[T]:
        """All of them."""
        return units

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """They are sums already."""

    def told(self, what: Any) -> Any:
        """The same."""
        return what

    def gathered(self, what: T) -> list[T]:
        """What it says."""
        return [what]


ALONE = Alone()


class Several:
    """The processes that `accelerate launch` or torchrun started; nccl on GPUs, gloo on CPUs."""

    def __init__(self) -> None:
        from accelerate import PartialState

        self.state = PartialState()
        self.rank, self.size = self.state.process_index, self.state.num_processes

    def share(self, units: Sequence[T]) -> Sequence[T]:
        """Every `size`-th, from this rank on."""
        return units[self.rank :: self.size]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all processes, in place."""
        from torch.distributed import all_reduce

        for tensor in tensors:
            on = tensor.to(self.state.device)
            all_reduce(on)
            if on is not tensor:
                tensor.copy_(on)

    def told(self, what: Any) -> Any:
        """What process 0 says, in all of them."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([what])[0]

    def gathered(self, what: T) -> list[T]:
        """What each process says, in their order, in all of them."""
        from accelerate.utils import gather_object

        return gather_object([what])


def ranks() -> Ranks:
    """The processes that this one was started with."""
    import os

    return Several() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ALONE
