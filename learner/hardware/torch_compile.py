"""
Layers that are compiled by torch.compile for updates: what lies between the products becomes a few loops.

Attention is left out (`learner.attention.shared_prefix`): it goes through Python objects that say where prompts and replies lie, and is
products anyway. A layer is compiled once for all layers, and again for what asks it otherwise (without a gradient). A
policy samples without it.
"""

import contextlib
import os
import shutil
from typing import Any

import torch

from edgewise.toolkit.errors import ConfigError

RECOMPILE_LIMIT = 32
"""So many ways of being asked are compiled before a layer is left as it is."""


def compile_layers(model: Any, device: torch.device) -> None:
    """
    Let a model's layers be compiled when they are first asked.

    Raises ConfigError for a model without layers as transformers has them, and on a CPU without a C++ compiler.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            f"{type(model).__name__} has no layers that can be compiled: leave out compile=true."
        )
    if device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise ConfigError(
            "compile=true needs a C++ compiler on a CPU, and there is no g++: install one, or leave out compile=true."
        )
    torch._dynamo.config.recompile_limit = max(RECOMPILE_LIMIT, torch._dynamo.config.recompile_limit)
    for layer in layers:
        layer.compile(dynamic=True)


def is_compiled(model: Any) -> bool:
    """Whether `compile_layers` was called on it."""
    return any(part._compiled_call_impl is not None for part in model.modules())


def disable_compilation(model: Any) -> contextlib.AbstractContextManager[Any]:
    """Inside, layers are asked as they are: weights that `learner.hardware.weight_packing` laid out can't be compiled."""
    return torch.compiler.set_stance("force_eager") if is_compiled(model) else contextlib.nullcontext()
