"""Adapters on disk: a directory that peft wrote, and the model that it is for."""

import json
from pathlib import Path
from typing import Any

from edgewise.toolkit.errors import ConfigError, UnknownModel
from edgewise.toolkit.util.files import dump_json, replace_text

CONFIG = "adapter_config.json"
BASE = "base_model_name_or_path"


def import_peft() -> Any:
    """The package peft. Raises ConfigError where it is not installed."""
    try:
        import peft
    except ImportError:
        raise ConfigError("LoRA needs peft: pip install 'edgewise[learner]'.") from None
    return peft


def find_adapter(name: str) -> Path | None:
    """The directory of that name, if it holds an adapter."""
    folder = Path(name).expanduser()
    return folder if (folder / CONFIG).is_file() else None


def read_base_model(folder: Path) -> str:
    """The model that an adapter is for, as `Policy.load` takes it. Raises UnknownModel where it does not say."""
    base = json.loads((folder / CONFIG).read_text("utf-8")).get(BASE)
    if not base or Path(base).expanduser().resolve() == folder.resolve():
        raise UnknownModel(f"{folder / CONFIG} does not name the model that the adapter is for.")
    return base


def write_base_model(folder: Path, name: str) -> None:
    """Say which model an adapter is for, as `Policy.load` takes it, not where this machine keeps it."""
    content = json.loads((folder / CONFIG).read_text("utf-8"))
    replace_text(folder / CONFIG, dump_json({**content, BASE: name}))
    (folder / "README.md").unlink(missing_ok=True)  # peft's model card, which names that place too


def merge_adapter(model: Any, folder: Path) -> Any:
    """The model with an adapter added to its weights."""
    found = import_peft().PeftModel.from_pretrained(model, str(folder), local_files_only=True)
    return found.merge_and_unload().requires_grad_(True)  # peft had frozen it
