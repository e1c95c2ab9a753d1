"""Settings of searching for graphs. The paper states none (arXiv 2506.08507): all defaults are ours."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator

from edgewise.experience.config import ExperienceConfig
from edgewise.mas.runtime.context import GraphLimits
from edgewise.toolkit.errors import ArtifactError, ConfigError
from edgewise.toolkit.run.config import Config, resolve_config, split_words

Search = Literal["hrpo", "tabular", "random", "fixed", "edges", "evolution", "lessons", "two_level"]

LIMITS = ("node_seconds", "graph_calls", "graph_tokens", "graph_usd", "graph_concurrency")
"""Settings that limit one graph run."""
DEPLOYMENT = ("turns", "calling", *LIMITS)
"""Settings that an artefact keeps beside the sampling."""


class GraphConfig(Config):
    """All settings of `edgewise improve --by graph`."""

    # What graphs are made of.
    designer: str = Field(
        "", description="model that designs graphs and roles, for search=evolution or lessons and for recruit"
    )
    roles: tuple[str, ...] = Field((), description="names of the roles to build from; by default all usable ones")
    roles_file: str = Field("", description="TOML file with your own roles")
    recruit: int = Field(
        0, ge=0, description="maximum roles that a model may propose; each must improve the reward to be admitted"
    )
    # The search.
    search: Search = Field("hrpo", description="search method for graphs")
    agents: int = Field(4, ge=1, le=32, description="maximum agents in a graph")
    encoder: str = Field("auto", description='encoder of queries: "minilm", "hashing", or an embedding model')
    steps: int = Field(6, ge=1, description="steps of the search")
    batch_size: int = Field(8, ge=1, description="rows per step")
    group_size: int = Field(8, ge=2, description="graphs per row and step")
    # The reward of a graph: quality - cost_weight * cost - rationality_weight * share of useless parts.
    cost_weight: float = Field(
        0.02, ge=0, description="penalty on tokens beyond those of one agent, in multiples of them"
    )
    rationality_weight: float = Field(0.05, ge=0, description="penalty on agents and edges without benefit")
    process: str = Field(
        "", description='"module:function" with process rewards for agents: f(context, outcome); see docs/graphs.md'
    )
    credit: int = Field(8, ge=0, description="ablation runs per step, each without one agent or edge")
    inner: bool = Field(
        True, description="also grade answers of inner agents, without extra calls; off if the reward asks a model"
    )
    # Ablations of HRPO, and its parameters.
    action_reward: bool = Field(True, description="ablation: reward single actions of the construction")
    group_advantage: bool = Field(True, description="ablation: compare whole graphs within a group")
    exemption: int = Field(2, ge=0, description="actions that are exempt from the cost of an action")
    joint: bool = Field(True, description="ablation: one joint policy for roles and edges")
    # The gate: a design must beat one agent on validation rows.
    gate: Literal["on", "off"] = Field(
        "on",
        description='"on" accepts a design only if it scores better on validation rows; "off" accepts what the '
        "search ends with",
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="probability that a run accepts a design that is no better")
    gate_rows: int = Field(200, ge=1, description="maximum validation rows for comparing candidates")
    # Limits of one graph run, which an artefact keeps for later use.
    node_seconds: float = Field(300.0, gt=0, description="timeout of one agent in a graph, in seconds")
    graph_calls: int | None = Field(64, ge=1, description="maximum calls of one graph run")
    graph_tokens: int | None = Field(None, ge=1, description="maximum tokens of one graph run")
    graph_usd: float | None = Field(None, gt=0, description="maximum dollars of one graph run")
    graph_concurrency: int | None = Field(None, ge=1, description="maximum concurrent agents of one graph run")

    @field_validator("roles", mode="before")
    @classmethod
    def _split_roles(cls, value: Any) -> Any:
        return split_words(value)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may call; "" for none."""
        from edgewise.mas.designs.query_encoder import is_client_model

        return (self.model, self.designer, self.judge, self.encoder if is_client_model(self.encoder) else "")

    @property
    def graph_limits(self) -> GraphLimits:
        """The limits of one graph run."""
        return GraphLimits(
            calls=self.graph_calls,
            tokens=self.graph_tokens,
            usd=self.graph_usd,
            node_seconds=self.node_seconds,
            concurrency=self.graph_concurrency,
            prices=self.price_list,
        )

    def deployment_settings(self) -> dict[str, Any]:
        """Return the settings of the evaluation, which an artefact keeps for later use."""
        return {**super().deployment_settings(), **{name: getattr(self, name) for name in DEPLOYMENT}}

    @classmethod
    def from_artifact(cls, settings: Mapping[str, Any]) -> Self:
        """Return the settings that an artefact keeps, with defaults for the others. Raises ArtifactError."""
        try:
            return resolve_config(cls, {name: settings[name] for name in DEPLOYMENT if name in settings})
        except ConfigError as error:
            raise ArtifactError(f"The artefact can't be used as it was measured: {error}") from error

    @classmethod
    def select_known(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a task file without those about lessons alone: the file serves every way."""
        lessons = ExperienceConfig.model_fields.keys() - cls.model_fields.keys()
        return {key: value for key, value in settings.items() if key not in lessons}
