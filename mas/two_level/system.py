"""A planner and its sub-agents as one system: how the two are run together on rows, while learning and in use."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from edgewise.experience.spec import LessonSpec
from edgewise.mas.two_level.advantages import MAIN, Grading, grade_rollout
from edgewise.mas.two_level.config import TwoLevelConfig
from edgewise.mas.two_level.delegation import SUB, DelegateAgent, DelegationSpec, run_planner
from edgewise.mas.two_level.libraries import TwoLibraries
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.evaluation.comparison import valid_reward
from edgewise.toolkit.evaluation.gate import Scores
from edgewise.toolkit.reward.reward import Reward, RewardSpec, resolve_reward
from edgewise.toolkit.rollout.agent import Agent
from edgewise.toolkit.tools.tool import FunctionTool
from edgewise.toolkit.tracking.events import GroupsFinished, RolloutFinished
from edgewise.toolkit.types import Example, Group, Plan, Rollout, Sampling
from edgewise.toolkit.util.seeds import derive_seed

EVALUATION_STEP = 0
"""The step in the seeds of rollouts that measure: learning has 1 and up."""


@dataclass(frozen=True)
class TwoLevelSpec(LessonSpec):
    """
    A task and the settings of a planner with sub-agents.

    `custom_expert` grades a sub-agent's answer to its sub-task in place of the setting `expert`: anything that a task's
    reward can be. Raises RewardError for an expert that is none, and ConfigError for roles that are none and for a task
    that is played in an environment.
    """

    config: TwoLevelConfig
    custom_expert: RewardSpec | None = None

    def __post_init__(self) -> None:
        if self.task.world:
            raise ConfigError(
                f"The task is played in the environment {self.task.world.name}, and a planner answers once: improve it "
                "by weights or by experience."
            )
        # Errors in either are raised now, before anything is paid.
        _ = self.expert, self.delegation, self.anchors

    @cached_property
    def expert(self) -> Reward:
        """The reward of a sub-agent's answer."""
        spec = self.config.expert if self.custom_expert is None else self.custom_expert
        return resolve_reward(spec, self.task.path)

    @cached_property
    def delegation(self) -> DelegationSpec:
        """What the planner may ask for."""
        return DelegationSpec(self.config.sub_roles, self.config.delegations)

    @property
    def learning_levels(self) -> tuple[str, ...]:
        """The levels that learn."""
        return (MAIN, SUB) if self.config.learn == "both" else (MAIN,)

    @property
    def grading(self) -> Grading:
        """How rollouts are graded while learning."""
        expert = self.expert if SUB in self.learning_levels else None
        return Grading(self.task.reward, expert, self.judge, self.delegation)


def build_agents(
    config: TwoLevelConfig, tools: tuple[FunctionTool, ...], libraries: TwoLibraries, sampling: Sampling, payer: str
) -> tuple[DelegateAgent, DelegateAgent | None]:
    """Return planner and sub-agent under these libraries; None for the second where one agent works by itself."""
    agent = Agent(config.model, sampling, tools, config.turns, config.calling, role=MAIN, payer=payer)
    if config.learn == "single":
        return DelegateAgent(agent, config.single_prompt, libraries.planner), None
    # The task's tools are the sub-agents': the planner only delegates.
    planner = DelegateAgent(replace(agent, tools=()), config.planner_prompt, libraries.planner)
    sub = replace(agent, model=config.sub_model or config.model, role=SUB)
    return planner, DelegateAgent(sub, config.sub_prompt, libraries.sub)


def run_system(
    spec: TwoLevelSpec, libraries: TwoLibraries, row: Example, sample: int, *, step: int, sampling: Sampling, payer: str
) -> Plan[Rollout]:
    """Run planner and sub-agents once on a row, ungraded; `version` is that of both libraries."""
    agents = build_agents(spec.config, spec.task.tools, libraries, sampling, payer)
    seed = derive_seed(spec.config.seed, step, row.id, sample)
    rollout = yield from run_planner(*agents, row, spec.delegation, sample=sample, seed=seed)
    # A planner's answer depends on the sub-agents' lessons too.
    return replace(rollout, version=libraries.version)


def sample_rollouts(spec: TwoLevelSpec, libraries: TwoLibraries, row: Example, step: int) -> Plan[list[Rollout]]:
    """Sample K rollouts on a row, graded at both levels."""

    def sample_one(sample: int) -> Plan[Rollout]:
        sampling = spec.config.rollout_sampling
        rollout = yield from run_system(spec, libraries, row, sample, step=step, sampling=sampling, payer="rollout")
        graded = yield from grade_rollout(spec.grading, row, rollout)
        yield RolloutFinished(graded)
        return graded

    return (yield [sample_one(sample) for sample in range(spec.config.group_size)])


def measure_rows(
    spec: TwoLevelSpec, libraries: TwoLibraries, rows: Sequence[Example], payer: str = "measure"
) -> Plan[list[Group]]:
    """Run `samples` rollouts on each row as in use, graded by the task's reward alone."""

    def measure_one(row: Example, sample: int) -> Plan[Rollout]:
        sampling = spec.config.eval_sampling
        rollout = yield from run_system(
            spec, libraries, row, sample, step=EVALUATION_STEP, sampling=sampling, payer=payer
        )
        score = yield from spec.task.reward.grade(row, rollout, spec.judge)
        graded = replace(rollout, score=score)
        yield RolloutFinished(graded)
        return graded

    def measure_row(row: Example) -> Plan[Group]:
        rollouts = yield [measure_one(row, sample) for sample in range(spec.config.samples)]
        return Group(row, MAIN, tuple(rollouts))

    groups = yield [measure_row(row) for row in rows]
    yield GroupsFinished(groups)
    return groups


def mean_rewards(
    spec: TwoLevelSpec, libraries: TwoLibraries, rows: Sequence[Example], payer: str = "measure"
) -> Plan[Scores]:
    """Return (E,) the mean reward of each row, as in use; a rollout that failed counts as 0."""
    groups = yield from measure_rows(spec, libraries, rows, payer)
    return np.array([np.mean([valid_reward(run) or 0.0 for run in group.rollouts]) for group in groups])
