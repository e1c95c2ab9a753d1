"""Pretrained models: reading a directory, a GGUF file, an adapter or the hub, and the tokens that end a reply."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from edgewise.learner.policy import gguf, lora
from edgewise.toolkit.errors import UnknownModel
from edgewise.toolkit.model.embedded import catalogue


def load_pretrained(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return the model of that name and its tokenizer, on the CPU. Raises UnknownModel if there is none."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        # A directory with an adapter: its base, by any of these names, with the adapter added.
        if folder := lora.find_adapter(name):
            model, tokenizer = load_pretrained(lora.read_base_model(folder), dtype)
            with hide_progress():
                if (folder / "tokenizer_config.json").is_file():
                    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
                return lora.merge_adapter(model, folder), tokenizer

        file = gguf.find_file(name)
        path = gguf.ensure_safetensors(file) if file else Path(name).expanduser()
        if not path.is_dir() and not _is_hub_name(name):
            raise UnknownModel(_explain_missing(name))
        place, options = (str(path), {"local_files_only": True}) if path.is_dir() else (name, {})
        with hide_progress():
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
            return AutoModelForCausalLM.from_pretrained(place, dtype=dtype, **options), tokenizer
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise UnknownModel(_explain_missing(name, reason)) from error


def _is_hub_name(name: str) -> bool:
    """Whether it may be the name of a model on the hub: OWNER/NAME."""
    return name.count("/") == 1 and not name.startswith((".", "~", "/"))


def _explain_missing(name: str, reason: str = "it is no directory") -> str:
    path = Path(name).expanduser()
    if path.exists():
        return f"{name} holds no causal model that transformers can read ({reason})."
    if not _is_hub_name(name):
        known = ", ".join(catalogue.MODELS)
        return f"There is no model {name!r}: it is no directory here, and no embedded model ({known})."
    return (
        f"There is no directory {name!r} here, and the hub gave no model of that name ({reason}): check the name "
        "and the network, or give the directory of a model that is on this machine."
    )


@contextlib.contextmanager
def hide_progress() -> Iterator[None]:
    """Hide progress bars of transformers and warnings inside."""
    from transformers.utils import logging

    is_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if is_enabled:
            logging.enable_progress_bar()


def find_stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the ids that end a reply: by generation config, tokenizer, and the special token of the chat template."""
    config = getattr(model.generation_config, "eos_token_id", None)
    ids = [*(config if isinstance(config, list) else [config]), getattr(tokenizer, "eos_token_id", None)]
    stop_ids = frozenset(i for i in ids if i is not None)
    if not getattr(tokenizer, "chat_template", None):
        return stop_ids

    # Some models state another end than their template has: read it off a chat with a reply.
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "~edge~"}]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception:  # a template that wants another chat doesn't show its end
        return stop_ids
    after = tokenizer.encode(text.rpartition("~edge~")[2], add_special_tokens=False)[:1]
    return stop_ids | frozenset(after) & frozenset(tokenizer.all_special_ids)
