"""LoRA adapters: their settings, their place in a model, and the directory that peft writes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgewise.toolkit.errors import ConfigError, UnknownModel
from edgewise.toolkit.util.files import dump_json, replace_text

CONFIG = "adapter_config.json"
BASE = "base_model_name_or_path"


@dataclass(frozen=True, slots=True)
class Lora:
    """
    Settings of low-rank adapters (arXiv 2106.09685), on the layers that `targets` names.

    A layer with weights W [out, in] computes W x + (alpha / rank) B A x, with A [rank, in] and B [out, rank]. B begins
    as 0, so that the policy begins as the model; A begins at random by `seed`.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: str | tuple[str, ...] = "all-linear"
    seed: int = 0


def add_adapter(model: Any, lora: Lora) -> Any:
    """Return the model with a new adapter, which alone is trained."""
    peft = _import_peft()
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    # peft draws A from the global generator: a fork of it leaves the caller's random numbers alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lora.seed)
        return peft.get_peft_model(model, config, autocast_adapter_dtype=False).eval()


def merge_adapter(model: Any, folder: Path) -> Any:
    """Return the model with the adapter of a directory added to its weights, all of which are trained again."""
    merged = _import_peft().PeftModel.from_pretrained(model, str(folder), local_files_only=True)
    return merged.merge_and_unload().requires_grad_(True)  # peft freezes the base


def _import_peft() -> Any:
    """Return the package peft. Raises ConfigError if it is not installed."""
    try:
        import peft
    except ImportError:
        raise ConfigError("LoRA needs peft: pip install 'edgewise[learner]'.") from None
    return peft


# ---- directories -------------------------------------------------------------------------------------------


def find_adapter(name: str) -> Path | None:
    """Return the directory of that name if it holds an adapter."""
    folder = Path(name).expanduser()
    return folder if (folder / CONFIG).is_file() else None


def read_base_model(folder: Path) -> str:
    """Return the model that an adapter is for, as `Policy.load` takes it. Raises UnknownModel if it names none."""
    base = json.loads((folder / CONFIG).read_text("utf-8")).get(BASE)
    if not base or Path(base).expanduser().resolve() == folder.resolve():
        raise UnknownModel(f"{folder / CONFIG} does not name the model that the adapter is for.")
    return base


def write_base_model(folder: Path, name: str) -> None:
    """Write which model an adapter is for, as `Policy.load` takes it; peft writes where this machine keeps it."""
    content = json.loads((folder / CONFIG).read_text("utf-8"))
    replace_text(folder / CONFIG, dump_json({**content, BASE: name}))
    (folder / "README.md").unlink(missing_ok=True)  # peft's model card, which names that place as well
