"""Run the training loop of experience by hand: its requests, its events and its outcome."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.library.library import Library
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training.final_pruning import FinalPruning
from edgewise.experience.training.loop import learn
from edgewise.experience.training.records import ExperienceStep
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.run.runner import RunOutcome
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import EffectsMeasured, Event, StepFinished
from edgewise.toolkit.types import Reply, Request
from tests.support import toy
from tests.support.plans import play

Model = Callable[[Request], str | Reply]


@dataclass(frozen=True)
class LearningRun:
    """A finished run with all requests and events, in order."""

    outcome: RunOutcome
    requests: list[Request]
    events: list[Event]

    @property
    def steps(self) -> list[ExperienceStep]:
        return [event.record for event in self.events if isinstance(event, StepFinished)]

    @property
    def final_pruning(self) -> FinalPruning:
        return next(event.record for event in self.events if isinstance(event, EffectsMeasured))

    @property
    def library(self) -> Library:
        return Library.from_json(self.outcome.files["library.json"])

    @property
    def texts(self) -> list[str]:
        return [lesson.text for lesson in self.library.lessons]

    def requests_of(self, role: str, step: int | None = None) -> list[Request]:
        """Return the requests of a role, in order; of one step where one is given."""
        of_role = [request for request in self.requests if request.payer.role == role]
        return [request for request in of_role if step in (None, request.payer.step)]


def build_spec(task: Task | None = None, library: Library | None = None, **settings: Any) -> ExperienceSpec:
    """Return the spec of a short run of one epoch on the toy task, or on another one."""
    short = {"model": "scripted/toy", "epochs": 1, "batch_size": 12, "pool": False}
    return ExperienceSpec(task or toy.task(), resolve_config(ExperienceConfig, short, settings), library)


def run_learning(
    answer: Model = toy.play, task: Task | None = None, library: Library | None = None, **settings: Any
) -> LearningRun:
    """Learn, one call at a time; `answer` stands in for the model."""
    requests: list[Request] = []
    events: list[Event] = []

    def record(request: Request) -> str | Reply:
        requests.append(request)
        return answer(request)

    outcome = play(learn(build_spec(task, library, **settings)), record, events)
    return LearningRun(outcome, requests, events)


def text_of(request: Request) -> str:
    """Return the text of all messages of a request."""
    return "\n".join(message.content for message in request.messages)


def distil_as(*operations: dict[str, Any], model: Model = toy.play) -> Model:
    """Return a model whose distiller always writes these operations."""
    reply = json.dumps(list(operations))
    return lambda request: reply if request.schema else model(request)
