"""
JSON form of a call, as the journal stores it, and the key under which the journal finds it. Pure, no I/O.

All is ASCII, so that any text can be stored, lone surrogates too. A change of this form changes every key:
`toolkit.budget.journal.FORMAT` must change with it.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from edgewise.toolkit.types import BilledTo, Message, Reply, Request, Sampling, Tool, ToolCall, Usage

# Separators and key order are part of the form: the same request must give the same bytes for ever.
_dump = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """Recorded call; `elapsed` is the run's wall time in seconds at which it was recorded."""

    key: str
    request: Request
    reply: Reply
    elapsed: float


def compute_key(request: Request) -> str:
    """
    Return the key of a request in the journal: the sha256 of all that shapes its reply.

    That is model, messages, tools, schema, sampling, sample index and whether it is an embedding, but not the payer.
    """
    return hashlib.sha256(dump_request(request).encode("ascii")).hexdigest()


def dump_request(request: Request) -> str:
    """Return the request without its payer as canonical JSON."""
    s = request.sampling
    # As floats, so that temperature 1 and 1.0 give the same key.
    temperature, top_p = (None if x is None else float(x) for x in (s.temperature, s.top_p))
    return _dump(
        [
            request.model,
            [_dump_message(message) for message in request.messages],
            [[tool.name, tool.description, tool.parameters] for tool in request.tools],
            request.schema,
            [temperature, top_p, s.max_tokens, s.seed, s.stop],
            request.sample,
            *([True] if request.is_embedding else []),  # older journals have no such field
        ]
    )


def load_request(text: str, payer: BilledTo) -> Request:
    """Return the request that `dump_request` wrote, with its payer."""
    model, messages, tools, schema, sampling, sample, *is_embedding = json.loads(text)
    temperature, top_p, max_tokens, seed, stop = sampling
    return Request(
        model,
        tuple(map(_load_message, messages)),
        Sampling(temperature, top_p, max_tokens, seed, tuple(stop)),
        tuple(Tool(*tool) for tool in tools),
        sample,
        schema,
        payer,
        is_embedding=bool(is_embedding),
    )


def dump_reply(reply: Reply) -> str:
    """Return the reply as JSON."""
    usage = None if reply.usage is None else [reply.usage.input, reply.usage.cached, reply.usage.output]
    return _dump([_dump_message(reply.message), reply.stop, usage, reply.latency, reply.model, reply.error])


def load_reply(text: str) -> Reply:
    """Return the reply that `dump_reply` wrote."""
    message, stop, usage, latency, model, error = json.loads(text)
    return Reply(_load_message(message), stop, None if usage is None else Usage(*usage), latency, model, error)


def _dump_message(message: Message) -> list[Any]:
    calls = [[call.id, call.name, call.arguments] for call in message.tool_calls]
    return [message.role, message.content, calls, message.tool_call_id]


def _load_message(data: list[Any]) -> Message:
    role, content, calls, tool_call_id = data
    return Message(role, content, tuple(ToolCall(*call) for call in calls), tool_call_id)
