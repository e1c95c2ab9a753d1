"""Requests answered by weights in this process: messages to token ids, drawn together, and back to text."""

import time
from collections.abc import Callable, Sequence

from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.generate import Completion, CompletionRequest, sample
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.model.openai_format import build_refusal
from edgewise.toolkit.types import TokenizedTurn, Message, Reply, Request, Usage
from edgewise.toolkit.util.seeds import derive_seed

MAX_TOKENS = 512
"""The longest reply to a request that does not say."""


def answer(
    policy: Policy, requests: Sequence[Request], watch: Callable[[], None] | None = None
) -> list[Reply]:
    """
    A reply to each request, with the tokens it is made of; `watch` is called before each token, and may raise.

    What can't be answered (a prompt longer than the context, tools, a vector) is a reply with stop "refused". Raises
    ConfigError for a model without a chat template.
    """
    start = time.perf_counter()
    prompts = {messages: _prompt(policy, messages) for messages in {request.messages for request in requests}}
    asked = [_ask(policy, request, prompts[request.messages]) for request in requests]
    drawn = iter(sample(policy, [ask for ask in asked if isinstance(ask, CompletionRequest)], watch))
    seconds = time.perf_counter() - start
    return [
        _reply(policy, request, ask, next(drawn), seconds)
        if isinstance(ask, CompletionRequest)
        else build_refusal(ask, Reply(Message("assistant", ""), usage=Usage(), model=request.model))
        for request, ask in zip(requests, asked, strict=True)
    ]


def _prompt(policy: Policy, messages: tuple[Message, ...]) -> tuple[int, ...] | str:
    """Token ids, or why the template refuses the messages."""
    try:
        return policy.encode(messages)
    except ConfigError as error:
        if not policy.tokenizer.chat_template:
            raise
        return str(error)


def _ask(policy: Policy, request: Request, prompt: tuple[int, ...] | str) -> CompletionRequest | str:
    """What is drawn for a request, or why it is not."""
    if request.is_embedding:
        return f"{request.model} writes text and gives no vectors: name a model for embeddings."
    if request.tools:
        return f"{request.model} takes no tools: they are described to it in words."
    if isinstance(prompt, str):
        return prompt
    if len(prompt) >= policy.context_length:
        return (
            f"The prompt has {len(prompt)} tokens, and {request.model} reads {policy.context_length} at most, its reply "
            "included: shorten the row or the lessons, or take a model with a longer context."
        )
    wanted = request.sampling
    return CompletionRequest(
        prompt,
        wanted.max_tokens or MAX_TOKENS,
        1.0 if wanted.temperature is None else wanted.temperature,
        1.0 if wanted.top_p is None else wanted.top_p,
        seed_for(request),
        wanted.stop,
    )


def seed_for(request: Request) -> int:
    """The seed of a request; one that names none has its own, the same each time."""
    seed = request.sampling.seed
    return derive_seed(request.payer.example, request.sample) if seed is None else seed


def _reply(
    policy: Policy, request: Request, ask: CompletionRequest, drawn: Completion, seconds: float
) -> Reply:
    message = Message("assistant", until(policy.decode(drawn.ids), ask.stop))
    usage = Usage(input=len(ask.prompt), output=len(drawn.ids))
    encoded = TokenizedTurn(ask.prompt, drawn.ids, drawn.logprobs)
    return Reply(message, drawn.stop, usage, seconds, request.model, tokens=encoded)


def until(text: str, stop: Sequence[str]) -> str:
    """The text before the first of these strings."""
    return text[: min((at for each in stop if (at := text.find(each)) >= 0), default=len(text))]
