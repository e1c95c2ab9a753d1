"""
Weights that are shared out over processes (FSDP2, arXiv 2304.11277), for models whose training no single device holds.

Each process keeps a part of every weight, of its gradient and of its moments, in float32. A forward fetches one block
after the other, in the precision of products, and lets go of it; a backward leaves each process its part of the
gradient, summed over all. So all processes must go forward and backward equally often: one that has no slice left does
so with a token that counts for nothing (`learner.attention.logprobs`). Only to sample are all weights fetched at once.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Module

from edgewise.learner.hardware.memory import keep_freed_memory
from edgewise.learner.hardware.process_group import ProcessGroup, fail_together
from edgewise.learner.policy import checkpoint
from edgewise.learner.policy.policy import Policy, load_pretrained
from edgewise.learner.policy.precision import select_device, select_dtype, create_masters
from edgewise.toolkit.errors import ConfigError

T = TypeVar("T")


def load_sharded(name: str, ranks: ProcessGroup, *, device: str, dtype: str, checkpointing: bool) -> "ShardedPolicy":
    """
    The model of that name, all weights trained and shared out. Raises what `Policy.load` does.

    For a moment the machine's memory holds all weights in float32, so its processes come one after the other.
    """
    if ranks.size < 2:
        raise ConfigError(
            "shard=true shares weights out over several processes, and this is one: start it with torchrun (see "
            "docs/launch.md), or leave shard out."
        )
    where = select_device(device)
    if where.type == "cpu":
        keep_freed_memory()
    model, tokenizer = load_pretrained(name, torch.float32)
    policy = Policy.from_model(model, tokenizer, name=name, checkpointing=checkpointing)
    return ShardedPolicy(policy, ranks, where, select_dtype(dtype, where))


class ShardedPolicy(Policy):
    """
    What a process has of a policy; `policy`, which is on the CPU, is used up.

    All processes must call the same methods in the same order; those with "collective" in their first line wait for
    each other.
    """

    is_sharded = True

    def __init__(self, policy: Policy, ranks: ProcessGroup, device: torch.device, dtype: torch.dtype):
        self._ranks, self._root = ranks, _Root(policy.model)
        self._blocks = [_split(block, ranks, device, dtype) for block in _blocks(policy.model)]
        _split(self._root, ranks, device, dtype)
        self._kept: list[Tensor] | None = None
        super().__init__(
            policy.name,
            policy.tokenizer,
            device,
            dtype,
            policy.context_length,
            policy.stop_ids,
            None,
            policy.checkpointing,
            policy.model,
            create_masters(self._root.parameters()),
        )

    @property
    def summary(self) -> str:
        """One line: device, precision, how many parameters are trained, by how many processes."""
        return f"{super().summary}, shared out over {self._ranks.size} processes"

    @property
    def is_writer(self) -> bool:
        """Process 0 alone does."""
        return self._ranks.rank == 0

    # ---- forwards --------------------------------------------------------------------------------------

    def run_forward(self, work: Callable[[], T]) -> T:
        """Collective: what `work` returns, which may go forward through any part of the model."""
        return self._root(work)

    def run_with_all_weights(self, work: Callable[[], T]) -> T:
        """
        Collective: what `work` returns, with all weights at hand until it does, for forwards without a gradient.

        In it no process waits for another, however many forwards it takes.
        """

        def held() -> tuple[Any, Exception | None]:
            with _at_hand(self._blocks):
                try:
                    return work(), None
                except Exception as error:  # the forward around it has to end as in the other processes
                    return None, error

        with fail_together(), torch.no_grad():
            found, error = self._root(held)
        if error:
            raise error
        return found

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the weights are those that `with_reference` kept. Raises ConfigError where it kept none."""
        if self._kept is None:
            raise ConfigError("There is no reference model: call with_reference() before the first step.")
        self._exchange(self._kept)
        try:
            with torch.no_grad():
                yield
        finally:
            self._exchange(self._kept)

    def with_reference(self) -> "ShardedPolicy":
        """Keep the weights as they are now for `reference()`: this process's part of them, in float32."""
        self._kept = [_own(parameter).clone() for parameter in self.parameters()]
        return self

    @torch.no_grad()
    def _exchange(self, kept: list[Tensor]) -> None:
        for parameter, other in zip(self.parameters(), kept, strict=True):
            mine = _own(parameter).clone()
            _own(parameter).copy_(other)
            other.copy_(mine)

    # ---- weights ---------------------------------------------------------------------------------------

    def clip_gradients(self, most: float) -> float:
        """Collective: scale the gradients to a norm of `most` at the most; the norm before, over all parts."""
        norm: Any = torch.nn.utils.clip_grad_norm_(self.parameters(), most)
        return float(norm.full_tensor())

    def gather_full(self, tensor: Tensor) -> Tensor:
        """Collective: the whole of a weight or moment, on process 0's CPU; nothing in the others."""
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return whole.cpu() if self.is_writer else whole.new_empty(0)

    @torch.no_grad()
    def restore(self, path: Path, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Collective: take weights and moments from a checkpoint that process 0 reads; its state, there."""
        parameters = self.parameters()
        weights, moments, state = checkpoint.read(path, parameters) if self.is_writer else ({}, {}, {})
        # Counts of steps are told as they are, all else is handed out.
        told = {key: None if value.ndim else value for key, value in moments.items()}
        known = self._ranks.all_gather_object(told)[0]
        for i, parameter in enumerate(parameters):
            parameter.copy_(_part(weights.get(str(i)), parameter))
        optimizer.state.clear()
        for key, count in known.items():
            index, name = key.split(".", 1)
            parameter = parameters[int(index)]
            found = _part(moments.get(key), parameter) if count is None else count.to(parameter.device)
            optimizer.state[parameter][name] = found
        return state

    def _state(self) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = self._model.state_dict(keep_vars=True)
        distinct = {id(value): value for value in parts.values()}  # tied weights are written once
        whole = {key: self.gather_full(value.detach()) for key, value in distinct.items()}
        return {name: whole[id(value)] for name, value in parts.items()}


class _Root(Module):
    """A model as a part that any work can be done in, while the weights outside of its blocks are at hand."""

    def __init__(self, model: Module):
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


def _blocks(model: Any) -> list[Module]:
    """The blocks of a transformer, by the names that models give them for this."""
    names = set(model._no_split_modules or ())
    return [part for part in model.modules() if type(part).__name__ in names]


def _split(part: Module, ranks: ProcessGroup, device: torch.device, dtype: torch.dtype) -> FSDPModule:
    """Keep this process's share of what is not shared out yet in a part of the model."""
    half = dtype == torch.bfloat16
    precision = MixedPrecisionPolicy(
        param_dtype=dtype if half else None,
        reduce_dtype=torch.float32 if half else None,
        cast_forward_inputs=False,
    )
    mesh = init_device_mesh(device.type, (ranks.size,))
    made = cast(FSDPModule, fully_shard(part, mesh=mesh, mp_policy=precision, reshard_after_forward=True))
    made.set_gradient_divide_factor(1.0)
    made.set_force_sum_reduction_for_comms(True)
    return made


@contextlib.contextmanager
def _at_hand(blocks: list[FSDPModule]) -> Iterator[None]:
    """Fetch all blocks, and keep them inside."""
    try:
        for block in blocks:
            block.set_reshard_after_forward(False, recurse=False)
            block.unshard()
        yield
    finally:
        for block in blocks:
            block.reshard()
            block.set_reshard_after_forward(True, recurse=False)


def _own(parameter: Tensor) -> Tensor:
    """The part of this process, in place."""
    return cast(DTensor, parameter.detach()).to_local()


def _part(whole: Tensor | None, parameter: Tensor) -> Tensor:
    """The part of this process of what process 0 has whole, shared out like a parameter."""
    like = cast(DTensor, parameter)
    given = torch.empty(like.shape) if whole is None else whole
    return distribute_tensor(given.to(like.device, like.dtype), like.device_mesh, like.placements)
