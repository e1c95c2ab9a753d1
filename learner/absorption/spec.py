"""Specification of a run that distils lessons into weights: a task, a library, settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from pydantic import Field

from edgewise.learner.config import WeightsConfig
from edgewise.learner.forecast import forecast
from edgewise.learner.methods.method import Method
from edgewise.learner.spec import WeightsSpec
from edgewise.learner.update.imitation import IMITATION
from edgewise.toolkit import registry
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.run.forecast import Forecast
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Example, Message, Plan

ARMS = 3  # the model alone, after training, and with the lessons in its prompt
FOREIGN = frozenset("method overrides refills staleness sampler correction shard monitor library embedder".split())
"""Settings of reinforcement learning, and those that the library determines."""
MACHINE = ("device", "dtype", "checkpointing", "slice_tokens")
"""Settings of the [weights] table in a task file that apply here too; the others are about reinforcement learning."""
SAMPLING = ("temperature", "top_p")
"""Sampling of rollouts while lessons are learnt, which is not that of the teacher's answers."""


class AbsorbConfig(WeightsConfig):
    """All settings of `edgewise absorb`."""

    steps: int = Field(20, ge=1, description="steps, each of which samples, grades and learns answers to some rows")
    batch_size: int = Field(16, ge=1, description="rows per step")
    group_size: int = Field(4, ge=1, description="answers per row")
    temperature: float | None = Field(0.7, gt=0, description="temperature of answers with lessons in the prompt")
    epochs: int = Field(2, ge=1, description="passes over the selected answers of a step")
    minibatch: int = Field(8, ge=1, description="answers per update")
    lora: int = Field(16, ge=0, description="rank of LoRA; 0 trains all weights")
    save_every: int = Field(5, ge=1, description="steps between two checkpoints")
    library: str = Field("", description="version of the lessons; set by the run")
    embedder: str = Field("", description="model whose embeddings find relevant lessons; set by the library")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may call besides the one that it trains; "" for none."""
        return (self.judge, self.embedder)


class Lessons(Protocol):
    """
    A library as this package sees it; `experience.prompting.prompt_source` implements it.

    `settings` are those of its evaluation, `tokens` the maximum that it adds to a prompt, `embedder` the model that
    chooses lessons.
    """

    version: str
    settings: Mapping[str, Any]
    tokens: int
    embedder: str

    def insert_lessons(self, rows: Sequence[Example]) -> Plan[dict[str, tuple[Message, ...]]]:
        """Return the messages of each row with its relevant lessons, by the row's id."""
        ...


@dataclass(frozen=True)
class AbsorbSpec(WeightsSpec):
    """A task, its settings and the lessons. Raises ConfigError for settings that exclude each other."""

    config: AbsorbConfig
    lessons: Lessons

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task.world:
            raise ConfigError("Lessons are absorbed from answers to rows; this task plays in an environment.")

    @cached_property
    def method(self) -> Method:
        """Imitation of the selected answers."""
        return IMITATION

    @classmethod
    def from_library(cls, task: Task, library: str, settings: Mapping[str, Any]) -> "AbsorbSpec":
        """Resolve the settings of the library, then those of the task file, then `settings`, later ones winning."""
        lessons: Lessons = registry.resolve(registry.PROMPT_LIBRARIES, "lessons")(library)
        if foreign := sorted(FOREIGN & settings.keys()):
            raise ConfigError(f"There is no setting {foreign[0]!r} of absorbing.")
        # Shared settings of the library's evaluation are a good default; the sampling of its learning is not.
        shared = WeightsConfig.select_known({**lessons.settings, **task.settings})
        shared = {key: value for key, value in shared.items() if key not in SAMPLING}
        machine = {key: value for key, value in task.weights.items() if key in MACHINE}
        # Part of the config, so that a run is resumed only with the lessons that it began with.
        origin = {"library": lessons.version, "embedder": lessons.embedder}
        return cls(task, resolve_config(AbsorbConfig, shared, machine, settings, origin), lessons)

    @property
    def forecast(self) -> Forecast:
        """Forecast of the run; loads no model."""
        return forecast(self, arms=ARMS, lessons=self.lessons.tokens)
