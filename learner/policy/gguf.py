"""
GGUF files as what they were made of: dequantised once, then kept beside the embedded models as safetensors.

transformers reads a GGUF file in about half a minute, the directory that comes of it in a second.
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
    """The GGUF file of a name: an embedded model, fetched if it is not there, or a path. None if it is neither."""
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
    A directory of float32 safetensors and a tokenizer with what is in the file; made if it is not in the cache.

    Raises OSError where there is no room for it: about 4 bytes a parameter.
    """
    made = download.cache_dir() / "torch" / f"{file.stem}-{_seal(file)}"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        growing = Path(tempfile.mkdtemp(dir=made.parent))
        try:
            _convert(file, growing)
            with contextlib.suppress(OSError):  # another process was faster
                growing.rename(made)
        finally:
            shutil.rmtree(growing, ignore_errors=True)
    return made


def _seal(file: Path) -> str:
    stat = file.stat()
    return hashlib.sha256(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:12]


def _convert(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": file.name}
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # its progress bars
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **where)
        model: Any = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **where)
    # Its weights are plain numbers now, and saved as such.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
