"""
Format of an OpenAI-compatible chat, as the server reads and writes it: JSON to `Request`, `Reply` to JSON. No I/O.

Field names are those of the OpenAI API; pydantic checks them, and its first error becomes the client's message.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgewise.toolkit.model.openai_format import encode_calls
from edgewise.toolkit.types import Message, Reply, Request, Sampling, StopReason, Tool, ToolCall, Usage
from edgewise.toolkit.util.validation import describe_error

ROLES = {"developer": "system"}  # the name of the system role for reasoning models
FINISH_REASONS: Mapping[StopReason, str] = {
    "stop": "stop",
    "length": "length",
    "tools": "tool_calls",
    "turns": "length",
}


class BadRequest(ValueError):
    """A body that is no chat this server can answer; the message says why."""


class TextPart(BaseModel):
    """One part of a message's content; images and audio are refused."""

    type: Literal["text"]
    text: str


class FunctionCall(BaseModel):
    """The function of a tool call."""

    name: str
    arguments: str = "{}"


class CalledTool(BaseModel):
    """A tool call in an assistant's message."""

    id: str
    function: FunctionCall


class ChatMessage(BaseModel):
    """A message of the chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: str | None = None

    def message(self) -> Message:
        """Return it as a `Message`."""
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content or ())
        calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in self.tool_calls or ())
        return Message(ROLES.get(self.role, self.role), text, calls, self.tool_call_id)  # type: ignore[arg-type]


class FunctionSchema(BaseModel):
    """A function that a model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @property
    def tool(self) -> Tool:
        """The function as a `Tool`."""
        return Tool(self.name, self.description or "", self.parameters or {"type": "object", "properties": {}})


class ToolOffer(BaseModel):
    """A tool that a model may call."""

    type: Literal["function"]
    function: FunctionSchema


class ReplySchema(BaseModel):
    """The JSON schema that a reply must match."""

    schema_: dict[str, Any] = Field({}, alias="schema")


class ResponseFormat(BaseModel):
    """The required format of a reply."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: ReplySchema | None = None

    @property
    def schema_(self) -> dict[str, Any] | None:
        """The JSON schema that a reply must match; None for any text. A "json_object" is any object."""
        if self.type == "json_schema" and self.json_schema:
            return self.json_schema.schema_
        # "json_object" has no schema of its own.
        return {"type": "object"} if self.type == "json_object" else None


class StreamOptions(BaseModel):
    """Options of streaming."""

    include_usage: bool = False


NEUTRAL: Mapping[str, Sequence[Any]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True,),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "modalities": (["text"],),
    "audio": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}
"""Parameters that change a reply and can't be passed on, with the values that change nothing; so does None."""


class ChatRequest(BaseModel):
    """
    The body of POST /v1/chat/completions.

    A parameter that changes a reply is passed on or refused (`NEUTRAL`); unknown ones, such as `user`, are ignored.
    """

    model_config = ConfigDict(extra="ignore")

    model: str = ""
    messages: list[ChatMessage] = Field(min_length=1)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    # The newer name of `max_tokens`; clients send one or the other.
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Literal[1] | None = None  # one choice a request; ask again for another
    tools: list[ToolOffer] | None = None
    # Checked by NEUTRAL: forcing a tool can't be passed on to every provider.
    tool_choice: Any = None
    response_format: ResponseFormat | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        for name, neutral in NEUTRAL.items() if isinstance(body, dict) else ():
            value = body.get(name)
            if value is not None and value not in neutral:
                hint = f", or send {' or '.join(map(json.dumps, neutral))}" if neutral else ""
                raise ValueError(f"{name} is not supported here: leave it out{hint}")
        return body

    @property
    def request(self) -> Request:
        """The request, to the model that the client names."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        max_tokens = self.max_completion_tokens or self.max_tokens
        # With "none" the model may call no tool in this reply.
        tools = () if self.tool_choice == "none" else self.tools or ()
        return Request(
            self.model,
            tuple(message.message() for message in self.messages),
            Sampling(self.temperature, self.top_p, max_tokens, self.seed, stop),
            tuple(tool.function.tool for tool in tools),
            schema=self.response_format.schema_ if self.response_format else None,
        )


def parse_chat(body: bytes) -> ChatRequest:
    """Parse the body of a request. Raises BadRequest for the first thing that is wrong."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise BadRequest(describe_error(error)) from error


def render_completion(reply: Reply, head: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chat completion; `head` has its id, its time and the model's name."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.message.content}
    if reply.message.tool_calls:
        # OpenAI sends null and not "" beside tool calls.
        message |= {"content": reply.message.content or None, "tool_calls": encode_calls(reply.message)}
    choice = {"index": 0, "message": message, "finish_reason": FINISH_REASONS[reply.stop]}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": render_usage(reply.usage)}


def stream_events(reply: Reply, head: Mapping[str, Any], with_usage: bool) -> Iterator[str]:
    """Yield the completion as server-sent events: one for each part of it, then the end mark."""
    # A reply is complete before it is sent, so one chunk holds all of its text.
    parts: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if reply.message.content:
        parts.append({"content": reply.message.content})
    if reply.message.tool_calls:
        parts.append({"tool_calls": [{"index": i, **call} for i, call in enumerate(encode_calls(reply.message))]})
    choices = [{"index": 0, "delta": part, "finish_reason": None} for part in parts]
    # The reason to stop comes in a chunk of its own, as OpenAI sends it.
    choices.append({"index": 0, "delta": {}, "finish_reason": FINISH_REASONS[reply.stop]})
    base = {**head, "object": "chat.completion.chunk"}
    chunks = [{**base, "choices": [choice]} for choice in choices]
    if with_usage:
        chunks.append({**base, "choices": [], "usage": render_usage(reply.usage)})
    yield from (f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    yield "data: [DONE]\n\n"


def render_usage(usage: Usage | None) -> dict[str, Any] | None:
    """Return the tokens of a reply, None if they are unknown."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def render_error(sentence: str, kind: str) -> dict[str, Any]:
    """Return the body of an error response."""
    return {"error": {"message": sentence, "type": kind, "param": None, "code": kind}}
