"""Settings of `edgewise improve --by graph --set search=two_level`."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field

from edgewise.experience.config import ExperienceConfig, LessonConfig
from edgewise.mas.two_level.delegation import PLANNER_PROMPT, SUB, SUB_PROMPT
from edgewise.toolkit.errors import ArtifactError, ConfigError
from edgewise.toolkit.run.config import resolve_config

EXPERT: Mapping[str, Any] = {
    "kind": "judge",
    "reference": False,
    "rubric": "Does the answer do the sub-task completely and correctly, and give a result that can be used as it is?",
}
"""The reward of a sub-agent's answer, where the user gives none."""

DEPLOYED = (
    "turns",
    "calling",
    "sub_model",
    "learn",
    "sub_roles",
    "delegations",
    "planner_prompt",
    "sub_prompt",
    "single_prompt",
)
"""Settings that an artefact holds beside how replies are sampled: they are part of the system that was measured."""


class TwoLevelConfig(LessonConfig):
    """Settings of learning at two levels. Defaults are those of the papers, except where a comment says so."""

    search: Literal["two_level"] = Field("two_level", description="learn lessons for a planner and for its sub-agents")
    sub_model: str = Field("", description="the sub-agents' model; the planner's by default")
    sub_roles: dict[str, str] = Field({SUB: ""}, description="sub-agents by name, with the instruction of each")
    expert: dict[str, Any] | str = Field(
        dict(EXPERT), description="reward of a sub-agent's answer to its sub-task; a judge by default"
    )
    group_size: int = Field(8, ge=2, description="rollouts per row")
    learn: Literal["both", "main", "single"] = Field(
        "both", description='levels that learn: "both", "main" (planner only), "single" (one agent without sub-agents)'
    )
    # The paper copies and drops sub rollouts at random; weights have the same expectation without the noise.
    align: Literal["exact", "copies", "off"] = Field(
        "exact", description='sub-agents\' rollouts: "exact", "copies" (paper), "off"'
    )
    depth: int | None = Field(None, ge=1, description='D of align="copies"; default: the 99 % quantile of the step')
    delegations: int = Field(8, ge=1, description="maximum calls of sub-agents in one rollout")
    shown: int = Field(4, ge=1, description="maximum winners, and maximum losers, in one comparison")
    siblings: int = Field(
        2, ge=0, description="failed planner rollouts of a row whose sub-agents are compared with each other"
    )
    planner_prompt: str = Field(PLANNER_PROMPT, description="system prompt of the planner")
    sub_prompt: str = Field(SUB_PROMPT, description="system prompt of every sub-agent")
    single_prompt: str = Field("", description='system prompt of the agent of learn="single"')

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may call; "" for none."""
        return (*super().models, self.sub_model)

    def deployment_settings(self) -> dict[str, Any]:
        """Return the settings with which an artefact was measured and should be used."""
        return {**super().deployment_settings(), **{name: getattr(self, name) for name in DEPLOYED}}

    @classmethod
    def select_known(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return a task file's settings without those of other ways: the file serves all of them."""
        foreign = ExperienceConfig.model_fields.keys() - cls.model_fields.keys()
        return {name: value for name, value in settings.items() if name not in foreign}

    @classmethod
    def from_artifact(cls, settings: Mapping[str, Any]) -> Self:
        """Return the settings that an artefact holds; the others are the defaults. Raises ArtifactError."""
        try:
            return resolve_config(cls, {name: settings[name] for name in DEPLOYED if name in settings})
        except ConfigError as error:
            raise ArtifactError(f"The artefact can't be used as it was measured: {error}") from error
