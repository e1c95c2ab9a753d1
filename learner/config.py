"""Settings of learning in weights. Papers train other models on other tasks: all defaults are ours."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.run.config import Config

PREFIX, EMBEDDED = "torch/", "local/"
Schedule = Literal["constant", "linear", "cosine"]


class WeightsConfig(Config):
    """Everything `edgewise improve --by weights` can be told."""

    resumes_from_checkpoint: ClassVar[bool] = True
    resumable: ClassVar[frozenset[str]] = Config.resumable | {
        "slice_tokens",
        "checkpointing",
        "sampler",
        "staleness",
        "save_every",
        "monitor",
    }

    model: str = Field("torch/smollm2-135m", description="the model to train")
    method: str = Field("grpo", description="how it is trained; edgewise methods lists them")
    overrides: tuple[str, ...] = Field(
        (),
        description='of the method, such as "loss.high=0.28" or "loss=plain"; --set loss.high=0.28 adds one',
    )
    steps: int = Field(50, ge=0, description="steps of learning")
    batch_size: int = Field(8, ge=1, description="rows per step")
    group_size: int = Field(8, ge=1, description="rollouts per row")
    refills: int = Field(3, ge=1, description="batches of rows that one step may sample, where it refills")
    temperature: float | None = Field(1.0, gt=0, description="of rollouts while learning")
    max_tokens: int = Field(256, ge=1, description="the longest reply of a rollout")
    lr: float | None = Field(None, gt=0, description="learning rate; 1e-5, or 2e-4 with LoRA, by default")
    schedule: Schedule = Field(
        "constant", description='of the learning rate: "linear" and "cosine" fall towards 0'
    )
    warmup: int = Field(0, ge=0, description="steps until the learning rate is reached")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    beta2: float = Field(0.99, gt=0, lt=1, description="of AdamW")
    clip: float = Field(1.0, gt=0, description="the largest norm of a gradient")
    lora: int = Field(0, ge=0, description="rank of LoRA; 0 trains all weights")
    lora_alpha: float | None = Field(None, gt=0, description="of LoRA; twice the rank by default")
    device: str = Field("auto", description='"cuda", "cpu" or "auto"')
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="precision of the forward")
    checkpointing: bool = Field(False, description="recompute activations, which saves memory")
    compile: bool = Field(
        False, description="compile layers with torch.compile for updates; the first step takes longer"
    )
    shard: bool = Field(
        False, description="share weights, gradients and moments out over the processes; see docs/launch.md"
    )
    slice_tokens: int = Field(8192, ge=1, description="tokens of one forward; halved where memory is short")
    staleness: int = Field(0, ge=0, description="steps that a rollout may be behind the weights")
    correction: float | None = Field(
        2.0, gt=0, description="cap on importance weights, where a server samples; see docs/weights.md"
    )
    sampler: str = Field(
        "", description="http://host:port/v1#NAME of a server that samples; else this process"
    )
    save_every: int = Field(10, ge=1, description="steps between two checkpoints")
    embedder: str = Field(
        "", description="model whose vectors find solved rows that are alike (xrpo); common words by default"
    )
    monitor: bool = Field(True, description="go back to the last good checkpoint where learning collapses")

    @classmethod
    def select_known(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a task file's [improve] settings that every way of improving shares, for this one."""
        shared = {key: value for key, value in settings.items() if key in Config.model_fields}
        return shared | ({"model": torch_name(shared["model"])} if "model" in shared else {})

    @field_validator("overrides", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return split_overrides(value)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may ask beside the one that it trains; "" for none."""
        return (self.judge, self.sampler, self.embedder)

    @property
    def learning_rate(self) -> float:
        """The learning rate."""
        return self.lr or (2e-4 if self.lora else 1e-5)


def split_overrides(value: Any) -> Any:
    """Overrides as people write them, with commas: "loss.high=0.28, penalties=kl3,entropy" are two."""
    if not isinstance(value, str):
        return value
    return tuple(filter(None, map(str.strip, re.split(r",(?=[^,=]*=)", value))))


def torch_name(model: str) -> str:
    """The name under which an embedded model's weights are trained: local/NAME is torch/NAME."""
    return PREFIX + model.removeprefix(EMBEDDED) if model.startswith(EMBEDDED) else model


def weights_name(model: str) -> str:
    """What follows torch/ in a model's name. Raises ConfigError for a model whose weights are not at hand."""
    if not model.startswith(PREFIX):
        raise ConfigError(
            f"--by weights trains weights, and those of {model} are not at hand: give --model torch/DIRECTORY, "
            "torch/OWNER/NAME of the Hugging Face hub, or torch/smollm2-135m."
        )
    return model.removeprefix(PREFIX)
