"""Specification of a run that learns lessons: a task, its settings, and what follows from both."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version

from edgewise.experience.config import ExperienceConfig, LessonConfig
from edgewise.experience.distil import pooling
from edgewise.experience.distil.distiller import Distiller
from edgewise.experience.effects import exposure
from edgewise.experience.guard.guard import Guard
from edgewise.experience.library.library import Lesson, Library
from edgewise.experience.prompting.retriever import Retrieval
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.rollout.agent import Agent
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Example, Sampling

GEPA = "0.1.4"
"""The release that `proposer=gepa` is written for; another release makes other calls."""

HARM_CONFIDENCE = 0.975
"""Confidence that a lesson does harm before it is dropped: its whole 95 % interval lies below zero."""


@dataclass(frozen=True)
class LessonSpec:
    """A task and its settings: what every run that learns lessons derives from the two."""

    task: Task
    config: LessonConfig

    @property
    def is_gated(self) -> bool:
        """Whether a new library must score better on validation rows."""
        return self.config.gate == "on"

    @property
    def steps_per_epoch(self) -> int:
        """Maximum steps of one pass over the training rows."""
        return math.ceil(len(self.task.train) / self.config.batch_size)

    @property
    def judge(self) -> str:
        """The model that grades, for rewards that ask a model."""
        return self.config.judge or self.config.distiller or self.config.model

    @property
    def distiller(self) -> Distiller:
        """The model that writes lessons, and the parts of rollouts that it sees."""
        config = self.config
        return Distiller(
            model=config.distiller or config.model,
            sampling=Sampling(config.distiller_temperature, max_tokens=config.distiller_max_tokens),
            truth=config.truth,
            operations=config.operations,
            words=config.words,
            summaries=config.summaries,
        )

    @cached_property
    def guard(self) -> Guard | None:
        """The checks on new lessons; None if they are switched off."""
        return Guard.from_examples(self.task.train) if self.config.guards else None

    @cached_property
    def anchors(self) -> tuple[Example, ...]:
        """
        The rows whose reward may not drop.

        Raises ConfigError for an id that no training or validation row has: test rows decide nothing.
        """
        # Test rows are left out: a decision on them would bias the evaluation.
        rows = {row.id: row for row in (*self.task.train, *self.task.validation)}
        unknown = [id for id in self.config.anchors if id not in rows]
        if unknown:
            raise ConfigError(f"Setting 'anchors': no training or validation row has the id {unknown[0]!r}.")
        return tuple(rows[id] for id in self.config.anchors)


@dataclass(frozen=True)
class ExperienceSpec(LessonSpec):
    """
    A task, its settings, and the library to start from; None is an empty one.

    `parents` are the ids of the stored versions that the library comes from. Raises ConfigError for settings that
    exclude each other, before anything is paid.
    """

    config: ExperienceConfig
    library: Library | None = None
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        config, start, reward = self.config, self.start_library, self.task.reward
        if config.proposer == "gepa":
            self._check_gepa()
        # Ranks compare rollouts of one row; these three need rewards that compare between rows.
        needs_grades = config.select == "vade" or config.allocate == "xrpo" or config.proposer == "gepa"
        if reward.relative and needs_grades:
            raise ConfigError(
                f"The reward {reward.name!r} ranks the runs of a group, which says nothing of how hard a row is: it "
                "goes with select=shuffled and allocate=fixed, and proposer=groups only."
            )
        # A library that the caps would cut could lose a lesson that nobody decided to drop.
        if start.fit_budget(config.lessons, config.library_tokens) != start:
            raise ConfigError(
                f"The library to start from has {len(start)} lessons and {start.tokens:,} tokens: set lessons and "
                "library_tokens to no less, or it would be cut."
            )
        # Always-on lessons go into every prompt and leave no choice to the retriever.
        always = start.with_lessons(lesson for lesson in start.lessons if lesson.always)
        if always.tokens > config.prompt_tokens:
            raise ConfigError(
                f"The always-on lessons take {always.tokens} tokens: set prompt_tokens to no less than that."
            )
        _ = self.anchors  # a wrong id is an error now

    def _check_gepa(self) -> None:
        """Raise ConfigError for another release of GEPA, and for settings of groups, which GEPA does not compare."""
        config = self.config
        if config.direct or config.allocate == "xrpo" or config.placebo:
            raise ConfigError(
                "proposer=gepa searches by itself and compares no groups: leave out direct, placebo and allocate=xrpo."
            )
        # An exact release: its prompts are part of what a run pays for, and of what a replay looks up.
        try:
            installed = version("gepa")
        except PackageNotFoundError:
            installed = "none"
        if installed != GEPA:
            raise ConfigError(
                f"--proposer gepa needs GEPA {GEPA}, and there is {installed}: pip install 'edgewise[gepa]'"
            )

    @property
    def start_library(self) -> Library:
        """The library that learning starts from; an empty one takes its place in the prompt from the settings."""
        return self.library or Library(place=self.config.place, labelled=self.config.labelled)

    @property
    def is_pooled(self) -> bool:
        """Whether lessons are pooled by right answer; see `experience.distil.pooling`."""
        config = self.config
        # Pooling sorts rows by their right answer, which only a distiller that sees the truth may use.
        may_pool = config.pool and config.truth and not config.direct
        return may_pool and pooling.has_recurring_answers(self.task.train)

    @property
    def steps(self) -> int:
        """Maximum steps of the run."""
        return 1 if self.config.direct else self.config.epochs * self.steps_per_epoch

    @property
    def gate_alpha(self) -> float:
        """Error rate of the gate; half of `alpha` is reserved for dropping lessons of the start, if it has any."""
        return self.config.alpha / 2 if self.start_library.lessons else self.config.alpha

    def harm_confidence(self, usual: float) -> Callable[[Lesson], float]:
        """
        Return the confidence that a lesson does harm before it is dropped: `usual` for lessons of this run.

        Dropping a lesson of the start is a change without a gate. Bonferroni: with n lessons and a look after each of
        the steps and at the end, each look may err with alpha / 2 / (n (steps + 1)).
        """
        start = {exposure.measurement_key(lesson) for lesson in self.start_library.lessons}
        strict = 1 - self.config.alpha / 2 / (max(len(start), 1) * (self.steps + 1))
        return lambda lesson: strict if exposure.measurement_key(lesson) in start else usual

    @property
    def inclusion(self) -> float:
        """Probability of a lesson to be in a prompt while learning; 1 if rewards are ranks, which show no effect."""
        return 1.0 if self.task.reward.relative else self.config.inclusion

    @property
    def rollout_agent(self) -> Agent:
        """The agent of rollouts while learning."""
        return self._agent(self.config.rollout_sampling, "rollout")

    def eval_agent(self, payer: str) -> Agent:
        """Return the agent of the evaluation, and of later use."""
        return self._agent(self.config.eval_sampling, payer)

    def _agent(self, sampling: Sampling, payer: str) -> Agent:
        config, task = self.config, self.task
        return Agent(config.model, sampling, task.tools, config.turns, config.calling, payer=payer, world=task.world)

    @cached_property
    def retrieval(self) -> Retrieval:
        """How lessons are chosen for a prompt."""
        return Retrieval(self.config.prompt_tokens, self.config.embedder)
