"""
The shape of an OpenAI-compatible call, chat or embedding: `Request` to JSON, JSON to `Reply`. Pure, no I/O.

A `Quirk` is a parameter that one model refuses by name: it is sent under another name, or (None) not at all.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgewise.toolkit.errors import ModelError
from edgewise.toolkit.types import Message, Reply, Request, StopReason, Tool, ToolCall, Usage

if TYPE_CHECKING:
    import numpy as np

Quirks = Mapping[str, str | None]

_STOPS: dict[str, StopReason] = {"length": "length", "tool_calls": "tools", "function_call": "tools"}
_OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_MAY_BE_DROPPED = ("temperature", "top_p", "seed", "stop", "response_format", "logprobs", "return_token_ids")
_ALSO_CALLED = {"response_format": "json_schema"}
_NOT_SUPPORTED = re.compile(
    r"unsupported|not support|n.t support|unrecognized|unexpected|unknown|not permitted|not allowed"
    r"|not available|deprecated|extra (?:inputs|fields)",
    re.IGNORECASE,
)


class MalformedResponse(ValueError):
    """A server answered, but not in the format of a chat completion or an embedding."""


def encode_request(request: Request, model: str, quirks: Quirks) -> dict[str, Any]:
    """The JSON body of a chat completion, or an embedding, by `model`, with its `quirks` minded."""
    if request.is_embedding:
        return {"model": model, "input": request.messages[-1].content}
    sampling = request.sampling
    body: dict[str, Any] = {"model": model, "messages": [_message(m) for m in request.messages]}
    for name in ("temperature", "top_p", "max_tokens", "seed"):
        if (value := getattr(sampling, name)) is not None:
            body[name] = value
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if request.schema is not None:
        body["response_format"] = _response_format(request.schema)
    for name, other in quirks.items():
        if (value := body.pop(name, None)) is not None and other:
            body[other] = value
    return body


def decode_completion(data: Any, latency: float) -> Reply:
    """
    The reply in a chat completion; `latency` in seconds.

    Raises `MalformedResponse` where the JSON is not a chat completion.
    """
    try:
        choice = data["choices"][0]
        said = choice["message"]
        finish = choice.get("finish_reason")
        message = Message("assistant", _text(said.get("content")), _tool_calls(said.get("tool_calls")))
        reply = Reply(
            message, _stop(message, finish), _usage(data.get("usage")), latency, data.get("model") or ""
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise MalformedResponse(f"no chat completion: {error!r}") from None
    if finish == "content_filter":
        return build_refusal("the provider's content filter stopped the answer", reply)
    if not message.content and said.get("refusal"):
        return build_refusal(said["refusal"], reply)
    return reply


def decode_embedding(data: Any, latency: float) -> Reply:
    """
    The reply in an embedding: see `vector`; all tokens are input, `latency` is in seconds.

    Raises `MalformedResponse` where the JSON is not an embedding.
    """
    try:
        found = data["data"][0]["embedding"]
        content = pack_vector(_floats(found) if isinstance(found, str) else found)
        usage = data.get("usage") or {}
        spent = usage.get("total_tokens", usage.get("prompt_tokens"))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise MalformedResponse(f"no embedding: {error!r}") from None
    booked = None if spent is None else Usage(input=spent)
    return Reply(Message("assistant", content), "stop", booked, latency, data.get("model") or "")


def pack_vector(numbers: "Sequence[float] | np.ndarray") -> str:
    """
    A vector as a reply's text: its float32, little-endian, in base64, a quarter of what JSON would take.

    Raises ValueError for what is no vector of finite numbers.
    """
    import numpy as np

    found = np.asarray(numbers, "<f4")
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise ValueError("a vector is a list of finite numbers")
    return base64.b64encode(found.tobytes()).decode("ascii")


def read_vector(reply: Reply) -> "np.ndarray":
    """
    The vector (float32, one axis) that answers a request which `embeds`.

    Raises `ModelError` where the reply holds something else.
    """
    try:
        return _floats(reply.message.content)
    except ValueError:
        raise ModelError(
            f"{reply.model or 'The model'} answered a request for a vector with something else: is it an "
            "embedding model?"
        ) from None


def _floats(text: str) -> "np.ndarray":
    import numpy as np

    found = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    if not found.size:
        raise ValueError("an empty vector")
    return found


def build_refusal(error: str, reply: Reply = Reply(Message("assistant", ""))) -> Reply:  # noqa: B008 (frozen)
    """A reply that says: this request was refused; usage and latency are those of `reply`."""
    return Reply(Message("assistant", ""), "refused", reply.usage, reply.latency, reply.model, error)


def find_quirk(error: str, parameter: str | None, body: Mapping[str, Any]) -> dict[str, str | None]:
    """
    What to change in `body` after a provider refused it with the text `error`; {} if nothing would help.

    `parameter` is the one that the provider blames, if it says so. A limit on tokens may be renamed but is
    never dropped: the ledger counts on it.
    """
    for name, other in _OTHER_NAME.items():
        blamed = parameter == name or re.search(rf"\b{name}\b", error)
        if name in body and blamed and re.search(rf"\b{other}\b", error):
            return {name: other}
    if not _NOT_SUPPORTED.search(error):
        return {}
    return {name: None for name in _MAY_BE_DROPPED if name in body and _blames(name, error, parameter)}


def _blames(name: str, error: str, parameter: str | None) -> bool:
    words = (name, _ALSO_CALLED.get(name, name))
    return parameter == name or any(re.search(rf"\b{word}\b", error) for word in words)


def _message(message: Message) -> dict[str, Any]:
    if not message.tool_calls:
        plain = {"role": message.role, "content": message.content}
        return plain if message.tool_call_id is None else {**plain, "tool_call_id": message.tool_call_id}
    calls = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
        for c in message.tool_calls
    ]
    return {"role": message.role, "content": message.content or None, "tool_calls": calls}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    spec = {"name": "reply", "schema": schema, "strict": _closed(schema)}
    return {"type": "json_schema", "json_schema": spec}


def _closed(schema: Any) -> bool:
    """Whether every object in the schema names all its keys: what providers ask of a strict schema."""
    if isinstance(schema, list | tuple):
        return all(map(_closed, schema))
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or set(properties) != set(
            schema.get("required", ())
        ):
            return False
    return all(map(_closed, schema.values()))


def _text(content: Any) -> str:
    """Plain text of a message's content, which some servers send as a list of parts."""
    if isinstance(content, list):
        return _valid("".join(part.get("text") or "" for part in content))
    return _valid(content or "")


def _valid(text: str) -> str:
    """Without lone surrogates: a model can write them, but nobody accepts them in a prompt or a file."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _tool_calls(calls: Any) -> tuple[ToolCall, ...]:
    return tuple(_tool_call(call, f"call_{number}") for number, call in enumerate(calls or ()))


def _tool_call(call: Any, default_id: str) -> ToolCall:
    function = call["function"]
    return ToolCall(call.get("id") or default_id, function["name"], _valid(function.get("arguments") or "{}"))


def _stop(message: Message, finish: str | None) -> StopReason:
    """Some servers say "stop" where the model asks for a tool: the calls themselves decide."""
    return "tools" if message.tool_calls else _STOPS.get(finish or "", "stop")


def _usage(usage: Any) -> Usage | None:
    if not usage or usage.get("prompt_tokens") is None:
        return None
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        usage["prompt_tokens"], details.get("cached_tokens") or 0, usage.get("completion_tokens") or 0
    )
