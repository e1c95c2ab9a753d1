"""One job of absorbing lessons: a task, a library, settings, and what follows from them."""

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

ARMS = 3
FOREIGN = frozenset(
    "method overrides refills staleness sampler correction shard monitor library embedder".split()
)
"""Settings that are about learning by reward, or that the library says."""
MACHINE = ("device", "dtype", "checkpointing", "slice_tokens")
"""Settings of a task file's [weights] table that count here too: others are about learning by reward."""
DRAWING = ("temperature", "top_p")
"""How rollouts are drawn while lessons are learnt, which is not how answers are drawn here."""


class AbsorbConfig(WeightsConfig):
    """Everything `edgewise absorb` can be told."""

    steps: int = Field(20, ge=1, description="steps: answers to some rows are drawn, graded and learnt from")
    batch_size: int = Field(16, ge=1, description="rows per step")
    group_size: int = Field(4, ge=1, description="answers per row")
    temperature: float | None = Field(0.7, gt=0, description="of answers with the lessons in the prompt")
    epochs: int = Field(2, ge=1, description="passes over the answers of a step that are learnt from")
    minibatch: int = Field(8, ge=1, description="answers per update")
    lora: int = Field(16, ge=0, description="rank of LoRA; 0 trains all weights")
    save_every: int = Field(5, ge=1, description="steps between two checkpoints")
    library: str = Field("", description="version of the lessons; found by itself")
    embedder: str = Field("", description="model that finds fitting lessons; the library says which")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may ask beside the one that it trains; "" for none."""
        return (self.judge, self.embedder)


class Lessons(Protocol):
    """
    What is known here of a library: see `experience.prompting.prompt_source`.

    `settings` are those that it was measured with, `tokens` the most that it adds to a prompt, `embedder` the model
    that is asked which lessons fit.
    """

    version: str
    settings: Mapping[str, Any]
    tokens: int
    embedder: str

    def insert_lessons(self, rows: Sequence[Example]) -> Plan[dict[str, tuple[Message, ...]]]:
        """The messages of rows with the lessons that fit each, by the row's id."""
        ...


@dataclass(frozen=True)
class AbsorbSpec(WeightsSpec):
    """A task, its settings and the lessons. Raises ConfigError for what does not go together."""

    config: AbsorbConfig
    lessons: Lessons

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task.world:
            raise ConfigError("Lessons are absorbed from answers to rows; this task plays in an environment.")

    @cached_property
    def method(self) -> Method:
        """Imitation of what was kept."""
        return IMITATION

    @classmethod
    def from_library(cls, task: Task, library: str, named: Mapping[str, Any]) -> "AbsorbSpec":
        """The job of absorbing a library: its own settings first, then the task file's, then those that are `named`."""
        lessons: Lessons = registry.resolve(registry.PROMPT_LIBRARIES, "lessons")(library)
        if foreign := sorted(FOREIGN & named.keys()):
            raise ConfigError(f"There is no setting {foreign[0]!r} of absorbing.")
        usual = WeightsConfig.select_known({**lessons.settings, **task.settings})
        asked = {key: value for key, value in usual.items() if key not in DRAWING}
        machine = {key: value for key, value in task.weights.items() if key in MACHINE}
        shown = {"library": lessons.version, "embedder": lessons.embedder}
        return cls(task, resolve_config(AbsorbConfig, asked, machine, named, shown), lessons)

    @property
    def forecast(self) -> Forecast:
        """What a run will take; loads no model."""
        return forecast(self, arms=ARMS, lessons=self.lessons.tokens)
