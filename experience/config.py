"""Settings of learning lessons. Defaults are the paper's (arXiv 2510.08191) except where a comment says so."""

from typing import Any, Literal

from pydantic import Field, field_validator

from edgewise.experience.distil.distiller import Summaries
from edgewise.experience.library.library import Place
from edgewise.toolkit.run.config import Config, split_words


class LessonConfig(Config):
    """Settings of every run that learns lessons: one library (`ExperienceConfig`), or two (`mas.two_level.config`)."""

    # The model that writes lessons.
    distiller: str = Field("", description="model that writes lessons; by default the model itself")
    distiller_temperature: float | None = Field(0.0, ge=0, description="temperature of the distiller")
    distiller_max_tokens: int = Field(16_384, ge=1, description="maximum tokens of a reply of the distiller")
    # Sampling: the paper's numbers, 3 epochs of 100 rows with 5 rollouts each.
    epochs: int = Field(3, ge=1, description="passes over the training rows")
    batch_size: int = Field(100, ge=1, description="rows per step")
    group_size: int = Field(5, ge=1, description="rollouts per row; with 1, every rollout is learnt from")
    operations: int = Field(
        2, ge=1, description="maximum operations that one group may propose; 1 in the paper for mathematics"
    )
    words: int = Field(32, ge=4, description="maximum words of a lesson")
    truth: bool = Field(True, description="show reference answers and rewards to the distiller")
    # The paper summarises every rollout; a one-word answer is its own summary.
    summaries: Summaries = Field(
        "auto", description='summaries of rollouts: "always", or "auto", which leaves short ones as they are'
    )
    # The authors put the library after the problem, which breaks the prefix that calls of a step share.
    place: Place = Field(
        "before", description='place of the library in the prompt: "system", "before", "after" or "split"'
    )
    # With the paper's labels a small model answered "G2" (docs/results/experience.md).
    labelled: bool = Field(False, description="label lessons in the prompt: [G0], [G1], ...")
    # The paper keeps what the last step wrote; here a candidate must be shown to be better (docs/decisions/0003).
    gate: Literal["on", "off"] = Field(
        "on",
        description='"on" accepts a library only if it scores better on validation rows; "off" accepts every '
        "library, as in the paper",
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="probability that a run accepts any change that is no better")
    gate_rows: int = Field(200, ge=1, description="maximum validation rows for comparing candidates")
    anchors: tuple[str, ...] = Field((), description="ids of training or validation rows whose reward may not drop")
    # The library.
    guards: bool = Field(True, description="check lessons for copied rows, prompt injection, secrets and personal data")
    lessons: int = Field(48, ge=1, description="maximum lessons in the library")
    library_tokens: int = Field(20_000, ge=1, description="maximum tokens of the library")

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
        "groups",
        description='how lessons are proposed: "groups" compares rollouts of a row, "gepa" searches with GEPA '
        "(pip install 'edgewise[gepa]')",
    )
    direct: bool = Field(False, description="ablation: write lessons from the rows alone, without rollouts")
    # The paper compares only groups whose rewards differ.
    learn_from: Literal["mixed", "unsolved"] = Field(
        "mixed",
        description='groups to learn from: "mixed" have different rewards, "unsolved" adds rows that no rollout solved',
    )
    # The paper writes free sentences for every task; see experience.distil.pooling.
    pool: bool = Field(True, description="write one lesson per right answer, if right answers recur")
    draws: int = Field(5, ge=1, description="candidate libraries per step, if lessons are pooled")
    try_places: tuple[Place, ...] = Field((), description="other places in the prompt to compare the best candidate at")
    placebo: bool = Field(
        False, description="also evaluate two controls: off-topic lessons, and lessons from shuffled rewards"
    )
    # In the paper every rollout sees the whole library; 1 does that, and measures no effects on the way.
    inclusion: float = Field(0.8, gt=0, le=1, description="probability of a lesson to be in a prompt while learning")
    leave_one_out: int = Field(
        8, ge=0, description="maximum lessons with an unclear effect to measure one by one at the end"
    )
    select: Literal["shuffled", "vade"] = Field(
        "shuffled", description='rows of a step: "shuffled" epochs, or "vade", which prefers rows with signal'
    )
    allocate: Literal["fixed", "xrpo"] = Field(
        "fixed",
        description='rollouts of a step: "fixed" gives each row group_size, "xrpo" gives more to rows with '
        "uncertain rewards",
    )
    # The paper pays for groups without signal and throws them away.
    refill: bool = Field(True, description="replace groups without signal by the next rows")
    rest: bool = Field(True, description="skip rows for one epoch if every rollout solved them")
    prompt_tokens: int = Field(
        4000, ge=1, description="maximum tokens of lessons in a prompt; the most relevant lessons come first"
    )
    embedder: str = Field("", description="model whose embeddings find relevant lessons; by default full-text search")

    @field_validator("try_places", mode="before")
    @classmethod
    def _split_places(cls, value: Any) -> Any:
        return split_words(value)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may call; "" for none."""
        return (*super().models, self.embedder)

    def deployment_settings(self) -> dict[str, Any]:
        """Return the settings of the evaluation, which an artefact keeps for later use."""
        own = {"prompt_tokens": self.prompt_tokens, "embedder": self.embedder}
        return {**super().deployment_settings(), **own}
