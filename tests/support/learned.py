"""The whole loop, played by hand: what it asked, what it noted, and what came of it."""

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
class Learned:
    """A run that ended."""

    outcome: RunOutcome
    requests: list[Request]
    notes: list[Event]

    @property
    def steps(self) -> list[ExperienceStep]:
        return [note.record for note in self.notes if isinstance(note, StepFinished)]

    @property
    def tidied(self) -> FinalPruning:
        return next(note.record for note in self.notes if isinstance(note, EffectsMeasured))

    @property
    def library(self) -> Library:
        return Library.from_json(self.outcome.files["library.json"])

    @property
    def texts(self) -> list[str]:
        return [lesson.text for lesson in self.library.lessons]

    def asked(self, role: str, step: int | None = None) -> list[Request]:
        """The requests of a role, in order."""
        mine = [request for request in self.requests if request.payer.role == role]
        return [request for request in mine if step in (None, request.payer.step)]


def job(task: Task | None = None, library: Library | None = None, **settings: Any) -> ExperienceSpec:
    """The toy task, or another one, with short runs of one epoch."""
    short = {"model": "scripted/toy", "epochs": 1, "batch_size": 12, "pool": False}
    return ExperienceSpec(task or toy.task(), resolve_config(ExperienceConfig, short, settings), library)


def learned(
    answer: Model = toy.play, task: Task | None = None, library: Library | None = None, **settings: Any
) -> Learned:
    """Learn, one call at a time; `answer` plays the model."""
    requests: list[Request] = []
    notes: list[Event] = []

    def record(request: Request) -> str | Reply:
        requests.append(request)
        return answer(request)

    outcome = play(learn(job(task, library, **settings)), record, notes)
    return Learned(outcome, requests, notes)


def text_of(request: Request) -> str:
    """All that a request shows."""
    return "\n".join(message.content for message in request.messages)


def writing(*operations: dict[str, Any], model: Model = toy.play) -> Model:
    """A model whose distiller writes these operations, whatever it is shown."""
    said = json.dumps(list(operations))
    return lambda request: said if request.schema else model(request)
