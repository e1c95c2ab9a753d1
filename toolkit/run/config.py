"""
Settings of a run.

One pydantic model for each way of improving. The Python keyword, the key in the [improve] table of a task file and the
name after `--set` are the same word. The file comes first, the command line wins, and the result is saved with the run.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.budget.prices import Price
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.types import Sampling
from edgewise.toolkit.util.files import replace_text
from edgewise.toolkit.util.import_by_name import did_you_mean
from edgewise.toolkit.util.validation import first_error

DEFAULT_MODEL = "local/qwen2.5-coder-1.5b"


class Config(BaseModel):
    """Settings that every way of improving shares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resumes_from_checkpoint: ClassVar[bool] = False
    """Whether a resumed run continues from a checkpoint, so that the lines it wrote before stay in its files."""
    resumable: ClassVar[frozenset[str]] = frozenset(
        {"usd", "tokens", "calls", "minutes", "prices", "concurrency", "timeout", "attempts", "force"}
    )
    """Settings that may differ when a run is resumed: no reply depends on them."""

    # Models, and the seed that every random choice of the run derives from.
    model: str = Field(DEFAULT_MODEL, description="model to improve")
    judge: str = Field(
        "", description="model that grades, for rewards that ask a model; by default the distiller or designer"
    )
    seed: int = Field(0, description="seed of all random choices")
    # Limits. None is no limit; a limit in dollars needs a known price.
    usd: float | None = Field(None, description="hard limit on dollars")
    tokens: int | None = Field(None, description="hard limit on tokens, input and output together")
    calls: int | None = Field(None, description="hard limit on model calls")
    minutes: float | None = Field(None, description="hard limit on wall time in minutes")
    prices: dict[str, tuple[float, float] | tuple[float, float, float]] = Field(
        {}, description='dollars per million input, output and cached tokens, by model; "*" is for all models'
    )
    # Calls. A local server may take minutes for a long reply, hence the long timeout.
    concurrency: int = Field(32, ge=1, description="maximum concurrent calls; lowered automatically on rate limits")
    timeout: float = Field(600.0, gt=0, description="timeout of a call in seconds")
    attempts: int = Field(8, ge=1, description="maximum attempts of a call on overload or a lost connection")
    # Rollouts. Learning needs diverse rollouts, an evaluation needs typical ones: the paper's temperatures
    # (arXiv 2510.08191).
    turns: int = Field(50, ge=1, description="maximum turns of a rollout")
    calling: Literal["auto", "native", "text"] = Field(
        "auto", description='tool calls: "native" API of the provider, "text" in replies, or "auto"'
    )
    temperature: float | None = Field(0.7, ge=0, description="temperature of rollouts while learning")
    top_p: float | None = Field(None, gt=0, le=1, description="top_p of rollouts while learning")
    max_tokens: int = Field(16_384, ge=1, description="maximum tokens of a reply in a rollout")
    eval_temperature: float | None = Field(0.3, ge=0, description="temperature of rollouts for evaluation")
    eval_top_p: float | None = Field(0.95, gt=0, le=1, description="top_p of rollouts for evaluation")
    samples: int = Field(1, ge=1, description="rollouts per row for evaluation")
    force: bool = Field(False, description="run even if the data or limits are too small to detect a gain")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may call; "" for none."""
        return (self.model, self.judge)

    @property
    def limits(self) -> Limits:
        """The hard limits together. Raises ConfigError for one that is not above zero."""
        return Limits(self.usd, self.tokens, self.calls, self.minutes)

    @property
    def price_list(self) -> dict[str, Price]:
        """Prices that the user gave, by model."""
        return {model: Price(*numbers) for model, numbers in self.prices.items()}

    @property
    def eval_sampling(self) -> Sampling:
        """Sampling of evaluation and of later use."""
        return Sampling(self.eval_temperature, self.eval_top_p, self.max_tokens)

    @property
    def rollout_sampling(self) -> Sampling:
        """Sampling of rollouts while learning."""
        return Sampling(self.temperature, self.top_p, self.max_tokens)

    def deployment_settings(self) -> dict[str, Any]:
        """Return the settings of the evaluation, which an artefact keeps for later use."""
        sampling = self.eval_sampling
        return {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens}


C = TypeVar("C", bound=Config)


def resolve_config(kind: type[C], *layers: Mapping[str, Any]) -> C:
    """Return one config from layers of settings, later ones winning. Raises ConfigError for the first wrong key."""
    # None stands for "not given": a keyword argument of None must not win over the task file.
    merged = {key: value for layer in layers for key, value in layer.items() if value is not None}
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        wrong = first_error(error)
        if wrong.type == "extra_forbidden":
            hint = did_you_mean(wrong.field, sorted(kind.model_fields))
            raise ConfigError(f"There is no setting {wrong.field!r}{hint}") from error
        raise ConfigError(f"Setting {wrong.field!r}: {wrong.message} (got {wrong.value!r}).") from error


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse `key=value` pairs; a value is TOML where it can be (3, true, [1, 2]), else a plain word."""
    settings = {}
    for pair in pairs:
        # Only the first "=" separates: a value may be "loss.high=0.28".
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set takes key=value, not {pair!r}.")
        try:
            settings[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = value
    return settings


def split_words(value: Any) -> Any:
    """Return words separated by commas as a tuple, and any other value as it is; for validators of list settings."""
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


def save_config(config: Config, path: Path) -> None:
    """Write the resolved config as TOML; settings that are None are left out, since TOML has no null."""
    import tomli_w

    replace_text(path, tomli_w.dumps(config.model_dump(exclude_none=True, mode="json")))


def load_config(kind: type[C], path: Path) -> C:
    """Read a saved config. Raises ConfigError if it is damaged."""
    try:
        return resolve_config(kind, tomllib.loads(path.read_text("utf-8")))
    except ValueError as error:
        raise ConfigError(f"{path} is not readable TOML: {error}.") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def list_changes(old: Config, new: Config) -> list[str]:
    """Return the names of settings that differ and on which replies or results depend."""
    before, after = old.model_dump(), new.model_dump()
    return [key for key in after if key not in new.resumable and before.get(key) != after[key]]
