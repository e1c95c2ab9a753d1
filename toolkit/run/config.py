"""
What a run can be told.

One pydantic model: the Python keyword, the key in a task file's [improve] table and the name after `--set`
are the same word. File first, command line wins; the result is saved with the run.
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

DEFAULT_MODEL = "local/qwen2.5-coder-1.5b"


class Config(BaseModel):
    """Settings that every way of improving shares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resumes_from_checkpoint: ClassVar[bool] = False
    """Whether a run that is taken up goes on where it was, and so does not write again what it wrote before."""
    resumable: ClassVar[frozenset[str]] = frozenset(
        {"usd", "tokens", "calls", "minutes", "prices", "concurrency", "timeout", "attempts", "force"}
    )
    """What may differ when a run is taken up again: nothing that its result depends on."""

    model: str = Field(DEFAULT_MODEL, description="the model to improve")
    judge: str = Field("", description="the model that grades, where the reward asks one; else the distiller")
    seed: int = Field(0, description="root of all randomness")
    usd: float | None = Field(None, description="hard limit in dollars")
    tokens: int | None = Field(None, description="hard limit in tokens, input and output")
    calls: int | None = Field(None, description="hard limit in calls")
    minutes: float | None = Field(None, description="hard limit in minutes")
    prices: dict[str, tuple[float, float] | tuple[float, float, float]] = Field(
        {}, description='dollars per million input, output and cached tokens, by model; "*" for all'
    )
    concurrency: int = Field(32, ge=1, description="the most calls at once; less under rate limits")
    timeout: float = Field(600.0, gt=0, description="seconds until a call is given up")
    attempts: int = Field(8, ge=1, description="tries of a call that met an overload or a lost connection")
    turns: int = Field(50, ge=1, description="the most turns of one rollout")
    calling: Literal["auto", "native", "text"] = Field("auto", description="how tools are called")
    temperature: float | None = Field(0.7, ge=0, description="of rollouts while learning")
    top_p: float | None = Field(None, gt=0, le=1, description="of rollouts while learning")
    max_tokens: int = Field(16_384, ge=1, description="the longest reply of a rollout")
    eval_temperature: float | None = Field(0.3, ge=0, description="of rollouts that measure")
    eval_top_p: float | None = Field(0.95, gt=0, le=1, description="of rollouts that measure")
    samples: int = Field(1, ge=1, description="rollouts per row that measure")
    force: bool = Field(False, description="go on where rows or limits are too few to show any gain")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may ask; "" for none."""
        return (self.model, self.judge)

    @property
    def limits(self) -> Limits:
        """The hard limits together. Raises ConfigError for one that is not above zero."""
        return Limits(self.usd, self.tokens, self.calls, self.minutes)

    @property
    def price_list(self) -> dict[str, Price]:
        """Prices given by the user."""
        return {model: Price(*numbers) for model, numbers in self.prices.items()}

    @property
    def eval_sampling(self) -> Sampling:
        """How replies are drawn when measuring and in use; learning has its own settings."""
        return Sampling(self.eval_temperature, self.eval_top_p, self.max_tokens)

    @property
    def rollout_sampling(self) -> Sampling:
        """How replies of rollouts are drawn while learning."""
        return Sampling(self.temperature, self.top_p, self.max_tokens)

    def deployment_settings(self) -> dict[str, Any]:
        """The settings with which an artefact was measured and should be used."""
        shown = self.eval_sampling
        return {"temperature": shown.temperature, "top_p": shown.top_p, "max_tokens": shown.max_tokens}


C = TypeVar("C", bound=Config)


def resolve_config(kind: type[C], *layers: Mapping[str, Any]) -> C:
    """One config from layers, later ones winning. Raises ConfigError naming the first wrong key."""
    merged = {key: value for layer in layers for key, value in layer.items() if value is not None}
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_sentence(kind, error)) from error


def _sentence(kind: type[Config], error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"There is no setting {key!r}{did_you_mean(key, sorted(kind.model_fields))}"
    return f"Setting {key!r}: {first['msg']} (got {first['input']!r})."


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` pairs; a value is TOML where it can be (3, true, [1, 2]), else a plain word."""
    return dict(map(_setting, pairs))


def _setting(pair: str) -> tuple[str, Any]:
    key, sign, value = pair.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set takes key=value, not {pair!r}.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def save_config(config: Config, path: Path) -> None:
    """Write the resolved config as TOML; settings that are not set are left out."""
    import tomli_w

    replace_text(path, tomli_w.dumps(config.model_dump(exclude_none=True, mode="json")))


def load_config(kind: type[C], path: Path) -> C:
    """Read a saved config. Raises ConfigError where it is damaged."""
    try:
        return resolve_config(kind, tomllib.loads(path.read_text("utf-8")))
    except ValueError as error:
        raise ConfigError(f"{path} is not readable TOML: {error}.") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def list_changes(old: Config, new: Config) -> list[str]:
    """Names of settings that differ and on which replies or results depend."""
    before, after = old.model_dump(), new.model_dump()
    return [key for key in after if key not in new.resumable and before.get(key) != after[key]]
