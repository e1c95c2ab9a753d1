"""
The policy: a Hugging Face causal model with its tokenizer, on a device, in a precision, trained or only asked.

`Policy.load` takes what follows "torch/" in a model's name: smollm2-135m, a directory, a .gguf file, a name on the hub.
"""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from edgewise.learner.hardware.memory import keep_freed_memory
from edgewise.learner.hardware.torch_compile import compile_layers, is_compiled
from edgewise.learner.policy import gguf, lora_files
from edgewise.learner.policy.precision import MasterWeights, select_device, select_dtype, create_masters
from edgewise.toolkit.errors import ConfigError, DiskFull, UnknownModel
from edgewise.toolkit.model.embedded import catalogue
from edgewise.toolkit.types import Message

T = TypeVar("T")
LONGEST = 1 << 20
"""Tokens of a context where a model states none."""


@dataclass(frozen=True, slots=True)
class Lora:
    """
    Low-rank adapters (arXiv 2106.09685): W + alpha / rank B A, on the layers that `targets` names.

    B begins as 0, A at random by `seed`.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: str | tuple[str, ...] = "all-linear"
    seed: int = 0


@dataclass(slots=True, eq=False)
class Policy:
    """
    A causal model that is trained, or only asked.

    `dtype` is that of its products; `context` the most tokens of a prompt and its reply together. Its weights are never
    touched outside of `optimizer` and a checkpoint's `restore`.
    """

    name: str
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    context_length: int
    stop_ids: frozenset[int]
    lora: Lora | None
    checkpointing: bool
    _model: Any
    _masters: MasterWeights
    _frozen: Any = None
    _refers: bool = False
    is_sharded: ClassVar[bool] = False
    """Whether processes hold parts of the weights: see `learner.policy.fsdp.Shards`, which replaces what follows."""

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        lora: Lora | None = None,
        checkpointing: bool = False,
        compiled: bool = False,
    ) -> "Policy":
        """
        The model of that name, ready to be trained: all weights, or an adapter with `lora`.

        A directory that holds an adapter is the model that it names, with the adapter added to its weights.
        `checkpointing` computes activations twice instead of keeping them, `compiled` compiles layers (see
        `learner.hardware.torch_compile`). Raises UnknownModel where there is no such model, ConfigError for a device, a precision or
        a compiler that is not there.
        """
        where = select_device(device)
        precision = select_dtype(dtype, where)
        if where.type == "cpu":
            keep_freed_memory()
        model, tokenizer = load_pretrained(name, torch.float32 if precision == torch.bfloat16 else precision)
        return cls.from_model(
            model,
            tokenizer,
            name=name,
            device=where,
            dtype=precision,
            lora=lora,
            checkpointing=checkpointing,
            compiled=compiled,
        )

    @classmethod
    def from_model(
        cls,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "",
        device: torch.device = torch.device("cpu"),  # noqa: B008 (a value)
        dtype: torch.dtype = torch.float32,
        lora: Lora | None = None,
        checkpointing: bool = False,
        compiled: bool = False,
    ) -> "Policy":
        """A policy of a model that is there already."""
        model = _still(model).to(device)
        # What `to` rounds lives on in these, and nowhere else.
        first = [p.detach() for p in model.parameters()] if dtype == torch.bfloat16 and not lora else []
        model = model.to(dtype)
        if lora:
            model = _adapted(model, lora)
        if checkpointing:
            _recompute(model)
        if compiled:
            compile_layers(model, device)
        trained = create_masters(model.parameters(), first)
        stops = _stops(model, tokenizer)
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or LONGEST
        return cls(name, tokenizer, device, dtype, context, stops, lora, checkpointing, model, trained)

    @property
    def model(self) -> Any:
        """The model whose forward is asked for: inside `reference()` the reference model."""
        return self._frozen if self._refers and self._frozen is not None else self._model

    @property
    def summary(self) -> str:
        """One line: device, precision, how many parameters are trained."""
        count = sum(p.numel() for p in self.parameters())
        which = f"{count / 1e6:,.1f} M trained parameters" + (
            f" (LoRA of rank {self.lora.rank})" if self.lora else ""
        )
        place = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        if self.device.type == "cpu":
            place = f"cpu, {torch.get_num_threads()} threads"
        precision = str(self.dtype).removeprefix("torch.")
        kept = " with float32 masters" if self._masters.copies is not self._masters.weights else ""
        layers = ", compiled layers" if is_compiled(self._model) else ""
        return f"{place}, {precision}{kept}{layers}, {which}"

    # ---- text ------------------------------------------------------------------------------------------

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """
        Token ids of a chat, up to where the model's reply begins.

        Raises ConfigError for a model without a chat template, or one whose template refuses the messages.
        """
        if not self.tokenizer.chat_template:
            raise ConfigError(
                f"{self.name} has no chat template, so it can't be asked in messages: take the instruct version of it, "
                "or put a chat_template.jinja into its directory."
            )
        try:
            ids = self.tokenizer.apply_chat_template(
                [_chat(m) for m in messages],
                add_generation_prompt=True,
                return_dict=False,
            )
        except Exception as error:  # whatever a template raises: it is a program of the model's author
            raise ConfigError(f"The chat template of {self.name} refuses these messages: {error}.") from error
        return tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    # ---- forwards --------------------------------------------------------------------------------------

    def run_forward(self, work: Callable[[], T]) -> T:
        """What `work` returns; all forwards with a gradient are done in such work."""
        return work()

    def run_with_all_weights(self, work: Callable[[], T]) -> T:
        """What `work` returns; all sampling is done in such work."""
        return work()

    # ---- weights ---------------------------------------------------------------------------------------

    @property
    def is_writer(self) -> bool:
        """Whether this process writes weights; if not, it hands what it has of them to the one that does."""
        return True

    def gather_full(self, tensor: Tensor) -> Tensor:
        """The whole of a weight or of what an optimizer keeps for it, to be written."""
        return tensor

    def clip_gradients(self, most: float) -> float:
        """Scale the gradients to a norm of `most` at the most; the norm before."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters(), most))

    def parameters(self) -> list[Parameter]:
        """What is trained, with gradients: float32 masters where the products are done in bfloat16."""
        return self._masters.weights

    def update_copies(self) -> None:
        """Take over the `parameters` after something moved them; `optimizer` does it by itself."""
        self._masters.update_copies()

    def create_optimizer(self, **settings: Any) -> torch.optim.AdamW:
        """AdamW on the `parameters`; each step of it is taken over by the model."""
        made = torch.optim.AdamW(self.parameters(), fused=True, **settings)
        made.register_step_post_hook(lambda *_: self.update_copies())
        return made

    def save(self, folder: Path) -> None:
        """
        Write adapter or weights as safetensors, with configuration and tokenizer; transformers and peft can load it.

        Weights are those of `parameters`, exactly. Raises DiskFull where they do not fit.
        """
        state = self._state()
        if not self.is_writer:
            return
        try:
            with _quiet():
                self._model.save_pretrained(folder, state_dict=state)
                if self.lora and self.name:
                    lora_files.write_base_model(folder, self.name)
                self.tokenizer.save_pretrained(folder)
        except Exception as error:
            if "No space left" in str(error):
                raise DiskFull(f"The disk is full: the weights could not be written to {folder}.") from error
            raise

    def with_reference(self) -> "Policy":
        """Keep the weights as they are now for `reference()`: a copy in `dtype`, and none with an adapter."""
        if not self.lora:
            self._frozen = copy.deepcopy(self._model).requires_grad_(False)
        return self

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """
        Inside, `model` is the reference: the adapter is off, or it is the copy that `with_reference` made.

        Raises ConfigError where all weights are trained and there is no such copy.
        """
        if not self.lora and self._frozen is None:
            raise ConfigError("There is no reference model: call with_reference() before the first step.")
        self._refers = True
        try:
            with self._model.disable_adapter() if self.lora else contextlib.nullcontext(), torch.no_grad():
                yield
        finally:
            self._refers = False

    def _state(self) -> dict[str, Tensor]:
        """By name in the model, with masters in place of copies."""
        by = self._masters.by_address()
        state: dict[str, Tensor] = self._model.state_dict()
        return {name: by.get(value.data_ptr(), value) for name, value in state.items()}


# ---- models on disk and on the hub -----------------------------------------------------------------------


def load_pretrained(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model of that name and its tokenizer, on the CPU. Raises UnknownModel where there is none."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        if folder := lora_files.find_adapter(name):
            model, tokenizer = load_pretrained(lora_files.read_base_model(folder), dtype)
            with _quiet():
                return lora_files.merge_adapter(model, folder), _tokenizer(folder) or tokenizer
        file = gguf.find_file(name)
        where = gguf.ensure_safetensors(file) if file else Path(name).expanduser()
        if not where.is_dir() and not _on_hub(name):
            raise UnknownModel(_missing(name))
        place, options = (str(where), {"local_files_only": True}) if where.is_dir() else (name, {})
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
            return AutoModelForCausalLM.from_pretrained(place, dtype=dtype, **options), tokenizer
    except (OSError, ValueError) as error:
        raise UnknownModel(_missing(name, _line(error))) from error


def _tokenizer(folder: Path) -> Any:
    """The tokenizer of a directory, None where it has none."""
    from transformers import AutoTokenizer

    there = (folder / "tokenizer_config.json").is_file()
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True) if there else None


def _on_hub(name: str) -> bool:
    """Whether it may be the name of a model there: OWNER/NAME."""
    return name.count("/") == 1 and not name.startswith((".", "~", "/"))


def _missing(name: str, why: str = "it is no directory") -> str:
    path = Path(name).expanduser()
    if path.exists():
        return f"{name} holds no causal model that transformers can read ({why})."
    if not _on_hub(name):
        known = ", ".join(catalogue.MODELS)
        return f"There is no model {name!r}: it is no directory here, and no embedded model ({known})."
    return (
        f"There is no directory {name!r} here, and the hub gave no model of that name ({why}): check the name "
        "and the network, or give the directory of a model that is on this machine."
    )


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers on standard error."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


# ---- what is made of a model ---------------------------------------------------------------------------


def _still(model: Module) -> Module:
    """Without dropout: the probability of a token is the same each time it is asked for."""
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model.eval()


def _adapted(model: Any, lora: Lora) -> Any:
    peft = lora_files.import_peft()
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(lora.seed)
        return peft.get_peft_model(model, config, autocast_adapter_dtype=False).eval()


def _recompute(model: Any) -> None:
    """Switch on that activations are recomputed; transformers has renamed it."""
    switch = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    switch({"use_reentrant": False})


def _stops(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end a reply: by the generation config, the tokenizer, and what the template puts after one."""
    told = getattr(model.generation_config, "eos_token_id", None)
    found = [*(told if isinstance(told, list) else [told]), getattr(tokenizer, "eos_token_id", None)]
    return frozenset(x for x in found if x is not None) | _closing(tokenizer)


def _closing(tokenizer: Any) -> frozenset[int]:
    """The special token that a chat template puts behind a reply, if it puts one."""
    if not getattr(tokenizer, "chat_template", None):
        return frozenset()
    said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "~edge~"}]
    try:
        text = tokenizer.apply_chat_template(said, tokenize=False)
    except Exception:  # a template that wants another chat says nothing about its end
        return frozenset()
    after = tokenizer.encode(text.rpartition("~edge~")[2], add_special_tokens=False)[:1]
    return frozenset(after) & frozenset(tokenizer.all_special_ids)


def _chat(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        found["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.tool_calls
        ]
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    return found
