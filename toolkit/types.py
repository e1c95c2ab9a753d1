"""
Nouns that every package shares: plain, frozen, small.

From a dataset to an update:

    Example ──▶ Rollout (one episode of an agent) ──▶ Group (several rollouts of one example) ──▶ advantages
                   └─ Step (one turn): prompt → completion

A failed rollout is still a rollout: `stop` says why it ended, and `error` gives the reason.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Role = Literal["system", "user", "assistant", "tool"]

# Why a reply or a rollout ended. "length": max_tokens were used up; "tools": the model calls tools; "refused": the
# provider rejects this request; "failed": no answer after all retries; "turns": the agent's turns were used up.
StopReason = Literal["stop", "length", "tools", "refused", "timeout", "failed", "turns"]
FAILURES: frozenset[str] = frozenset({"refused", "timeout", "failed"})


# ---- messages and model calls ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Call of a tool by a model; `arguments` is the JSON text as the model wrote it, which may be broken."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """Chat message. `tool_call_id` is set only where `role` is "tool"."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """Description of a function that a model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of a completion; None takes the provider's default."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BilledTo:
    """Account of a call in the ledger: who made it, in which step, for which row."""

    role: str = "rollout"
    step: int = 0
    example: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """
    One call of a model, chat completion or embedding.

    `sample` tells several samples of the same prompt apart. `schema` is a JSON schema of the reply, which the
    provider enforces where it can. With `is_embedding` the one message is embedded, and
    `toolkit.model.openai_format.read_vector` reads the vector from the reply.
    """

    # The journal finds a recorded reply by all fields but `payer`: see `toolkit.budget.journal_codec`.
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
    """Tokens of one or more calls; `cached` is the part of `input` that came from the provider's prompt cache."""

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
    Token ids of a prompt and its completion, as a model in this process read and wrote them.

    `logprobs` has one log-probability per completion token, under the policy and the temperature that sampled it.
    """

    # Training uses these ids as they are: to tokenize the text again may give other ids than those sampled.
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """
    Reply to a `Request`.

    A refused or failed request is a reply too: then `stop` is in `FAILURES`, `message` is empty and `error` gives
    the reason. `usage` is None where the provider did not report it. `latency` is in seconds.
    """

    message: Message
    stop: StopReason = "stop"
    usage: Usage | None = None
    latency: float = 0.0
    model: str = ""
    error: str = ""
    tokens: TokenizedTurn | None = None  # None for models behind an API

    @property
    def failed(self) -> bool:
        """Whether there is an error in place of an answer."""
        return self.stop in FAILURES


# ---- data and rollouts -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Example:
    """Row of a dataset: a stable id, the prompt, the right answer, and the other columns."""

    id: str
    messages: tuple[Message, ...]
    target: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


# Prefix of score parts that learning methods set for themselves. A reward may not use it.
RESERVED_PREFIX = "edgewise:"


@dataclass(frozen=True, slots=True)
class Score:
    """
    Result of a reward function.

    `value` is the reward and `parts` are its named components. `valid` is False where the reward does not apply or
    the rollout failed. `feedback` is text for whoever learns from the rollout.
    """

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    valid: bool = True
    feedback: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """
    One turn of a rollout: the messages that the model received and the message that it wrote.

    `tokens` is None for models behind an API. `subrollouts` holds the rollouts that this turn delegated, in order.
    """

    prompt: tuple[Message, ...]
    completion: Message
    usage: Usage | None = None
    latency: float = 0.0
    tokens: TokenizedTurn | None = None
    subrollouts: tuple["Rollout", ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """One episode of an agent on an example; `version` names the library, graph or weights that it ran under."""

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
        """Identifier in rollouts.jsonl and in the provenance of a lesson."""
        return f"{self.example}/{self.role}/{self.version}/{self.seed}"

    @property
    def answer(self) -> str:
        """Text of the last completion, "" without steps."""
        return self.steps[-1].completion.content if self.steps else ""

    @property
    def failed(self) -> bool:
        """Whether the rollout broke before the agent answered."""
        return self.stop in FAILURES

    @property
    def usage(self) -> Usage:
        """Tokens of all steps that reported them, without delegated rollouts."""
        return sum((step.usage for step in self.steps if step.usage), Usage())

    @property
    def tool_call_count(self) -> int:
        """Number of tool calls in all steps."""
        return sum(len(step.completion.tool_calls) for step in self.steps)


@dataclass(frozen=True, slots=True)
class Group:
    """Rollouts of one role on one example, in the order of their sample index."""

    example: Example
    role: str
    rollouts: tuple[Rollout, ...]

    @property
    def rewards(self) -> tuple[float, ...]:
        """Values of the valid scores, in order."""
        return tuple(r.score.value for r in self.rollouts if r.score and r.score.valid)

    @property
    def is_mixed(self) -> bool:
        """Whether the valid rewards differ. Equal rewards give advantages of 0: nothing to learn from."""
        # Exact inequality: the deviation from a rounded mean can be nonzero where all rewards are equal.
        return len(set(self.rewards)) > 1


# ---- plans -----------------------------------------------------------------------------------------

Plan = Generator[Any, Any, T]
"""
Logic without I/O: a generator that yields requests and receives replies.

    def translate(text: str) -> Plan[str]:
        reply = yield Request("openai/gpt-4o-mini", (Message("user", f"Translate: {text}"),))
        return reply.message.content

    def translate_all(texts: list[str]) -> Plan[list[str]]:
        return (yield [translate(text) for text in texts])  # all at once
"""
# A driver runs a plan: it carries out what the plan yields and sends the result back in.
#
#     the plan yields             the driver                         the plan receives
#     Request                     calls the model                    a Reply
#     BlockingCall                runs the function                  its result
#     AsyncHost                   awaits the code                    its result
#     a list of plans             runs all of them concurrently      their results, in the same order
#     an Event                    passes it to the observers         None
#
# Plans call each other with `yield from`. An exception anywhere ends the run: the driver never throws into a plan,
# so failures that a plan should survive come as values, such as a `Reply` whose `stop` is "failed".
#
# The same plan runs against a provider, a journal or a scripted model: `toolkit.run.driver` is the driver of real
# runs, `tests/support/plans.py` one of 30 lines. Plans start no tasks and hold no locks, and results keep the order
# of the list, so a run follows from its seed, whatever the order in which replies arrive.


@dataclass(frozen=True, slots=True)
class BlockingCall:
    """Function that a plan wants to run: awaited if it is async, else run in a thread of its own."""

    run: Callable[..., Any]
    args: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class AsyncHost:
    """
    Async code that runs plans in turn, such as a program of the user's with an agent inside.

    `run(drive)` is awaited, and `await drive(plan)` in it runs a plan with the driver of the outer plan.
    """

    run: Callable[[Callable[["Plan[Any]"], Awaitable[Any]]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class LocalCalls:
    """Calls that a model in this process answered, for the ledger; `usage` is their sum."""

    # They cost time and no money. No journal has them: the ledger saves their sums in the run's checkpoints.
    payer: BilledTo
    model: str
    calls: int
    usage: Usage
