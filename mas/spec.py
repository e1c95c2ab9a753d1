"""Specification of a search for graphs: a task, its settings, and what follows from both."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec

from edgewise.mas.config import GraphConfig
from edgewise.mas.credit.reward import RewardWeights
from edgewise.mas.designs.interface import Query
from edgewise.mas.graph.construction import Space
from edgewise.mas.graph.roles import Roles, catalogue, filter_roles
from edgewise.mas.runtime.context import GraphLimits, ProcessReward
from edgewise.mas.runtime.node import Team
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tools.python_tool import python_tool
from edgewise.toolkit.tools.tool import FunctionTool
from edgewise.toolkit.types import Example, Sampling
from edgewise.toolkit.util.import_by_name import did_you_mean, load_object

PLAIN_ROLE = "solver"
"""The role of a single agent, the baseline of every search; see `mas.graph.graph.single`."""


@dataclass(frozen=True)
class GraphSpec:
    """
    A task and its settings.

    `extra_roles` are added to the catalogue's. `queries` are the rows as searchers see them, by id, from the encoder of
    that name; `mas.training.loop.prepare_spec` fills them in. Raises ConfigError for a task in an environment, for a
    reward that only ranks the rollouts of a group, and for unknown roles.
    """

    task: Task
    config: GraphConfig
    extra_roles: Roles = field(default_factory=dict)
    queries: Mapping[str, Query] = field(default_factory=dict)
    encoder: str = ""

    def __post_init__(self) -> None:
        # A graph maps a question to an answer; an environment needs a reply to every observation.
        if self.task.world:
            raise ConfigError(
                f"The task is played in the environment {self.task.world.name}, and graphs answer once: improve it by "
                "weights or by experience."
            )
        # Trials of a row use different graphs, which have no group to be ranked in.
        if self.task.reward.relative:
            raise ConfigError(
                f"The reward {self.task.reward.name!r} ranks the runs of a group; graphs need one that grades a run "
                "by itself."
            )
        # Checked before a search starts: the import would fail in the middle of it.
        if self.config.search in ("hrpo", "tabular") and find_spec("torch") is None:
            raise ConfigError(
                f"search={self.config.search} needs torch: pip install 'edgewise[learner]', or --set "
                "search=evolution, which asks a model."
            )
        if self.config.search == "tabular" and not self.config.joint:
            raise ConfigError("joint=false is for search=hrpo: a table has a number for each whole action.")
        _ = self.roles, self.process  # a wrong name is an error now, before anything is paid

    @cached_property
    def tools(self) -> dict[str, FunctionTool]:
        """Tools that agents may call, by name: the task's own, and Python in its sandbox."""
        # A tool of the task may replace the built-in Python.
        return {"python": python_tool(), **{tool.tool.name: tool for tool in self.task.tools}}

    @cached_property
    def catalogue(self) -> Roles:
        """All roles, the catalogue's and the user's, whose tools the task has."""
        known = {**catalogue(*filter(None, [self.config.roles_file])), **self.extra_roles}
        return filter_roles(known, self.tools)

    @cached_property
    def roles(self) -> Roles:
        """The roles that graphs are built from: that of a single agent, and those of the settings or all."""
        names = (*self.config.roles, *self.extra_roles) if self.config.roles else tuple(self.catalogue)
        for name in names:
            if name not in self.catalogue:
                reason = did_you_mean(name, sorted(self.catalogue))
                raise ConfigError(f"There is no role {name!r} that this task has the tools for{reason}")
        # The single agent comes first and is always there: it is the baseline of every comparison.
        return {name: self.catalogue[name] for name in dict.fromkeys((PLAIN_ROLE, *names))}

    @cached_property
    def process(self) -> ProcessReward | None:
        """The user's process reward, called when an agent ends."""
        return load_object(self.config.process, self.task.path) if self.config.process else None

    @cached_property
    def space(self) -> Space:
        """The space of graphs to search."""
        return Space.from_roles(self.roles, self.config.agents)

    @property
    def feature_count(self) -> int:
        """Number of features of a query."""
        return next((query.features.size for query in self.queries.values()), 0)

    @property
    def reward_weights(self) -> RewardWeights:
        """Weights of the parts of the reward."""
        return RewardWeights(self.config.cost_weight, self.config.rationality_weight)

    @property
    def limits(self) -> GraphLimits:
        """The limits of one graph run."""
        return self.config.graph_limits

    @property
    def judge(self) -> str:
        """The model that grades, for rewards that ask a model."""
        return self.config.judge or self.config.designer or self.config.model

    @property
    def designer(self) -> str:
        """The model that designs graphs and roles, for searches that ask a model."""
        return self.config.designer or self.config.model

    def build_team(self, payer: str, sampling: Sampling) -> Team:
        """Return the settings that all nodes of a graph share."""
        config = self.config
        own = tuple(tool.tool.name for tool in self.task.tools)
        return Team(self.catalogue, config.model, sampling, self.tools, config.turns, config.calling, payer, own)

    def query_of(self, row: Example) -> Query:
        """Return a row as searchers see it."""
        return self.queries[row.id]
