"""Requests answered by weights in this process: messages to token ids, one batch of completions, and back to text."""

import time
from collections.abc import Callable, Sequence

from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.generate import CompletionRequest, sample
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.model.openai_format import build_refusal
from edgewise.toolkit.types import Message, Reply, Request, TokenizedTurn, Usage
from edgewise.toolkit.util.seeds import derive_seed

MAX_TOKENS = 512
"""Most tokens of a reply to a request without a limit."""


def answer(policy: Policy, requests: Sequence[Request], on_token: Callable[[], None] = lambda: None) -> list[Reply]:
    """
    Return a reply to each request, with its tokens; `on_token` is called before each token, and may raise.

    A request that can't be answered (a prompt longer than the context, tools, an embedding) gets a reply with stop
    "refused". Raises ConfigError for a model without a chat template.
    """
    start = time.perf_counter()
    prompts: dict[tuple[Message, ...], tuple[int, ...] | str] = {}
    # Each prompt is rendered and tokenized once, whatever the number of its samples.
    for messages in {request.messages for request in requests}:
        try:
            prompts[messages] = policy.encode(messages)
        except ConfigError as error:
            if not policy.tokenizer.chat_template:
                raise
            prompts[messages] = str(error)  # the template refuses these messages

    reasons = [explain_refusal(policy, request, prompts[request.messages]) for request in requests]
    calls: list[CompletionRequest] = []
    for request, reason in zip(requests, reasons, strict=True):
        prompt, sampling = prompts[request.messages], request.sampling
        # The defaults are those of the distribution that the policy has: temperature 1, and no cut.
        if not reason and not isinstance(prompt, str):
            temperature = 1.0 if sampling.temperature is None else sampling.temperature
            top_p = 1.0 if sampling.top_p is None else sampling.top_p
            limits = (sampling.max_tokens or MAX_TOKENS, temperature, top_p)
            calls.append(CompletionRequest(prompt, *limits, derive_request_seed(request), sampling.stop))
    answers = zip(calls, sample(policy, calls, on_token), strict=True)

    seconds = time.perf_counter() - start
    replies = []
    for request, reason in zip(requests, reasons, strict=True):
        if reason:
            empty = Reply(Message("assistant", ""), usage=Usage(), model=request.model)
            replies.append(build_refusal(reason, empty))
            continue
        call, completion = next(answers)
        message = Message("assistant", cut_at_stop(policy.decode(completion.ids), call.stop))
        usage = Usage(input=len(call.prompt), output=len(completion.ids))
        tokens = TokenizedTurn(call.prompt, completion.ids, completion.logprobs)
        replies.append(Reply(message, completion.stop, usage, seconds, request.model, tokens=tokens))
    return replies


def explain_refusal(policy: Policy, request: Request, prompt: tuple[int, ...] | str) -> str:
    """Return why a request is refused, "" if it is not; `prompt` is its ids, or why the template refuses them."""
    if request.is_embedding:
        return f"{request.model} writes text and gives no vectors: name a model for embeddings."
    if request.tools:
        return f"{request.model} takes no tools: they are described to it in words."
    if isinstance(prompt, str):
        return prompt
    if len(prompt) >= policy.context_length:
        return (
            f"The prompt has {len(prompt)} tokens, and {request.model} reads {policy.context_length} at most, its "
            "reply included: shorten the row or the lessons, or take a model with a longer context."
        )
    return ""


def derive_request_seed(request: Request) -> int:
    """Return the seed of a request; without one, it follows from the row and the sample, the same each time."""
    seed = request.sampling.seed
    return derive_seed(request.payer.example, request.sample) if seed is None else seed


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first of these strings."""
    return text[: min((at for string in stop if (at := text.find(string)) >= 0), default=len(text))]
