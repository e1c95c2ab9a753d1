"""
JSON of OpenAI-compatible calls, chat or embedding: `Request` to JSON, JSON to `Reply`. Pure, no I/O.

A quirk is a parameter that one model refuses by name: it is sent under another name, or (None) left out.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgewise.toolkit.errors import ModelError
from edgewise.toolkit.types import Message, Reply, Request, StopReason, ToolCall, Usage

if TYPE_CHECKING:
    import numpy as np

Quirks = Mapping[str, str | None]

_STOP_REASONS: dict[str, StopReason] = {"length": "length", "tool_calls": "tools", "function_call": "tools"}
_OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_OPTIONAL = ("temperature", "top_p", "seed", "stop", "response_format", "logprobs", "return_token_ids")
_ALSO_CALLED = {"response_format": "json_schema"}
# Providers refuse a parameter in free text. These words mean "unknown", unlike those for a wrong value.
_NOT_SUPPORTED = re.compile(
    r"unsupported|not support|n.t support|unrecognized|unexpected|unknown|not permitted|not allowed"
    r"|not available|deprecated|extra (?:inputs|fields)",
    re.IGNORECASE,
)


class MalformedResponse(ValueError):
    """A server's answer that has not the format of a chat completion or an embedding."""


# ---- requests --------------------------------------------------------------------------------------


def encode_request(request: Request, model: str, quirks: Quirks) -> dict[str, Any]:
    """Return the JSON body of a request to `model`, adapted to its quirks."""
    if request.is_embedding:
        return {"model": model, "input": request.messages[-1].content}

    # Only what is set is sent: a provider may refuse a parameter even at its default.
    sampling = request.sampling
    body: dict[str, Any] = {"model": model, "messages": [_encode_message(m) for m in request.messages]}
    for name in ("temperature", "top_p", "max_tokens", "seed"):
        if (value := getattr(sampling, name)) is not None:
            body[name] = value
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if request.tools:
        functions = (
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in request.tools
        )
        body["tools"] = [{"type": "function", "function": function} for function in functions]
    if request.schema is not None:
        schema = {"name": "reply", "schema": request.schema, "strict": _is_strict(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}

    for name, other in quirks.items():
        if (value := body.pop(name, None)) is not None and other:
            body[other] = value
    return body


def _encode_message(message: Message) -> dict[str, Any]:
    if not message.tool_calls:
        plain = {"role": message.role, "content": message.content}
        return plain if message.tool_call_id is None else {**plain, "tool_call_id": message.tool_call_id}
    return {"role": message.role, "content": message.content or None, "tool_calls": encode_calls(message)}


def encode_calls(message: Message) -> list[dict[str, Any]]:
    """Return the tool calls of a message as JSON."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ]


def _is_strict(schema: Any) -> bool:
    """Return whether every object in the schema requires all its keys, as providers demand of a strict schema."""
    if isinstance(schema, list | tuple):
        return all(map(_is_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object":
        is_closed = schema.get("additionalProperties") is False
        if not is_closed or set(schema.get("properties", {})) != set(schema.get("required", ())):
            return False
    return all(map(_is_strict, schema.values()))


def find_quirk(error: str, parameter: str | None, body: Mapping[str, Any]) -> dict[str, str | None]:
    """
    Return the changes to `body` after a provider refused it with the text `error`; {} if none would help.

    `parameter` is the one that the provider names in its error, if any.
    """
    # A limit on tokens may be renamed but is never dropped: the ledger relies on it.
    for name, other in _OTHER_NAME.items():
        is_refused = parameter == name or re.search(rf"\b{name}\b", error)
        if name in body and is_refused and re.search(rf"\b{other}\b", error):
            return {name: other}
    if not _NOT_SUPPORTED.search(error):
        return {}
    changes: dict[str, str | None] = {}
    for name in _OPTIONAL:
        words = (name, _ALSO_CALLED.get(name, name))
        if name in body and (parameter == name or any(re.search(rf"\b{word}\b", error) for word in words)):
            changes[name] = None
    return changes


# ---- replies ---------------------------------------------------------------------------------------


def decode_completion(data: Any, latency: float) -> Reply:
    """
    Return the reply in a chat completion; `latency` is in seconds.

    Raises `MalformedResponse` for JSON that is no chat completion.
    """
    try:
        choice = data["choices"][0]
        content, finish = choice["message"], choice.get("finish_reason")
        text = content.get("content") or ""
        if isinstance(text, list):  # some servers send content as a list of parts
            text = "".join(part.get("text") or "" for part in text)
        calls = []
        for number, call in enumerate(content.get("tool_calls") or ()):
            arguments = _replace_surrogates(call["function"].get("arguments") or "{}")
            calls.append(ToolCall(call.get("id") or f"call_{number}", call["function"]["name"], arguments))
        message = Message("assistant", _replace_surrogates(text), tuple(calls))

        # Some servers say "stop" where the model calls a tool: the calls themselves decide.
        stop = "tools" if message.tool_calls else _STOP_REASONS.get(finish or "", "stop")
        counts, usage = data.get("usage") or {}, None
        if counts.get("prompt_tokens") is not None:
            cached = (counts.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            usage = Usage(counts["prompt_tokens"], cached, counts.get("completion_tokens") or 0)
        reply = Reply(message, stop, usage, latency, data.get("model") or "")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise MalformedResponse(f"no chat completion: {error!r}") from None
    if finish == "content_filter":
        return build_refusal("the provider's content filter stopped the answer", reply)
    if not message.content and content.get("refusal"):
        return build_refusal(content["refusal"], reply)
    return reply


def build_refusal(error: str, reply: Reply = Reply(Message("assistant", ""))) -> Reply:  # noqa: B008 (frozen)
    """Return a reply that says that the request was refused, with the usage and latency of `reply`."""
    return Reply(Message("assistant", ""), "refused", reply.usage, reply.latency, reply.model, error)


def _replace_surrogates(text: str) -> str:
    """Return the text without lone surrogates: a model can write them, but no prompt or file accepts them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


# ---- embeddings ------------------------------------------------------------------------------------

# A vector travels as the text of a reply, so that the journal stores it like any other: float32, little-endian,
# in base64, which takes a quarter of the bytes of JSON. Some servers send this form themselves.


def decode_embedding(data: Any, latency: float) -> Reply:
    """
    Return the reply in an embedding, for `read_vector`; all tokens are input, `latency` is in seconds.

    Raises `MalformedResponse` for JSON that is no embedding.
    """
    try:
        vector = data["data"][0]["embedding"]
        content = pack_vector(_unpack_vector(vector) if isinstance(vector, str) else vector)
        usage = data.get("usage") or {}
        tokens = usage.get("total_tokens", usage.get("prompt_tokens"))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise MalformedResponse(f"no embedding: {error!r}") from None
    usage = None if tokens is None else Usage(input=tokens)
    return Reply(Message("assistant", content), "stop", usage, latency, data.get("model") or "")


def pack_vector(numbers: "Sequence[float] | np.ndarray") -> str:
    """Return a vector as the text of a reply. Raises ValueError for anything but one axis of finite numbers."""
    import numpy as np

    vector = np.asarray(numbers, "<f4")
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
        raise ValueError("a vector is a list of finite numbers")
    return base64.b64encode(vector.tobytes()).decode("ascii")


def read_vector(reply: Reply) -> "np.ndarray":
    """Return the vector (float32, one axis) in the reply to an embedding request. Raises `ModelError` for others."""
    try:
        return _unpack_vector(reply.message.content)
    except ValueError:
        raise ModelError(
            f"{reply.model or 'The model'} answered a request for a vector with something else: is it an "
            "embedding model?"
        ) from None


def _unpack_vector(text: str) -> "np.ndarray":
    import numpy as np

    vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    if not vector.size:
        raise ValueError("an empty vector")
    return vector
