"""
Device, precision, and weights kept twice: a copy for the products, and the master that an optimizer changes.

If products are in bfloat16, the model's weights are bfloat16 and each trained one has a master in float32. Gradients
are summed there as a backward produces them, and after a step the copies are made again. In contrast to autocast no
forward casts a weight, and everything between two products takes half the memory.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from edgewise.toolkit.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def select_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is a GPU if there is one. Raises ConfigError for a missing one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"There is no device {name!r} here: leave it at auto, or write cpu.") from error


def select_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the precision of that name; "auto" is bfloat16 on a GPU or a CPU that multiplies it, else float32."""
    if name == "auto":
        fast = device.type == "cuda" or (device.type == "cpu" and cpu_has_bfloat16())
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise ConfigError(f"{name!r} is no precision: auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def cpu_has_bfloat16() -> bool:
    """
    Whether the CPU multiplies bfloat16 matrices in hardware: AMX or AVX-512 BF16.

    By its flags, never by a clock: a resumed run must choose the same.
    """
    flags = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in flags)


class MasterWeights(NamedTuple):
    """Trained weights of a model and their masters, in the same order; the same list if they need no masters."""

    copies: list[Parameter]
    weights: list[Parameter]


def create_masters(parameters: Iterable[Parameter], exact: Sequence[Tensor] = ()) -> MasterWeights:
    """
    Return masters of all trained parameters; from then on a backward adds to the gradients of the masters.

    `exact` holds the parameters' values before they were rounded, in the same order, if those are at hand.
    """
    copies = [p for p in parameters if p.requires_grad]
    if all(p.dtype in (torch.float32, torch.float64) for p in copies):
        return MasterWeights(copies, copies)
    weights = [Parameter(x) for x in exact or [p.detach().float() for p in copies]]
    for copy, weight in zip(copies, weights, strict=True):

        def move_gradient(copy: Tensor, weight: Parameter = weight) -> None:
            # Called in the backward as soon as this gradient is complete, so that bfloat16 ones never pile up.
            gradient, copy.grad = copy.grad, None
            if gradient is None:
                return
            if weight.grad is None:
                weight.grad = gradient.float()
            else:
                weight.grad.add_(gradient)

        copy.register_post_accumulate_grad_hook(move_gradient)
    return MasterWeights(copies, weights)
