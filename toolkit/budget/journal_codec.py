"""
A call as JSON: how the journal writes it down, and its address there. Pure, no I/O.

All is ASCII, so that any text can be stored, lone surrogates too. A change of this form changes every
address: `toolkit.budget.journal.FORMAT` must change with it.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from edgewise.toolkit.types import BilledTo, Message, Reply, Request, Sampling, Tool, ToolCall, Usage

_dump = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One recorded call: `elapsed` is the run's wall time in seconds when it was written down."""

    key: str
    request: Request
    reply: Reply
    elapsed: float


def compute_key(request: Request) -> str:
    """
    Where a request lies in the journal: the sha256 of all that shapes its reply.

    That is model, messages, tools, schema, sampling, sample index and whether a vector is wanted; who pays is no
    part of it.
    """
    return hashlib.sha256(dump_request(request).encode("ascii")).hexdigest()


def dump_request(request: Request) -> str:
    """The request without its payer, as canonical JSON."""
    s = request.sampling
    return _dump(
        [
            request.model,
            [_message_list(message) for message in request.messages],
            [[tool.name, tool.description, tool.parameters] for tool in request.tools],
            request.schema,
            [_float(s.temperature), _float(s.top_p), s.max_tokens, s.seed, s.stop],
            request.sample,
            *([True] if request.is_embedding else []),  # older journals know only requests for text
        ]
    )


def load_request(text: str, payer: BilledTo) -> Request:
    """The request that `dump_request` wrote, with its payer."""
    model, messages, tools, schema, drawn, sample, *embeds = json.loads(text)
    temperature, top_p, max_tokens, seed, stop = drawn
    sampling = Sampling(temperature, top_p, max_tokens, seed, tuple(stop))
    said = tuple(map(_message, messages))
    called = tuple(Tool(*tool) for tool in tools)
    return Request(model, said, sampling, called, sample, schema, payer, is_embedding=bool(embeds))


def dump_reply(reply: Reply) -> str:
    """The reply as JSON."""
    usage = None if reply.usage is None else [reply.usage.input, reply.usage.cached, reply.usage.output]
    return _dump([_message_list(reply.message), reply.stop, usage, reply.latency, reply.model, reply.error])


def load_reply(text: str) -> Reply:
    """The reply that `dump_reply` wrote."""
    message, stop, usage, latency, model, error = json.loads(text)
    return Reply(_message(message), stop, None if usage is None else Usage(*usage), latency, model, error)


def _message_list(message: Message) -> list[Any]:
    calls = [[call.id, call.name, call.arguments] for call in message.tool_calls]
    return [message.role, message.content, calls, message.tool_call_id]


def _message(data: list[Any]) -> Message:
    role, content, calls, tool_call_id = data
    return Message(role, content, tuple(ToolCall(*call) for call in calls), tool_call_id)


def _float(number: float | None) -> float | None:
    """1 and 1.0 are the same temperature."""
    return None if number is None else float(number)
