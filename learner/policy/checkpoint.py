"""
Checkpoints of a run: weights, optimizer and what the loop knows, each in a directory that appears whole or not at all.

    RUN/checkpoints/000040/weights.safetensors    what is trained, in float32
                           optimizer.safetensors  both moments of AdamW
                           state.json             what the loop knows
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgewise.learner.policy.policy import Policy
from edgewise.toolkit.errors import ArtifactError, DiskFull
from edgewise.toolkit.util.files import dump_json

WEIGHTS, MOMENTS, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
MARGIN = 1.1
"""How much room there must be, in multiples of what is written."""


def save(
    folder: Path, number: int, policy: Policy, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> Path:
    """
    Write the checkpoint of a step, if this process is the one that writes; the directory of it.

    Raises DiskFull where there is no room, if possible before anything is written; other checkpoints stay as they are.
    """
    weights = {str(i): policy.gather_full(p.detach()).contiguous() for i, p in enumerate(policy.parameters())}
    moments = dict(_moments(policy, optimizer))
    done = folder / f"{number:06d}"
    if not policy.is_writer:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    need = sum(t.numel() * t.element_size() for t in (*weights.values(), *moments.values()))
    if shutil.disk_usage(folder).free < MARGIN * need:
        raise DiskFull(
            f"A checkpoint takes {need / 2**30:.1f} GiB, which is not free in {folder}: make room and run again; the "
            "checkpoints before are kept."
        )
    growing = folder / f".{number:06d}"
    shutil.rmtree(growing, ignore_errors=True)
    growing.mkdir()
    try:
        save_file(weights, growing / WEIGHTS)
        save_file(moments, growing / MOMENTS)
        (growing / STATE).write_text(dump_json(state), "utf-8")
        _flushed(growing)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(growing, ignore_errors=True)
        raise DiskFull(f"The checkpoint could not be written to {folder}: {error}") from error
    shutil.rmtree(done, ignore_errors=True)
    return growing.rename(done)


def restore(path: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Take weights and optimizer from a checkpoint; its state. Raises ArtifactError where they do not fit."""
    parameters = policy.parameters()
    weights, moments, state = read(path, parameters)
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(weights[str(i)])
    policy.update_copies()
    optimizer.state.clear()
    for key, value in moments.items():
        index, name = key.split(".", 1)
        optimizer.state[parameters[int(index)]][name] = value.to(parameters[int(index)].device)
    return state


def read(
    path: Path, parameters: Sequence[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """
    Weights "INDEX", moments "INDEX.NAME" and the state of a checkpoint, as they were written.

    Raises ArtifactError where they can't be read, or are not those of such parameters.
    """
    try:
        weights, moments = load_file(path / WEIGHTS), load_file(path / MOMENTS)
        state = json.loads((path / STATE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"The checkpoint {path} can't be read ({error}): delete it, or use another --run."
        ) from error
    if [tuple(p.shape) for p in parameters] != [tuple(weights[str(i)].shape) for i in range(len(weights))]:
        raise ArtifactError(f"The checkpoint {path} is of another model: use another --run.")
    return weights, moments, state


def find_latest(folder: Path) -> Path | None:
    """The checkpoint of the latest step, if there is one."""
    found = sorted(path for path in folder.glob("[0-9]*") if path.is_dir()) if folder.is_dir() else []
    return found[-1] if found else None


def delete_others(folder: Path, *numbers: int) -> None:
    """Delete all checkpoints but those of some steps."""
    names = {f"{number:06d}" for number in numbers}
    for path in folder.glob("[0-9]*"):
        if path.name not in names:
            shutil.rmtree(path)


def _moments(policy: Policy, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for i, parameter in enumerate(policy.parameters()):
        for name, value in optimizer.state.get(parameter, {}).items():
            yield f"{i}.{name}", policy.gather_full(torch.as_tensor(value).detach()).contiguous()


def _flushed(folder: Path) -> None:
    """On the disk, not only in the system's memory: the rename must not come first."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
