"""
GGUF files: dequantised once, and cached beside the embedded models as safetensors.

transformers reads a GGUF file in about half a minute, and the directory made of it in a second.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from edgewise.toolkit.cli import models
from edgewise.toolkit.errors import UnknownModel
from edgewise.toolkit.model.embedded import catalogue, download


def find_file(name: str) -> Path | None:
    """
    Return the GGUF file of a name, or None if it names none.

    It is a path, or an embedded model, which is downloaded if missing. Raises UnknownModel for a path without a file.
    """
    bare = name.removeprefix("local/")
    if bare in catalogue.MODELS:
        return download.find_verified(catalogue.find_model(bare)) or Path(models.pull_model(bare))
    path = Path(name).expanduser()
    if path.suffix != ".gguf":
        return None
    if not path.is_file():
        raise UnknownModel(f"There is no file {name}.")
    return path


def ensure_safetensors(file: Path) -> Path:
    """
    Return a directory of float32 safetensors and a tokenizer with the content of the file, from the cache if possible.

    Raises OSError if there is no room for it: about 4 bytes a parameter.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stat = file.stat()
    key = hashlib.sha256(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = download.cache_dir() / "torch" / f"{file.stem}-{key}"
    if folder.exists():
        return folder

    folder.parent.mkdir(parents=True, exist_ok=True)
    growing = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        source: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # its progress bars
            tokenizer = AutoTokenizer.from_pretrained(**source)
            model: Any = AutoModelForCausalLM.from_pretrained(dtype=torch.float32, **source)
        # The weights are plain numbers now, and must be saved as such.
        model.hf_quantizer = None
        del model.config.quantization_config
        model.save_pretrained(growing)
        tokenizer.save_pretrained(growing)
        with contextlib.suppress(OSError):  # another process was faster
            growing.rename(folder)
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return folder
