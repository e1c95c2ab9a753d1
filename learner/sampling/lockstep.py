"""Rollouts by a policy of ours: plans that run in step, so that what they ask at one time is one batch."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgewise.toolkit.tracking.events import CallsPlanned, CallsSampled, Event, ReplyReceived
from edgewise.toolkit.types import BilledTo, BlockingCall, Plan, Reply, Request, LocalCalls, T, Usage

Answer = Callable[[Sequence[Request]], Sequence[Reply]]


@dataclass(slots=True)
class _Strand:
    """A plan on its way; `parent` waits for it and for its siblings."""

    plan: Plan[Any]
    parent: "_Strand | None" = None
    place: int = 0
    results: list[Any] = field(default_factory=list)
    waiting: int = 0


def run_lockstep(plans: Sequence[Plan[T]], model: str, answer: Answer) -> Plan[list[T]]:
    """
    Run plans together and return their results: whatever all of them ask `model` at one time goes to `answer` at once.

    All else that they want is passed on, and waited for first. So batches depend on what was answered, never on when.
    """
    root = _Strand(iter(()), results=[None] * len(plans), waiting=len(plans))  # type: ignore[arg-type]
    ready: list[tuple[_Strand, Any]] = [(_Strand(p, root, i), None) for i, p in enumerate(plans)]
    asks: list[tuple[_Strand, Request]] = []
    while ready or asks:
        others: list[tuple[_Strand, Any]] = []
        while ready:
            strand, value = ready.pop(0)
            try:
                want = strand.plan.send(value)
            except StopIteration as done:
                ready += _ended(strand, done.value)
                continue
            match want:
                case Request(model=name) if name == model:
                    asks.append((strand, want))
                case list():
                    strand.results, strand.waiting = [None] * len(want), len(want)
                    ready += [(_Strand(p, strand, i), None) for i, p in enumerate(want)]
                    if not want:
                        ready.append((strand, []))
                case Event():
                    ready.insert(0, (strand, (yield want)))
                case _:
                    others.append((strand, want))
        if others:
            found = yield [_wanted(want) for _, want in others]
            ready = [(strand, value) for (strand, _), value in zip(others, found, strict=True)]
        elif asks:
            replies = yield from _answered([request for _, request in asks], answer)
            ready = [(strand, reply) for (strand, _), reply in zip(asks, replies, strict=True)]
            asks = []
    return root.results


def _ended(strand: _Strand, value: Any) -> list[tuple[_Strand, Any]]:
    """Hand a result to whoever waits for it; who goes on now."""
    parent = strand.parent
    assert parent is not None
    parent.results[strand.place] = value
    parent.waiting -= 1
    return [] if parent.waiting or parent.parent is None else [(parent, parent.results)]


def _wanted(want: Any) -> Plan[Any]:
    return (yield want)


def _answered(requests: Sequence[Request], answer: Answer) -> Plan[Sequence[Reply]]:
    """Replies to a batch, if the limits allow it; they are booked."""
    yield CallsPlanned(requests)
    replies: Sequence[Reply] = yield BlockingCall(answer, (requests,))
    for reply in replies:
        yield ReplyReceived(reply)
    yield CallsSampled(booked(requests, replies))
    return replies


def booked(requests: Sequence[Request], replies: Sequence[Reply]) -> list[LocalCalls]:
    """What a batch used, by payer and model."""
    books: dict[tuple[BilledTo, str], list[Usage]] = defaultdict(list)
    for request, reply in zip(requests, replies, strict=True):
        books[request.payer, request.model].append(reply.usage or Usage())
    return [LocalCalls(*key, len(used), sum(used, Usage())) for key, used in books.items()]
