"""
Which device and precision, and weights kept twice: a copy for the products, and masters that an optimizer moves.

Where products are done in bfloat16, the model's own weights are bfloat16 and each one that is trained has a master in
float32: gradients are added up there as a backward gives them, and after a step the copies are made again. Against
autocast no weight is cast in a forward, and what lies between two products is half as large.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from edgewise.toolkit.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def select_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one. Raises ConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"There is no device {name!r} here: leave it at auto, or write cpu.") from error


def select_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of that name; "auto" is bfloat16 on a GPU and on a CPU that has products in it, else float32."""
    if name == "auto":
        fast = device.type == "cuda" or (device.type == "cpu" and cpu_has_bfloat16())
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise ConfigError(f"{name!r} is no precision: auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def cpu_has_bfloat16() -> bool:
    """
    Whether the CPU multiplies bfloat16 matrices in hardware: AMX or AVX-512 BF16.

    Its flags are asked, never a clock: a run that is resumed must choose the same.
    """
    asked = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


@dataclass(slots=True, eq=False)
class MasterWeights:
    """Trained weights of a model and their masters, in the same order; the same tensors where they need no copy."""

    copies: list[Parameter]
    weights: list[Parameter]

    def update_copies(self) -> None:
        """Make the copies again, after the masters moved."""
        if self.copies is not self.weights:
            with torch.no_grad():
                for copy, weight in zip(self.copies, self.weights, strict=True):
                    copy.copy_(weight)

    def by_address(self) -> dict[int, Tensor]:
        """Masters by the address of their copies."""
        return {c.data_ptr(): w.data for c, w in zip(self.copies, self.weights, strict=True)}


def create_masters(parameters: Iterable[Parameter], first: Sequence[Tensor] = ()) -> MasterWeights:
    """
    Masters for all parameters that are trained; from now on a backward adds to the gradients of those.

    `first` are their values before they were rounded, in the same order, where they are at hand.
    """
    copies = [p for p in parameters if p.requires_grad]
    if all(p.dtype in (torch.float32, torch.float64) for p in copies):
        return MasterWeights(copies, copies)
    weights = [Parameter(x) for x in first or [p.detach().float() for p in copies]]
    for copy, weight in zip(copies, weights, strict=True):
        copy.register_post_accumulate_grad_hook(_move_to(weight))
    return MasterWeights(copies, weights)


def _move_to(weight: Parameter) -> Callable[[Tensor], None]:
    def move(copy: Tensor) -> None:
        gradient, copy.grad = copy.grad, None
        if gradient is None:
            return
        if weight.grad is None:
            weight.grad = gradient.float()
        else:
            weight.grad.add_(gradient)

    return move
