"""
The policy: a Hugging Face causal model with its tokenizer, on a device, in a precision.

`Policy.load` takes what follows "torch/" in a model's name: smollm2-135m, a directory, a .gguf file, a name on the hub.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

from edgewise.learner.hardware.memory import keep_freed_memory
from edgewise.learner.hardware.torch_compile import compile_layers, is_compiled
from edgewise.learner.policy.lora import Lora, add_adapter, write_base_model
from edgewise.learner.policy.precision import MasterWeights, create_masters, select_device, select_dtype
from edgewise.learner.policy.pretrained import find_stop_ids, hide_progress, load_pretrained
from edgewise.toolkit.errors import ConfigError, DiskFull
from edgewise.toolkit.types import Message

T = TypeVar("T")
DEFAULT_CONTEXT = 1 << 20
"""Context length of a model that states none, in tokens."""


@dataclass(slots=True, eq=False)
class Policy:
    """
    A causal model to train or to sample from.

    Weights change only in an optimizer of `create_optimizer` and in a checkpoint's `restore`.
    """

    name: str
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype  # of products
    context_length: int  # most tokens of a prompt and its reply together
    stop_ids: frozenset[int]
    lora: Lora | None
    checkpointing: bool
    _model: Any
    _masters: MasterWeights
    _frozen: Any = None
    _is_reference: bool = False
    is_sharded: ClassVar[bool] = False
    """Whether processes hold parts of the weights: see `fsdp.ShardedPolicy`, which overrides several methods."""

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
        Return the policy of that name, ready to be trained: all weights, or an adapter with `lora`.

        The name of a directory with an adapter stands for its base model with the adapter added to the weights.
        `checkpointing` computes activations twice instead of keeping them; `compiled` compiles layers (see
        `learner.hardware.torch_compile`). Raises UnknownModel if there is no such model, ConfigError for a device, a
        precision or a compiler that is missing.
        """
        place = select_device(device)
        precision = select_dtype(dtype, place)
        if place.type == "cpu":
            keep_freed_memory()
        model, tokenizer = load_pretrained(name, torch.float32 if precision == torch.bfloat16 else precision)
        return cls.from_model(
            model,
            tokenizer,
            name=name,
            device=place,
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
        """Return a policy of a loaded model."""
        # Without dropout a token has the same probability each time it is computed.
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        model = model.eval().to(device)
        # `to` rounds the model's weights to bfloat16; their float32 values live on in the masters alone.
        exact = [p.detach() for p in model.parameters()] if dtype == torch.bfloat16 and not lora else []
        model = model.to(dtype)
        if lora:
            with hide_progress():
                model = add_adapter(model, lora)
        if checkpointing:
            # transformers has renamed it.
            switch = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            switch({"use_reentrant": False})
        if compiled:
            compile_layers(model, device)

        masters = create_masters(model.parameters(), exact)
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or DEFAULT_CONTEXT
        stop_ids = find_stop_ids(model, tokenizer)
        return cls(name, tokenizer, device, dtype, context, stop_ids, lora, checkpointing, model, masters)

    @property
    def model(self) -> Any:
        """Model whose forward is computed: inside `reference()` the reference model."""
        return self._frozen if self._is_reference and self._frozen is not None else self._model

    @property
    def summary(self) -> str:
        """One line: device, precision, number of trained parameters."""
        place = str(self.device)
        if self.device.type == "cuda":
            place = torch.cuda.get_device_name(self.device)
        elif self.device.type == "cpu":
            place = f"cpu, {torch.get_num_threads()} threads"
        precision = str(self.dtype).removeprefix("torch.")
        precision += " with float32 masters" if self._masters.copies is not self._masters.weights else ""
        layers = ", compiled layers" if is_compiled(self._model) else ""
        count = f"{sum(p.numel() for p in self.parameters()) / 1e6:,.1f} M trained parameters"
        adapter = f" (LoRA of rank {self.lora.rank})" if self.lora else ""
        return f"{place}, {precision}{layers}, {count}{adapter}"

    # ---- text ------------------------------------------------------------------------------------------

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """
        Return the token ids of a chat, up to where the model's reply begins.

        Raises ConfigError for a model without a chat template, or one whose template refuses the messages.
        """
        if not self.tokenizer.chat_template:
            raise ConfigError(
                f"{self.name} has no chat template, so it can't be asked in messages: take the instruct version of it, "
                "or put a chat_template.jinja into its directory."
            )
        chat: list[dict[str, Any]] = []
        for message in messages:
            chat.append({"role": message.role, "content": message.content})
            if message.tool_calls:
                chat[-1]["tool_calls"] = [
                    {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                    for c in message.tool_calls
                ]
            if message.tool_call_id:
                chat[-1]["tool_call_id"] = message.tool_call_id
        try:
            ids = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        except Exception as error:  # a template is a program of the model's author, and raises anything
            raise ConfigError(f"The chat template of {self.name} refuses these messages: {error}.") from error
        return tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    # ---- forwards --------------------------------------------------------------------------------------

    def run_forward(self, work: Callable[[], T]) -> T:
        """Return the result of `work`; every forward with a gradient runs in such work."""
        return work()

    def run_with_all_weights(self, work: Callable[[], T]) -> T:
        """Return the result of `work`; all sampling runs in such work."""
        return work()

    # ---- weights ---------------------------------------------------------------------------------------

    @property
    def is_writer(self) -> bool:
        """Whether this process writes weights; others only send it their parts."""
        return True

    def gather_full(self, tensor: Tensor) -> Tensor:
        """Return the whole of a weight or of an optimizer's moment, to be written."""
        return tensor

    def clip_gradients(self, max_norm: float) -> float:
        """Scale the gradients to a norm of at most `max_norm`, and return their norm before."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters(), max_norm))

    def parameters(self) -> list[Parameter]:
        """Return the trained parameters, with gradients: float32 masters if products are in bfloat16."""
        return self._masters.weights

    def update_copies(self) -> None:
        """Copy the `parameters` into the model after a change; `create_optimizer` does this after each step."""
        copies, masters = self._masters
        if copies is not masters:
            with torch.no_grad():
                for own, master in zip(copies, masters, strict=True):
                    own.copy_(master)

    def create_optimizer(self, **settings: Any) -> torch.optim.AdamW:
        """Return an AdamW of the `parameters` that updates the model after each step."""
        optimizer = torch.optim.AdamW(self.parameters(), fused=True, **settings)
        optimizer.register_step_post_hook(lambda *_: self.update_copies())
        return optimizer

    def save(self, folder: Path) -> None:
        """
        Write adapter or weights as safetensors, with configuration and tokenizer, for transformers and peft.

        Weights are those of `parameters`, exactly. Raises DiskFull if they do not fit.
        """
        state = self.gather_state()
        if not self.is_writer:
            return
        try:
            with hide_progress():
                self._model.save_pretrained(folder, state_dict=state)
                if self.lora and self.name:
                    write_base_model(folder, self.name)
                self.tokenizer.save_pretrained(folder)
        except Exception as error:  # safetensors and the system raise different classes
            if "No space left" in str(error):
                raise DiskFull(f"The disk is full: the weights could not be written to {folder}.") from error
            raise

    def gather_state(self) -> dict[str, Tensor]:
        """Return weights by their name in the model, masters in place of their copies."""
        # `state_dict` gives other tensors of the same memory, so copies are known by their address.
        masters = {own.data_ptr(): master.data for own, master in zip(*self._masters, strict=True)}
        state: dict[str, Tensor] = self._model.state_dict()
        return {name: masters.get(value.data_ptr(), value) for name, value in state.items()}

    # ---- reference -------------------------------------------------------------------------------------

    def with_reference(self) -> "Policy":
        """Keep the present weights for `reference()`, as a copy in `dtype`; an adapter needs no copy."""
        if not self.lora:
            self._frozen = copy.deepcopy(self._model).requires_grad_(False)
        return self

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """
        Inside, `model` is the reference: without the adapter, or the copy of `with_reference`; without gradients.

        Raises ConfigError if all weights are trained and there is no such copy.
        """
        if not self.lora and self._frozen is None:
            raise ConfigError("There is no reference model: call with_reference() before the first step.")
        self._is_reference = True
        try:
            with self._model.disable_adapter() if self.lora else contextlib.nullcontext(), torch.no_grad():
                yield
        finally:
            self._is_reference = False
