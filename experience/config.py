"""Settings of learning in words. Defaults are the paper's (arXiv 2510.08191) except where a line says so."""

from typing import Literal

from pydantic import Field

from experience.distil import Summaries
from experience.library import Place
from toolkit.config import Config


class ExperienceConfig(Config):
    """Everything `edgewise improve --by experience` can be told."""

    distiller: str = Field("", description="the model that writes lessons; the model itself by default")
    distiller_temperature: float | None = Field(0.0, ge=0, description="of the distiller")
    distiller_max_tokens: int = Field(16_384, ge=1, description="the longest reply of the distiller")
    epochs: int = Field(3, ge=1, description="passes over the training rows")
    batch_size: int = Field(100, ge=1, description="rows per step")
    group_size: int = Field(5, ge=1, description="rollouts per row; 1 learns from every rollout")
    operations: int = Field(2, ge=1, description="the most that one group may propose (math in the paper: 1)")
    words: int = Field(32, ge=4, description="the longest a lesson may be")
    truth: bool = Field(True, description="whether the distiller sees reference answers and rewards")
    direct: bool = Field(False, description="ablation: lessons written from the tasks alone, no rollouts")
    # The paper summarises every run; a one-word answer is its own summary.
    summaries: Summaries = Field("auto", description='"always", or "auto": short one-turn runs as they are')
    # The paper compares only groups whose rewards differ; "unsolved" also those that no run solved.
    learn_from: Literal["mixed", "unsolved"] = Field("mixed", description='groups: "mixed" or "unsolved"')
    # The paper writes free sentences for every task; see experience.rules.
    pool: bool = Field(True, description="one lesson per right answer, where right answers recur")
    draws: int = Field(5, ge=1, description="candidate libraries drawn, where lessons are pooled")
    swaps: int = Field(2, ge=0, description="lessons swapped between them, one at a time")
    # The authors put the library after the problem, which breaks the prefix that calls of a step share.
    place: Place = Field("before", description='of the library: "system", "before", "after" or "split"')
    try_places: tuple[Place, ...] = Field((), description="other places to compare the best guess at")
    # With the paper's labels a small model answered "G2" (docs/log.md).
    labelled: bool = Field(False, description="whether lessons carry labels, [G0], in the prompt")
    # The paper keeps what the last step wrote; here a library must beat the current one on validation rows.
    screen: bool = Field(True, description="keep a candidate library only if it wins on validation rows")
    screen_rows: int = Field(64, ge=1, description="the most validation rows a candidate is compared on")
    lessons: int = Field(48, ge=1, description="the most lessons in the library")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may ask; "" for none."""
        return (self.model, self.distiller, self.judge)
