"""
The nouns that every package shares: plain, frozen, small.

`Example` is a row; `Rollout` is one run on it; `Group` is several runs of one role on one example, compared
with each other. A rollout that failed is still a rollout: its `stop` says why.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Role = Literal["system", "user", "assistant", "tool"]
StopReason = Literal["stop", "length", "tools", "refused", "timeout", "failed", "turns"]
FAILURES: frozenset[str] = frozenset({"refused", "timeout", "failed"})


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model asks for; `arguments` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message. `tool_call_id` is set only where `role` is "tool"."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call: `parameters` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is drawn. None means: the provider's default."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BilledTo:
    """Who a call is booked on in the ledger; no part of the call's address in the journal."""

    role: str = "rollout"
    step: int = 0
    example: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """
    One question to a model.

    `sample` keeps several draws of the same prompt apart; `schema` asks for a JSON reply of that shape, where
    the provider can enforce it. One that `embeds` has a single message and wants the vector of its text, which
    `toolkit.model.openai_format.vector` reads out of the reply.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    tools: tuple[Tool, ...] = ()
    sample: int = 0
    schema: Mapping[str, Any] | None = None
    payer: BilledTo = BilledTo()
    is_embedding: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more calls: `cached` is the part of `input` that the provider had in its cache."""

    input: int = 0
    cached: int = 0
    output: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.input + other.input, self.cached + other.cached, self.output + other.output)

    @property
    def total(self) -> int:
        """Input and output tokens together."""
        return self.input + self.output


@dataclass(frozen=True, slots=True)
class TokenizedTurn:
    """
    What a model of ours read and wrote, in tokens: ids of the prompt and of the reply, never tokenised again.

    `logprobs` has the log-probability of each token of the reply under the policy and the temperature that drew it.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """
    What came back for a `Request`.

    A request that the provider refused, or that failed for good, is a reply too: `stop` is then in `FAILURES`,
    `message` is empty and `error` says why. `usage` is None where the provider did not report it. `latency` is
    in seconds.
    """

    message: Message
    stop: StopReason = "stop"
    usage: Usage | None = None
    latency: float = 0.0
    model: str = ""
    error: str = ""
    tokens: TokenizedTurn | None = None

    @property
    def failed(self) -> bool:
        """Whether there is an error in place of an answer."""
        return self.stop in FAILURES


@dataclass(frozen=True, slots=True)
class Example:
    """One row: its stable id, the messages it asks, what a right answer is, and everything else in the row."""

    id: str
    messages: tuple[Message, ...]
    target: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


RESERVED_PREFIX = "edgewise:"
"""What the names of those parts of a score begin with that methods set for themselves; no reward may."""


@dataclass(frozen=True, slots=True)
class Score:
    """
    What a reward said of a rollout.

    `value` is the reward; `parts` are its named components; `valid` is False where the reward does not apply
    or the rollout failed; `feedback` is text for whoever learns from it.
    """

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    valid: bool = True
    feedback: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """
    One turn of a rollout: what was seen and what was said.

    `encoded` is None for models behind an API; `calls` holds the rollouts this turn delegated, in order.
    """

    prompt: tuple[Message, ...]
    completion: Message
    usage: Usage | None = None
    latency: float = 0.0
    tokens: TokenizedTurn | None = None
    subrollouts: tuple["Rollout", ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """One run of an agent on an example; `version` names the library (or weights) it ran under."""

    example: str
    role: str
    sample: int
    steps: tuple[Step, ...]
    stop: StopReason
    score: Score | None = None
    seed: int = 0
    version: str = ""
    error: str = ""

    @property
    def id(self) -> str:
        """Its name in rollouts.jsonl, and in the provenance of a lesson."""
        return f"{self.example}/{self.role}/{self.version}/{self.seed}"

    @property
    def answer(self) -> str:
        """The last thing said, or "" if nothing was."""
        return self.steps[-1].completion.content if self.steps else ""

    @property
    def failed(self) -> bool:
        """Whether the run broke instead of answering."""
        return self.stop in FAILURES

    @property
    def usage(self) -> Usage:
        """Tokens of all steps that reported them; delegated runs are not included."""
        return sum((step.usage for step in self.steps if step.usage), Usage())

    @property
    def tool_call_count(self) -> int:
        """How many tool calls were made in all."""
        return sum(len(step.completion.tool_calls) for step in self.steps)


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one role on one example, in the order of their sample index."""

    example: Example
    role: str
    rollouts: tuple[Rollout, ...]

    @property
    def rewards(self) -> tuple[float, ...]:
        """Values of the members with a valid score, in order."""
        return tuple(r.score.value for r in self.rollouts if r.score and r.score.valid)

    @property
    def is_mixed(self) -> bool:
        """Whether the valid rewards differ: exact inequality, never a look at the mean."""
        return len(set(self.rewards)) > 1


@dataclass(frozen=True, slots=True)
class BlockingCall:
    """A function that a plan wants run: awaited if it is async, in a thread of its own otherwise."""

    run: Callable[..., Any]
    args: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class AsyncHost:
    """
    Async code that wants plans run.

    `run(drive)` is awaited, and `await drive(plan)` in it runs a plan as the driver runs this one.
    """

    run: Callable[[Callable[["Plan[Any]"], Awaitable[Any]]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class LocalCalls:
    """Calls that a model in this process answered, for the ledger; `usage` is that of all of them."""

    payer: BilledTo
    model: str
    calls: int
    usage: Usage


T = TypeVar("T")

Plan = Generator[Any, Any, T]
"""
Logic without I/O: a generator that yields what it wants and is sent what came of it.

It may yield a `Request` (is sent a `Reply`), a `BlockingCall` or `AsyncHost` (is sent its result), an `Event` of `tracking.events` (is sent None), or
a list of plans (all run at once; is sent their results in the same order). `toolkit.run.driver.drive` runs one
against a real client.
"""
