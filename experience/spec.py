"""One job: a task and its settings, and what follows from both."""

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
"""The release that `proposer=gepa` is written for; what another one asks would differ."""

HARM_CONFIDENCE = 0.975
"""How sure it must be that a lesson does harm: its whole 95 % interval lies below zero."""


@dataclass(frozen=True)
class LessonSpec:
    """A task and its settings: what every run that learns lessons derives from the two."""

    task: Task
    config: LessonConfig

    @property
    def is_gated(self) -> bool:
        """Whether a new library must be shown to be better."""
        return self.config.gate == "on"

    @property
    def steps_per_epoch(self) -> int:
        """The most steps of one pass over the training rows."""
        return math.ceil(len(self.task.train) / self.config.batch_size)

    @property
    def judge(self) -> str:
        """The model that grades, where the reward asks one."""
        return self.config.judge or self.config.distiller or self.config.model

    @property
    def distiller(self) -> Distiller:
        """The model that writes lessons, and what it may see."""
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
        """What checks new lessons; None where that is switched off."""
        return Guard.from_examples(self.task.train) if self.config.guards else None

    @cached_property
    def anchors(self) -> tuple[Example, ...]:
        """
        The rows that may not get worse.

        Raises ConfigError for an id that is none of a training or validation row: test rows decide nothing.
        """
        rows = {row.id: row for row in (*self.task.train, *self.task.validation)}
        unknown = [id for id in self.config.anchors if id not in rows]
        if unknown:
            raise ConfigError(f"Setting 'anchors': no training or validation row has the id {unknown[0]!r}.")
        return tuple(rows[id] for id in self.config.anchors)


@dataclass(frozen=True)
class ExperienceSpec(LessonSpec):
    """
    A task, its settings, and the library to start from (an empty one where None is given).

    `parents` are the ids of stored versions that the given library is.
    """

    config: ExperienceConfig
    library: Library | None = None
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        config = self.config
        if config.proposer == "gepa":
            _check_gepa(config)
        chosen = [config.select == "vade", config.allocate == "xrpo", config.proposer == "gepa"]
        if self.task.reward.relative and any(chosen):
            raise ConfigError(
                f"The reward {self.task.reward.name!r} ranks the runs of a group, which says nothing of how hard "
                "a row is: it goes with select=shuffled and allocate=fixed, and proposer=groups only."
            )
        if (
            self.start_library.fit_budget(self.config.lessons, self.config.library_tokens)
            != self.start_library
        ):
            raise ConfigError(
                f"The library to start from has {len(self.start_library)} lessons and {self.start_library.tokens:,} tokens: set "
                "lessons and library_tokens to no less, or it would be cut."
            )
        always = self.start_library.with_lessons(x for x in self.start_library.lessons if x.always)
        if always.tokens > config.prompt_tokens:
            raise ConfigError(
                f"The always-on lessons take {always.tokens} tokens: set prompt_tokens to no less than that."
            )
        _ = self.anchors  # wrong ids are found now, before anything is paid

    @property
    def start_library(self) -> Library:
        """The library that learning starts from; an empty one has its place in the prompt from the settings."""
        return self.library or Library(place=self.config.place, labelled=self.config.labelled)

    @property
    def is_pooled(self) -> bool:
        """Whether lessons are pooled by right answer (see `experience.distil.pooling`)."""
        config = self.config
        return (
            config.pool
            and config.truth
            and not config.direct
            and pooling.has_recurring_answers(self.task.train)
        )

    @property
    def steps(self) -> int:
        """The most steps that a run can take."""
        return 1 if self.config.direct else self.config.epochs * self.steps_per_epoch

    @property
    def gate_alpha(self) -> float:
        """What the gate may spend of `alpha`; half is for dropping lessons that the run was given."""
        return self.config.alpha / 2 if self.start_library.lessons else self.config.alpha

    def harm_confidence(self, usual: float) -> Callable[[Lesson], float]:
        """
        How sure it must be that a lesson does harm before it goes: `usual` for what this run wrote.

        To drop a lesson that the run was given is a change without the gate, so all of them at all looks
        together may err with half of `alpha`.
        """
        given = {exposure.measurement_key(x) for x in self.start_library.lessons}
        firm = 1 - self.config.alpha / 2 / (max(len(given), 1) * (self.steps + 1))
        return lambda lesson: firm if exposure.measurement_key(lesson) in given else usual

    @property
    def inclusion(self) -> float:
        """The chance of a lesson to be shown while learning; 1 where rewards are ranks, which measure no effect."""
        return 1.0 if self.task.reward.relative else self.config.inclusion

    @property
    def rollout_agent(self) -> Agent:
        """The model as it is run while learning."""
        return self._agent(self.config.rollout_sampling, "rollout")

    def eval_agent(self, payer: str) -> Agent:
        """The model as it is run to measure, and in use."""
        return self._agent(self.config.eval_sampling, payer)

    def _agent(self, sampling: Sampling, payer: str) -> Agent:
        config = self.config
        tools, world = self.task.tools, self.task.world
        return Agent(config.model, sampling, tools, config.turns, config.calling, payer=payer, world=world)

    @cached_property
    def retrieval(self) -> Retrieval:
        """How lessons are chosen for a prompt."""
        return Retrieval(self.config.prompt_tokens, self.config.embedder)


def _check_gepa(config: ExperienceConfig) -> None:
    """Raise ConfigError where GEPA is not the release that this was written for, or where groups are asked for."""
    if config.direct or config.allocate == "xrpo" or config.placebo:
        raise ConfigError(
            "proposer=gepa searches by itself and compares no groups: leave out direct, placebo and allocate=xrpo."
        )
    try:
        found = version("gepa")
    except PackageNotFoundError:
        found = "none"
    if found != GEPA:
        raise ConfigError(
            f"--proposer gepa needs GEPA {GEPA}, and there is {found}: pip install 'edgewise[gepa]'"
        )
