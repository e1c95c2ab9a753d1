"""Settings of learning in words. Defaults are the paper's (arXiv 2510.08191) except where a line says so."""

from typing import Any, Literal

from pydantic import Field, field_validator

from edgewise.experience.distil.distiller import Summaries
from edgewise.experience.library.library import Place
from edgewise.toolkit.run.config import Config


class LessonConfig(Config):
    """Settings of every run that learns lessons: one library (`ExperienceConfig`), or two (`mas.two_level.config`)."""

    distiller: str = Field("", description="the model that writes lessons; the model itself by default")
    distiller_temperature: float | None = Field(0.0, ge=0, description="of the distiller")
    distiller_max_tokens: int = Field(16_384, ge=1, description="the longest reply of the distiller")
    epochs: int = Field(3, ge=1, description="passes over the training rows")
    batch_size: int = Field(100, ge=1, description="rows per step")
    group_size: int = Field(5, ge=1, description="rollouts per row; 1 learns from every rollout")
    operations: int = Field(2, ge=1, description="the most that one group may propose (math in the paper: 1)")
    words: int = Field(32, ge=4, description="the longest a lesson may be")
    truth: bool = Field(True, description="whether the distiller sees reference answers and rewards")
    # The paper summarises every run; a one-word answer is its own summary.
    summaries: Summaries = Field("auto", description='"always", or "auto": short one-turn runs as they are')
    # The authors put the library after the problem, which breaks the prefix that calls of a step share.
    place: Place = Field("before", description='of the library: "system", "before", "after" or "split"')
    # With the paper's labels a small model answered "G2" (docs/results/experience.md).
    labelled: bool = Field(False, description="whether lessons carry labels, [G0], in the prompt")
    # The paper keeps what the last step wrote; here a candidate must be shown to be better (docs/decisions/0003).
    gate: Literal["on", "off"] = Field("on", description='"off" keeps every new library, as the paper does')
    alpha: float = Field(
        0.05, gt=0, lt=1, description="the chance that a run accepts anything that is no better"
    )
    gate_rows: int = Field(200, ge=1, description="the most validation rows that candidates are compared on")
    anchors: tuple[str, ...] = Field(
        (), description="ids of training or validation rows that may not get worse"
    )
    guards: bool = Field(
        True, description="check lessons for copied rows, injections, secrets, personal data"
    )
    lessons: int = Field(48, ge=1, description="the most lessons in the library")
    library_tokens: int = Field(20_000, ge=1, description="the most tokens in the library")

    @field_validator("anchors", mode="before")
    @classmethod
    def _split_anchors(cls, value: Any) -> Any:
        return split_words(value)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may call; "" for none."""
        return (self.model, self.distiller, self.judge)


class ExperienceConfig(LessonConfig):
    """All settings of `edgewise improve --by experience`."""

    proposer: Literal["groups", "gepa"] = Field(
        "groups", description='who proposes lessons: "groups" that are compared, or "gepa" (an extra)'
    )
    direct: bool = Field(False, description="ablation: lessons written from the tasks alone, no rollouts")
    # The paper compares only groups whose rewards differ; "unsolved" also those that no run solved.
    learn_from: Literal["mixed", "unsolved"] = Field("mixed", description='groups: "mixed" or "unsolved"')
    # The paper writes free sentences for every task; see experience.distil.pooling.
    pool: bool = Field(True, description="one lesson per right answer, where right answers recur")
    draws: int = Field(5, ge=1, description="candidate libraries drawn, where lessons are pooled")
    try_places: tuple[Place, ...] = Field((), description="other places to compare the best guess at")
    placebo: bool = Field(False, description="also measure lessons off topic, and from shuffled rewards")
    # In the paper every rollout sees the whole library; 1 does that, and measures no effects on the way.
    inclusion: float = Field(0.8, gt=0, le=1, description="chance of a lesson to be shown while learning")
    leave_one_out: int = Field(8, ge=0, description="lessons measured one by one at the end, where undecided")
    select: Literal["shuffled", "vade"] = Field(
        "shuffled", description='rows of a step: "shuffled" epochs, or "vade": where signal is likely'
    )
    allocate: Literal["fixed", "xrpo"] = Field(
        "fixed", description='rollouts of a step: group_size a row, or "xrpo": where rewards are uncertain'
    )
    # The paper pays for groups without signal and throws them away.
    refill: bool = Field(True, description="put the next rows in place of groups without signal")
    rest: bool = Field(True, description="leave out for an epoch what was always solved")
    prompt_tokens: int = Field(
        4000, ge=1, description="the most tokens of lessons in a prompt; fitting ones first"
    )
    embedder: str = Field("", description="model that finds fitting lessons; full-text search by default")

    @field_validator("try_places", mode="before")
    @classmethod
    def _split_places(cls, value: Any) -> Any:
        return split_words(value)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may call; "" for none."""
        return (*super().models, self.embedder)

    def deployment_settings(self) -> dict[str, Any]:
        """The settings with which an artefact was measured and should be used."""
        found = {"prompt_tokens": self.prompt_tokens, "embedder": self.embedder}
        return {**super().deployment_settings(), **found}


def split_words(value: Any) -> Any:
    """Return words with commas as a tuple, as people write a list on a command line; other values as they are."""
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value
