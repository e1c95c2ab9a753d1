"""
Weights sharded over processes (FSDP2, arXiv 2304.11277), for models that no single device can train.

Each process keeps a part of every weight, of its gradient and of its moments, in float32. A forward gathers one block
after the other, in the precision of products, and frees it again; a backward leaves each process its part of the
gradient, summed over all. So all processes must go forward and backward equally often: one without a slice left does
so with a token that counts for nothing (`learner.attention.logprobs`). Only sampling gathers all weights at once.
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
from edgewise.learner.policy.policy import Policy
from edgewise.learner.policy.precision import create_masters, select_device, select_dtype
from edgewise.learner.policy.pretrained import load_pretrained
from edgewise.toolkit.errors import ConfigError

T = TypeVar("T")


def load_sharded(name: str, group: ProcessGroup, *, device: str, dtype: str, checkpointing: bool) -> "ShardedPolicy":
    """
    Return the model of that name, all weights trained and sharded. Raises what `Policy.load` does.

    For a moment the machine's memory holds all weights in float32, so its processes should load one after the other.
    """
    if group.size < 2:
        raise ConfigError(
            "shard=true shares weights out over several processes, and this is one: start it with torchrun (see "
            "docs/launch.md), or leave shard out."
        )
    place = select_device(device)
    if place.type == "cpu":
        keep_freed_memory()
    model, tokenizer = load_pretrained(name, torch.float32)
    policy = Policy.from_model(model, tokenizer, name=name, checkpointing=checkpointing)
    return ShardedPolicy(policy, group, place, select_dtype(dtype, place))


class ShardedPolicy(Policy):
    """
    A process's part of a policy. It takes over the model of `policy`, which must be on the CPU.

    All processes must call the same methods in the same order. Those whose first line says "collective" wait for each
    other.
    """

    is_sharded = True

    def __init__(self, policy: Policy, group: ProcessGroup, device: torch.device, dtype: torch.dtype):
        self._group, self._root = group, _Root(policy.model)
        # Blocks by the names that models give for this; the root then gets what is left, such as embeddings.
        names = set(policy.model._no_split_modules or ())
        blocks = [part for part in policy.model.modules() if type(part).__name__ in names]
        self._blocks = [_shard_module(block, group, device, dtype) for block in blocks]
        _shard_module(self._root, group, device, dtype)
        self._reference: list[Tensor] | None = None
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
        """One line: device, precision, number of trained parameters, number of processes."""
        return f"{super().summary}, shared out over {self._group.size} processes"

    @property
    def is_writer(self) -> bool:
        """Whether this is process 0."""
        return self._group.rank == 0

    # ---- forwards --------------------------------------------------------------------------------------

    def run_forward(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, which may go forward through any part of the model; collective."""
        return self._root(work)

    def run_with_all_weights(self, work: Callable[[], T]) -> T:
        """
        Return the result of `work`, with all weights gathered until then, for forwards without a gradient; collective.

        Inside no process waits for another, however many forwards it makes.
        """

        def run() -> tuple[Any, Exception | None]:
            try:
                for block in self._blocks:
                    block.set_reshard_after_forward(False, recurse=False)
                    block.unshard()
                try:
                    return work(), None
                except Exception as error:  # the root's forward must end as in the other processes
                    return None, error
            finally:
                for block in self._blocks:
                    block.reshard()
                    block.set_reshard_after_forward(True, recurse=False)

        with fail_together(), torch.no_grad():
            result, error = self._root(run)
        if error:
            raise error
        return result

    # ---- reference -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the weights are those of `with_reference`. Raises ConfigError if it was not called."""
        if self._reference is None:
            raise ConfigError("There is no reference model: call with_reference() before the first step.")
        self._exchange(self._reference)
        try:
            with torch.no_grad():
                yield
        finally:
            self._exchange(self._reference)

    def with_reference(self) -> "ShardedPolicy":
        """Keep the present weights for `reference()`: this process's part of them, in float32."""
        self._reference = [_local_part(parameter).clone() for parameter in self.parameters()]
        return self

    @torch.no_grad()
    def _exchange(self, others: list[Tensor]) -> None:
        for parameter, other in zip(self.parameters(), others, strict=True):
            mine = _local_part(parameter).clone()
            _local_part(parameter).copy_(other)
            other.copy_(mine)

    # ---- weights ---------------------------------------------------------------------------------------

    def clip_gradients(self, max_norm: float) -> float:
        """Scale the gradients to a norm of at most `max_norm`; return their norm before, over all parts; collective."""
        norm: Any = torch.nn.utils.clip_grad_norm_(self.parameters(), max_norm)
        return float(norm.full_tensor())

    def gather_full(self, tensor: Tensor) -> Tensor:
        """Return the whole of a weight or moment on process 0's CPU, nothing in other processes; collective."""
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return whole.cpu() if self.is_writer else whole.new_empty(0)

    @torch.no_grad()
    def restore(self, path: Path, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Load weights and moments from a checkpoint that process 0 reads; return its state there; collective."""
        parameters = self.parameters()
        weights, moments, state = checkpoint.read(path, parameters) if self.is_writer else ({}, {}, {})
        for i, parameter in enumerate(parameters):
            parameter.copy_(_distribute(weights.get(str(i)), parameter))

        # Every process needs the names of moments; numbers of steps are sent along, tensors are distributed.
        entries = {key: None if value.ndim else value for key, value in moments.items()}
        optimizer.state.clear()
        for key, count in self._group.all_gather_object(entries)[0].items():
            index, name = key.split(".", 1)
            parameter = parameters[int(index)]
            value = _distribute(moments.get(key), parameter) if count is None else count.to(parameter.device)
            optimizer.state[parameter][name] = value
        return state

    def gather_state(self) -> dict[str, Tensor]:
        """Return whole weights by their name in the model, on process 0; collective."""
        parts: dict[str, Tensor] = self._model.state_dict(keep_vars=True)
        distinct = {id(value): value for value in parts.values()}  # tied weights are gathered once
        whole = {key: self.gather_full(value.detach()) for key, value in distinct.items()}
        return {name: whole[id(value)] for name, value in parts.items()}


class _Root(Module):
    """
    Module whose forward is any work, while the weights outside of its model's blocks are gathered.

    FSDP gathers weights in forwards of modules; the work calls parts of the model, not its whole forward.
    """

    def __init__(self, model: Module):
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


def _shard_module(part: Module, group: ProcessGroup, device: torch.device, dtype: torch.dtype) -> FSDPModule:
    """Keep this process's part of all weights in a module that are not sharded yet."""
    is_half = dtype == torch.bfloat16
    precision = MixedPrecisionPolicy(
        param_dtype=dtype if is_half else None,
        reduce_dtype=torch.float32 if is_half else None,
        cast_forward_inputs=False,
    )
    mesh = init_device_mesh(device.type, (group.size,))
    module = cast(FSDPModule, fully_shard(part, mesh=mesh, mp_policy=precision, reshard_after_forward=True))
    # Gradients are sums over processes: the weights of tokens are those of the whole batch already.
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)
    return module


def _local_part(parameter: Tensor) -> Tensor:
    """Return this process's part of a parameter, in place."""
    return cast(DTensor, parameter.detach()).to_local()


def _distribute(whole: Tensor | None, parameter: Tensor) -> Tensor:
    """Return this process's part of a tensor that process 0 has whole, sharded like a parameter."""
    like = cast(DTensor, parameter)
    tensor = torch.empty(like.shape) if whole is None else whole
    return distribute_tensor(tensor.to(like.device, like.dtype), like.device_mesh, like.placements)
