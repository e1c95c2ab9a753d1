"""
Events of a run: one class for each thing that happens.

A plan yields an event, the driver passes it on, and the observers of the run receive it: the ledger, the run directory,
the progress display, and `on_event` of `improve`, `design` and `train`. An event is sent once, in the order of the
plan, from the thread of the event loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from edgewise.toolkit.budget.ledger import Ledger
    from edgewise.toolkit.types import Group, LocalCalls, Reply, Request, Rollout, Usage


class Event:
    """Base class of all events."""

    __slots__ = ()


OnEvent = Callable[[Event], None]
"""An observer of a run."""


def ignore_event(event: Event) -> None:
    """Observe nothing: the default of every `on_event`."""


# Records of the packages above: each has its own class, and this room knows only what it needs of them.


class JsonRecord(Protocol):
    """Something that is written to the run directory as JSON."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        ...


class StepSummary(JsonRecord, Protocol):
    """The record of a training step."""

    @property
    def number(self) -> int:
        """Number of the step, from 1."""
        ...

    def summary(self) -> str:
        """Return one line for people."""
        ...


# ---- the run ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunOpened(Event):
    """The run directory and the ledger are ready; no call was made yet."""

    path: Path
    ledger: "Ledger"


@dataclass(frozen=True, slots=True)
class RunStopping(Event):
    """The user asked to stop: calls under way may finish."""


@dataclass(frozen=True, slots=True)
class RunClosed(Event):
    """All clients are closed."""


@dataclass(frozen=True, slots=True)
class StageStarted(Event):
    """A stage begins; `text` describes it for people."""

    text: str


# ---- replies and rollouts --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplyReceived(Event):
    """A model replied."""

    reply: "Reply"


@dataclass(frozen=True, slots=True)
class RolloutFinished(Event):
    """A rollout ended and was graded."""

    rollout: "Rollout"


@dataclass(frozen=True, slots=True)
class GroupsFinished(Event):
    """Groups of rollouts are complete, for rollouts.jsonl."""

    groups: Sequence["Group"]


@dataclass(frozen=True, slots=True)
class GroupsDeferred(Event):
    """Groups were sampled beyond the batch; the next step starts with them."""

    groups: Sequence["Group"]


@dataclass(frozen=True, slots=True)
class StepFinished(Event):
    """A training step ended."""

    record: StepSummary


# ---- calls that no client makes --------------------------------------------------------------------
#
# A model in this process has no client, so neither the journal nor the ledger sees its calls. The plan reports them:
# planned ones first, so that a limit stops the run before the work is done, then those that were sampled.


@dataclass(frozen=True, slots=True)
class CallsPlanned(Event):
    """A local model is about to answer these requests: the limits must allow them."""

    requests: Sequence["Request"]


@dataclass(frozen=True, slots=True)
class CallsSampled(Event):
    """A local model answered; the ledger adds what it used, by payer and model."""

    usages: Sequence["LocalCalls"]


@dataclass(frozen=True, slots=True)
class CallsShared(Event):
    """Calls were not made, since another run of the group had made the same ones."""

    calls: int
    usage: "Usage"


@dataclass(frozen=True, slots=True)
class ModelReleased(Event):
    """Nothing asks this model any more; its connection or its weights may go."""

    model: str


# ---- results of one way of improving ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EffectsMeasured(Event):
    """Lessons were measured one by one at the end of learning, for effects.json."""

    record: JsonRecord


@dataclass(frozen=True, slots=True)
class GraphsMeasured(Event):
    """A design was measured, for wiring.json."""

    record: JsonRecord


@dataclass(frozen=True, slots=True)
class WeightsTrained(Event):
    """Weights were trained; `content` is that of weights.json."""

    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NodeFinished(Event):
    """A node of a graph ended, or its output was taken from another run of the group (`reused`)."""

    run: Any
    reused: bool = False


@dataclass(frozen=True, slots=True)
class RolesAdmitted(Event):
    """Proposed roles were compared with the catalogue's; `content` says which were admitted."""

    content: dict[str, Any]
