"""Settings of training weights. Papers train other models on other tasks: all defaults are ours."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.run.config import Config

PREFIX, EMBEDDED = "torch/", "local/"
Schedule = Literal["constant", "linear", "cosine"]


class WeightsConfig(Config):
    """All settings of `edgewise improve --by weights`."""

    resumes_from_checkpoint: ClassVar[bool] = True
    resumable: ClassVar[frozenset[str]] = Config.resumable | {
        "slice_tokens",
        "checkpointing",
        "sampler",
        "staleness",
        "save_every",
        "monitor",
    }

    # The method: a value made of parts, one for each axis (docs/methods.md).
    model: str = Field("torch/smollm2-135m", description="model to train")
    method: str = Field("grpo", description="training method; `edgewise methods` lists them")
    overrides: tuple[str, ...] = Field(
        (), description='changes of the method, such as "loss.high=0.28" or "loss=plain"; --set loss.high=0.28 adds one'
    )
    # Sampling.
    steps: int = Field(50, ge=0, description="training steps")
    batch_size: int = Field(8, ge=1, description="rows per step")
    group_size: int = Field(8, ge=1, description="rollouts per row")
    refills: int = Field(
        3, ge=1, description="maximum batches of rows that one step may sample, for methods that refill"
    )
    temperature: float | None = Field(1.0, gt=0, description="temperature of rollouts while learning")
    max_tokens: int = Field(256, ge=1, description="maximum tokens of a reply in a rollout")
    # The optimizer, AdamW. A learning rate of 1e-5 suits all weights; LoRA has few, which must move further.
    lr: float | None = Field(None, gt=0, description="learning rate; by default 1e-5, or 2e-4 with LoRA")
    schedule: Schedule = Field(
        "constant", description='schedule of the learning rate: "constant", or "linear" or "cosine" decay to 0'
    )
    warmup: int = Field(0, ge=0, description="warmup steps of the learning rate")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    beta2: float = Field(0.99, gt=0, lt=1, description="beta2 of AdamW")
    clip: float = Field(1.0, gt=0, description="maximum norm of a gradient")
    lora: int = Field(0, ge=0, description="rank of LoRA; 0 trains all weights")
    lora_alpha: float | None = Field(None, gt=0, description="alpha of LoRA; by default twice the rank")
    # The machine.
    device: str = Field("auto", description='"cuda", "cpu" or "auto"')
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="precision of the forward pass")
    checkpointing: bool = Field(False, description="recompute activations in the backward pass to save memory")
    compile: bool = Field(
        False, description="compile layers with torch.compile for updates; the first step takes longer"
    )
    shard: bool = Field(
        False, description="shard weights, gradients and optimizer moments over the processes; see docs/launch.md"
    )
    slice_tokens: int = Field(
        8192, ge=1, description="tokens of one forward pass; halved automatically when memory runs out"
    )
    # A separate server that samples (docs/launch.md).
    staleness: int = Field(0, ge=0, description="maximum steps between the weights that sampled and those trained")
    correction: float | None = Field(
        2.0, gt=0, description="cap on importance weights if a server samples; see docs/weights.md"
    )
    sampler: str = Field(
        "", description="server that samples, http://host:port/v1#NAME; by default this process samples"
    )
    # Safety.
    save_every: int = Field(10, ge=1, description="steps between two checkpoints")
    embedder: str = Field(
        "", description="model whose embeddings find similar solved rows (xrpo); by default common words"
    )
    monitor: bool = Field(True, description="return to the last good checkpoint if training collapses")

    @classmethod
    def select_known(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of [improve] in a task file that every way shares, with the model's torch name."""
        shared = {key: value for key, value in settings.items() if key in Config.model_fields}
        return shared | ({"model": torch_name(shared["model"])} if "model" in shared else {})

    @field_validator("overrides", mode="before")
    @classmethod
    def _split_overrides(cls, value: Any) -> Any:
        return split_overrides(value)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may call besides the one that it trains; "" for none."""
        return (self.judge, self.sampler, self.embedder)

    @property
    def learning_rate(self) -> float:
        """The learning rate."""
        return self.lr or (2e-4 if self.lora else 1e-5)


def split_overrides(value: Any) -> Any:
    """Return overrides separated by commas as a tuple: "loss.high=0.28, penalties=kl3,entropy" are two."""
    if not isinstance(value, str):
        return value
    # A comma separates overrides only if a "=" follows before the next comma: values may be lists.
    return tuple(filter(None, map(str.strip, re.split(r",(?=[^,=]*=)", value))))


def torch_name(model: str) -> str:
    """Return the name under which an embedded model is trained: local/NAME is torch/NAME."""
    return PREFIX + model.removeprefix(EMBEDDED) if model.startswith(EMBEDDED) else model


def weights_name(model: str) -> str:
    """Return the part of a model's name after torch/. Raises ConfigError for a model that has no weights here."""
    if not model.startswith(PREFIX):
        raise ConfigError(
            f"--by weights trains weights, and those of {model} are not at hand: give --model torch/DIRECTORY, "
            "torch/OWNER/NAME of the Hugging Face hub, or torch/smollm2-135m."
        )
    return model.removeprefix(PREFIX)
