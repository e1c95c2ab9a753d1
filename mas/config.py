"""Settings of learning in wiring. The paper states none (arXiv 2506.08507): all defaults are ours."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator

from edgewise.experience.config import ExperienceConfig
from edgewise.mas.runtime.context import GraphLimits
from edgewise.toolkit.errors import ArtifactError, ConfigError
from edgewise.toolkit.run.config import Config, resolve_config

Search = Literal["hrpo", "tabular", "random", "fixed", "edges", "evolution", "lessons"]

LIMITS = ("node_seconds", "graph_calls", "graph_tokens", "graph_usd", "graph_concurrency")
"""Limits of one graph run."""
IN_USE = ("turns", "calling", *LIMITS)
"""Settings that an artefact keeps beside how replies are drawn."""


class GraphConfig(Config):
    """Everything `edgewise improve --by graph` can be told."""

    designer: str = Field(
        "", description="the model that designs where one does (evolution, lessons, recruit)"
    )
    roles: tuple[str, ...] = Field(
        (), description="names of the roles to build from; all that can be used by default"
    )
    roles_file: str = Field("", description="a TOML file with roles of your own")
    recruit: int = Field(0, ge=0, description="roles that a model may propose; each must show its worth")
    search: Search = Field("hrpo", description="how graphs are searched for")
    agents: int = Field(4, ge=1, le=32, description="the most agents in a graph")
    encoder: str = Field("auto", description='of queries: "minilm", "hashing", or an embedding model')
    steps: int = Field(6, ge=1, description="steps of the search")
    batch_size: int = Field(8, ge=1, description="rows per step")
    group_size: int = Field(8, ge=2, description="graphs per row and step")
    cost_weight: float = Field(0.02, ge=0, description="of tokens beyond one agent's, in multiples of it")
    rationality_weight: float = Field(0.05, ge=0, description="of agents and edges without worth")
    process: str = Field(
        "",
        description='"module:function" that rewards single agents: f(context, outcome), see docs/graphs.md',
    )
    credit: int = Field(8, ge=0, description="runs per step that leave out an agent or an edge")
    inner: bool = Field(
        True, description="grade what inner agents answer too, at no call; not where grading asks a model"
    )
    action_reward: bool = Field(True, description="ablation: whether single moves are rewarded")
    group_advantage: bool = Field(True, description="ablation: whether whole graphs are compared")
    exemption: int = Field(2, ge=0, description="moves that are free of the cost of a move")
    joint: bool = Field(True, description="ablation: roles and edges from one joint policy")
    gate: Literal["on", "off"] = Field(
        "on", description='"off" keeps what the search ends with, without a test'
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="the chance that a run accepts what is no better")
    gate_rows: int = Field(200, ge=1, description="the most validation rows that candidates are compared on")
    node_seconds: float = Field(300.0, gt=0, description="seconds until one agent of a graph is given up")
    graph_calls: int | None = Field(64, ge=1, description="the most calls of one graph run")
    graph_tokens: int | None = Field(None, ge=1, description="the most tokens of one graph run")
    graph_usd: float | None = Field(None, gt=0, description="the most dollars of one graph run")
    graph_concurrency: int | None = Field(
        None, ge=1, description="the most agents of one graph run at a time"
    )

    def deployment_settings(self) -> dict[str, Any]:
        """The settings with which an artefact was measured and should be used."""
        return {**super().deployment_settings(), **{key: getattr(self, key) for key in IN_USE}}

    @classmethod
    def from_artifact(cls, settings: Mapping[str, Any]) -> Self:
        """The settings of an artefact; those that it does not keep are the defaults. Raises ArtifactError."""
        try:
            return resolve_config(cls, {key: settings[key] for key in IN_USE if key in settings})
        except ConfigError as error:
            raise ArtifactError(f"The artefact can't be used as it was measured: {error}") from error

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

    @classmethod
    def select_known(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a task file's settings that are not about lessons alone: the file serves all ways of improving."""
        words = ExperienceConfig.model_fields.keys() - cls.model_fields.keys()
        return {key: value for key, value in settings.items() if key not in words}

    @field_validator("roles", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Words with commas are a list, as people write one."""
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may ask; "" for none."""
        from edgewise.mas.designs.query_encoder import is_client_model

        return (self.model, self.designer, self.judge, self.encoder if is_client_model(self.encoder) else "")
