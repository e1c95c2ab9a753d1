"""
Layers compiled by torch.compile for updates: operations between the products become a few loops.

Attention (`learner.attention.shared_prefix`) is left out: it is products anyway, and reads Python objects that say
where prompts and replies lie. A layer is compiled once for all layers, and again for each other way of calling it, such
as without a gradient. Sampling runs without it.
"""

import contextlib
import os
import shutil
from typing import Any

import torch

from edgewise.toolkit.errors import ConfigError

RECOMPILE_LIMIT = 32
"""Ways of calling a layer that are compiled before it runs as it is."""


def compile_layers(model: Any, device: torch.device) -> None:
    """
    Let a model's layers be compiled at their first call.

    Raises ConfigError for a model without layers as transformers has them, and on a CPU without a C++ compiler.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(f"{type(model).__name__} has no layers that can be compiled: leave out compile=true.")
    if device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise ConfigError(
            "compile=true needs a C++ compiler on a CPU, and there is no g++: install one, or leave out compile=true."
        )
    torch._dynamo.config.recompile_limit = max(RECOMPILE_LIMIT, torch._dynamo.config.recompile_limit)
    # Layers have equal code, so that they share what is compiled; sizes change with each slice.
    for layer in layers:
        layer.compile(dynamic=True)


def is_compiled(model: Any) -> bool:
    """Whether `compile_layers` was called on the model."""
    return any(part._compiled_call_impl is not None for part in model.modules())


def disable_compilation(model: Any) -> contextlib.AbstractContextManager[Any]:
    """Run layers as they are inside: weights laid out by `weight_packing` can't be compiled."""
    return torch.compiler.set_stance("force_eager") if is_compiled(model) else contextlib.nullcontext()
