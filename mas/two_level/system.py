"""
A planner and its sub-agents as one system: settings, libraries, and how the two are run together on a row.

`mas.two_level.loop` learns the libraries; `evaluate_two_levels` measures them on held-out rows.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field

from edgewise.experience.distil.distiller import Distiller, Summaries
from edgewise.experience.guard.guard import Guard
from edgewise.experience.library.library import Library, Place
from edgewise.mas.two_level import delegation
from edgewise.mas.two_level.advantages import MAIN, Grading, graded
from edgewise.mas.two_level.delegation import SUB, DelegateAgent, DelegationSpec, delegated
from edgewise.toolkit.errors import ArtifactError, ConfigError
from edgewise.toolkit.evaluation.comparison import Arm, Evaluation, compare, valid_reward
from edgewise.toolkit.evaluation.gate import Scores
from edgewise.toolkit.reward.reward import Reward, RewardSpec, resolve_reward
from edgewise.toolkit.rollout.agent import Agent
from edgewise.toolkit.run.config import Config
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import GroupsFinished, RolloutFinished
from edgewise.toolkit.types import Example, Group, Plan, Rollout, Sampling
from edgewise.toolkit.util.seeds import derive_seed

MEASURING = 0
EXPERT = {
    "kind": "judge",
    "reference": False,
    "rubric": "Does the answer do the sub-task completely and correctly, and give a result that can be used as it is?",
}


class TwoLevelConfig(Config):
    """Settings of learning at two levels. Defaults are those of the papers, except where a line says so."""

    sub_model: str = Field("", description="the sub-agents' model; the planner's by default")
    distiller: str = Field("", description="the model that writes lessons; the model itself by default")
    distiller_temperature: float | None = Field(0.0, ge=0, description="of the distiller")
    distiller_max_tokens: int = Field(16_384, ge=1, description="the longest reply of the distiller")
    summaries: Summaries = Field("auto", description='"always", or "auto": short one-turn runs as they are')
    epochs: int = Field(3, ge=1, description="passes over the training rows")
    batch_size: int = Field(100, ge=1, description="rows per step")
    group_size: int = Field(8, ge=2, description="rollouts per row")
    operations: int = Field(2, ge=1, description="the most that one comparison may propose")
    words: int = Field(32, ge=4, description="the longest a lesson may be")
    learn: Literal["both", "main", "single"] = Field(
        "both",
        description='who learns: "both", "main" (sub-agents as they are), "single": one agent by itself',
    )
    # The paper copies and drops sub runs at random; weights say the same without noise.
    align: Literal["exact", "copies", "off"] = Field("exact", description="how main runs get equal weight")
    depth: int | None = Field(
        None, ge=1, description='D of "copies"; the 99 % quantile of the step by default'
    )
    delegations: int = Field(8, ge=1, description="the most calls of sub-agents in one run")
    shown: int = Field(4, ge=1, description="the most winners, and the most losers, of one comparison")
    siblings: int = Field(
        2, ge=0, description="failed main runs of a row whose sub-agents are compared by themselves"
    )
    planner_prompt: str = Field(delegation.PLANNER_PROMPT, description="what the planner is told")
    sub_prompt: str = Field(delegation.SUB_PROMPT, description="what every sub-agent is told")
    single_prompt: str = Field("", description='what the agent of learn="single" is told')
    place: Place = Field("before", description='of lessons: "system", "before", "after" or "split"')
    # The papers keep what the last step wrote; here it must be shown to be better (docs/decisions/0003).
    gate: Literal["on", "off"] = Field("on", description='"off" keeps every new library')
    alpha: float = Field(
        0.05, gt=0, lt=1, description="the chance that a run accepts anything that is no better"
    )
    gate_rows: int = Field(200, ge=1, description="the most validation rows that candidates are compared on")
    guards: bool = Field(
        True, description="check lessons for copied rows, injections, secrets, personal data"
    )
    lessons: int = Field(48, ge=1, description="the most lessons in each library")
    library_tokens: int = Field(20_000, ge=1, description="the most tokens in each library")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that the run may ask; "" for none."""
        return (*super().models, self.sub_model, self.distiller)


@dataclass(frozen=True, slots=True)
class TwoLibraries:
    """Lessons of the planner and lessons of the sub-agents."""

    planner: Library = Library()
    sub: Library = Library()

    def of(self, level: str) -> Library:
        """The library of a level."""
        return self.sub if level == SUB else self.planner

    @property
    def version(self) -> str:
        """A short hash of everything that a model would see."""
        return hashlib.sha256(f"{self.planner.version} {self.sub.version}".encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"planner": self.planner.to_json(), "sub": self.sub.to_json()}

    @classmethod
    def from_json(cls, data: Any) -> "TwoLibraries":
        """What `to_json` wrote. Raises ArtifactError where it is something else."""
        if not isinstance(data, Mapping) or data.keys() != {"planner", "sub"}:
            raise ArtifactError('These are no two libraries: expected {"planner": ..., "sub": ...}.')
        return cls(Library.from_json(data["planner"]), Library.from_json(data["sub"]))


Sides = tuple[DelegateAgent, DelegateAgent | None]


@dataclass(frozen=True)
class TwoLevelSpec:
    """A task, its settings, who grades the parts, and what roles sub-agents may have: what a whole run shares."""

    task: Task
    config: TwoLevelConfig
    expert: Reward
    terms: DelegationSpec

    def sides(self, libraries: TwoLibraries, sampling: Sampling, payer: str) -> Sides:
        """Planner and sub-agent under these libraries; the task's tools are the sub-agent's, or the single agent's."""
        c, tools = self.config, self.task.tools
        agent = Agent(c.model, sampling, tools, c.turns, c.calling, role=MAIN, payer=payer)
        if c.learn == "single":
            return DelegateAgent(agent, c.single_prompt, libraries.planner), None
        planner = DelegateAgent(replace(agent, tools=()), c.planner_prompt, libraries.planner)
        below = replace(agent, model=c.sub_model or c.model, role=SUB)
        return planner, DelegateAgent(below, c.sub_prompt, libraries.sub)

    @property
    def grading(self) -> Grading:
        """How runs are graded while learning."""
        judge = self.config.judge or self.config.distiller or self.config.model
        expert = self.expert if SUB in self.learning else None
        return Grading(self.task.reward, expert, judge, self.terms)

    @property
    def distiller(self) -> Distiller:
        """The model that writes lessons."""
        c = self.config
        sampling = Sampling(c.distiller_temperature, max_tokens=c.distiller_max_tokens)
        return Distiller(
            c.distiller or c.model,
            sampling,
            operations=c.operations,
            words=c.words,
            summaries=c.summaries,
        )

    @cached_property
    def guard(self) -> Guard | None:
        """What checks new lessons; None where that is switched off."""
        return Guard.from_examples(self.task.train) if self.config.guards else None

    @property
    def learning(self) -> tuple[str, ...]:
        """The levels that learn."""
        return (MAIN, SUB) if self.config.learn == "both" else (MAIN,)


def prepared(
    task: Task,
    config: TwoLevelConfig,
    expert: RewardSpec = EXPERT,
    roles: Mapping[str, str] | None = None,
) -> TwoLevelSpec:
    """
    The setup of a run. `expert` is anything that a task's reward can be; `roles` are names with instructions.

    Raises RewardError for an expert that is none, and ConfigError for roles that are none and for a task that is played
    in an environment.
    """
    if task.world:
        raise ConfigError(
            f"The task is played in the environment {task.world.name}, and a planner answers once: improve it by "
            "weights or by experience."
        )
    return TwoLevelSpec(task, config, resolve_reward(expert), DelegationSpec(roles or {SUB: ""}, config.delegations))


def rolled(setup: TwoLevelSpec, libraries: TwoLibraries, row: Example, number: int) -> Plan[list[Rollout]]:
    """K runs on a row, graded at both levels."""
    sides = setup.sides(libraries, setup.config.rollout_sampling, "rollout")

    def one(sample: int) -> Plan[Rollout]:
        run = yield from _run(setup, libraries, sides, row, sample, number)
        done = yield from graded(setup.grading, row, run)
        yield RolloutFinished(done)
        return done

    return (yield [one(sample) for sample in range(setup.config.group_size)])


def _run(
    setup: TwoLevelSpec, libraries: TwoLibraries, sides: Sides, row: Example, sample: int, step: int
) -> Plan[Rollout]:
    seed = derive_seed(setup.config.seed, step, row.id, sample)
    run = yield from delegated(*sides, row, setup.terms, sample=sample, seed=seed)
    # A planner's answers depend on both libraries.
    return replace(run, version=libraries.version)


def measure(
    setup: TwoLevelSpec, libraries: TwoLibraries, rows: Sequence[Example], payer: str = "measure"
) -> Plan[Scores]:
    """(E,) mean reward of planner and sub-agents together on rows, as they are used; a run that failed counts as 0."""
    groups = yield from measured(setup, libraries, rows, payer)
    return np.array([np.mean([valid_reward(run) or 0.0 for run in group.rollouts]) for group in groups])


def measured(
    setup: TwoLevelSpec, libraries: TwoLibraries, rows: Sequence[Example], payer: str = "measure"
) -> Plan[list[Group]]:
    """`samples` runs on each row as in use, graded by the task's reward alone."""
    sides = setup.sides(libraries, setup.config.eval_sampling, payer)

    def one(row: Example, sample: int) -> Plan[Rollout]:
        run = yield from _run(setup, libraries, sides, row, sample, MEASURING)
        score = yield from setup.task.reward.grade(row, run, setup.grading.judge)
        done = replace(run, score=score)
        yield RolloutFinished(done)
        return done

    def group(row: Example) -> Plan[Group]:
        members = yield [one(row, sample) for sample in range(setup.config.samples)]
        return Group(row, MAIN, tuple(members))

    found = yield [group(row) for row in rows]
    yield GroupsFinished(found)
    return found


def evaluate_two_levels(
    task: Task,
    config: TwoLevelConfig,
    arms: Mapping[str, TwoLibraries],
    *,
    roles: Mapping[str, str] | None = None,
) -> Plan[Evaluation]:
    """Run libraries on the task's test rows, on the same samples, and compare them with the first of them."""
    setup = prepared(task, config, roles=roles)
    found = yield [measured(setup, each, task.test) for each in arms.values()]
    return compare([Arm(name, tuple(groups)) for name, groups in zip(arms, found, strict=True)])
