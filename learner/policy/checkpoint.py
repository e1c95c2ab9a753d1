"""
Checkpoints of a run: weights, optimizer and state of the training loop, in directories that appear whole or not at all.

    RUN/checkpoints/000040/weights.safetensors    trained parameters, in float32, by their number
                           optimizer.safetensors  both moments of AdamW
                           state.json             state of the training loop
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
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
"""Free disk space that a checkpoint needs, in multiples of its size."""


def save(folder: Path, number: int, policy: Policy, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> Path:
    """
    Write the checkpoint of a step, if this process is the writer, and return its directory.

    Raises DiskFull if there is no room, if possible before anything is written. Other checkpoints stay as they are.
    """
    # All processes take part in gathering; only one goes on to write.
    weights = {str(i): policy.gather_full(p.detach()).contiguous() for i, p in enumerate(policy.parameters())}
    moments = {
        f"{i}.{name}": policy.gather_full(torch.as_tensor(value).detach()).contiguous()
        for i, parameter in enumerate(policy.parameters())
        for name, value in optimizer.state.get(parameter, {}).items()
    }
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

    # Complete under another name and on the disk, not only in the system's memory, before the rename.
    growing = folder / f".{number:06d}"
    shutil.rmtree(growing, ignore_errors=True)
    growing.mkdir()
    try:
        save_file(weights, growing / WEIGHTS)
        save_file(moments, growing / MOMENTS)
        (growing / STATE).write_text(dump_json(state), "utf-8")
        for path in (*growing.iterdir(), growing):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(growing, ignore_errors=True)
        raise DiskFull(f"The checkpoint could not be written to {folder}: {error}") from error
    shutil.rmtree(done, ignore_errors=True)
    return growing.rename(done)


def restore(path: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load weights and optimizer from a checkpoint and return its state. Raises ArtifactError if they do not fit."""
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


def read(path: Path, parameters: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """
    Return weights by "INDEX", moments by "INDEX.NAME" and the state of a checkpoint.

    Raises ArtifactError if they can't be read, or have other shapes than the parameters.
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
    """Return the checkpoint of the latest step, or None."""
    checkpoints = sorted(path for path in folder.glob("[0-9]*") if path.is_dir()) if folder.is_dir() else []
    return checkpoints[-1] if checkpoints else None


def delete_others(folder: Path, *numbers: int) -> None:
    """Delete all checkpoints but those of the steps with these numbers."""
    names = {f"{number:06d}" for number in numbers}
    for path in folder.glob("[0-9]*"):
        if path.name not in names:
            shutil.rmtree(path)
