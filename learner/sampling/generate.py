"""
Sample completions: a prompt is encoded once for all its rows, all rows decode together, finished rows are dropped.

    requests ── waves that fit in memory ── prefill ──▶ logits ──▶ sample_tokens ──▶ tokens
                                                          ▲                            │
                                                          └───── decode (KVCache) ◀────┘  until every row has ended

Each request has random numbers of its own. Its tokens do not depend on the rest of the batch, up to the rounding of
matrix products of another size.

R rows, V tokens of the vocabulary, T tokens of the longest completion.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from edgewise.learner.attention.kv_cache import KVCache, PackedPrompts, exchange_attention, use_backend
from edgewise.learner.hardware.memory import MEMORY_ADVICE, try_in_memory
from edgewise.learner.hardware.torch_compile import disable_compilation
from edgewise.learner.hardware.weight_packing import pack_weights
from edgewise.learner.policy.policy import Policy
from edgewise.toolkit.errors import OutOfMemory

WAVE_TOKENS = 1 << 16
"""Tokens in memory at once: distinct prompts, and completions at their longest."""
PREFILL_TOKENS = 1 << 13
"""Tokens of prompts in one forward."""
COMPACT_SHARE = 0.75
"""Finished rows are dropped when no more than this share of the computed rows is live."""
BLOCK_SIZE = 128
"""Tokens of a block of the distribution function, which is searched block first, then token."""


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """Request for one completion of a prompt in token ids; temperature 0 takes the likeliest token each time."""

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """
    Token ids of a completion, with the stop token if there is one, and why it ended.

    `logprobs` are at the temperature of the request (at 1 for temperature 0), of the distribution before `top_p`.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop: Literal["stop", "length"]


@torch.inference_mode()
def sample(
    policy: Policy, requests: Sequence[CompletionRequest], on_token: Callable[[], None] = lambda: None
) -> list[Completion]:
    """
    Return a completion for each request; equal prompts are encoded once. `on_token` is called before each token.

    A completion ends with the context at the latest. Where memory is short, fewer rows are computed at a time. Raises
    ValueError for a prompt that is empty or fills the context, and OutOfMemory if one row does not fit.
    """
    context = policy.context_length
    for request in requests:
        if not 0 < len(request.prompt) < context:
            raise ValueError(f"a prompt has 1 to {context - 1} tokens, not {len(request.prompt)}")
    # The first token comes from the prefill, so a completion has at least one.
    limits = [max(1, min(request.max_tokens, context - len(request.prompt))) for request in requests]

    # Equal prompts lie side by side, and prompts of about equal length share a forward.
    pending = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt), requests[i].prompt, i))
    completions: dict[int, Completion] = {}
    max_rows = len(requests)
    packed_weights = pack_weights(policy.model, max(limits, default=0))
    with exchange_attention(policy.model), disable_compilation(policy.model), packed_weights:
        while pending:
            rows = [(i, requests[i].prompt) for i in pending[:max_rows]]
            previous = [None, *(prompt for _, prompt in rows)]
            sizes = [
                limits[i] + (0 if prompt == before else len(prompt))
                for (i, prompt), before in zip(rows, previous, strict=False)
            ]
            wave = pending[: count_fitting(sizes, WAVE_TOKENS)]
            work = partial(generate_wave, policy, [requests[i] for i in wave], [limits[i] for i in wave], on_token)
            result = try_in_memory(work)
            if result is not None:
                completions |= zip(wave, result, strict=True)
                pending = pending[len(wave) :]
            elif len(wave) > 1:
                # Halved for all later waves: memory that was short once would be short again.
                max_rows = len(wave) // 2
            else:
                raise OutOfMemory(f"There is not enough memory to draw one reply: {MEMORY_ADVICE}.")
    return [completions[i] for i in range(len(requests))]


def count_fitting(sizes: Sequence[int], budget: int) -> int:
    """Return how many of the first sizes fit in the budget together, at least 1."""
    return max(1, bisect_right(list(accumulate(sizes)), budget))


def generate_wave(
    policy: Policy, requests: Sequence[CompletionRequest], limits: Sequence[int], on_token: Callable[[], None]
) -> list[Completion]:
    """Decode all rows together until each has ended; `limits` are the most tokens of each."""
    device = policy.device
    uniform = np.zeros((len(requests), max(limits)))
    for row, (request, limit) in enumerate(zip(requests, limits, strict=True)):
        # By request, and from the first token on: the same whatever the batch and the limit are.
        uniform[row, :limit] = np.random.default_rng(request.seed % 2**64).random(limit)
    uniform = torch.from_numpy(uniform).to(device)  # [R, T]
    temperature = torch.tensor([[request.temperature] for request in requests], device=device)  # [R, 1]
    top_p = torch.tensor([[request.top_p] for request in requests], device=device)  # [R, 1]
    checks = {row: _create_stop_check(policy, request.stop) for row, request in enumerate(requests) if request.stop}

    # On the CPU: a step takes one transfer of ids and one of log-probabilities, for all rows.
    ids: list[list[int]] = [[] for _ in requests]
    logprobs: list[list[float]] = [[] for _ in requests]
    stops: dict[int, Literal["stop", "length"]] = {}
    rows = list(range(len(requests)))  # those that are still computed, in the order of all tensors [R, ...]
    cache, logits = prefill(policy.model, [request.prompt for request in requests], device)
    while True:
        on_token()
        tokens, logps = sample_tokens(logits, temperature, top_p, uniform[:, cache.written])
        for row, token, logprob in zip(rows, tokens.tolist(), logps.tolist(), strict=True):
            if row in stops:
                continue
            ids[row].append(token)
            logprobs[row].append(logprob)
            if token in policy.stop_ids or (row in checks and checks[row](ids[row])):
                stops[row] = "stop"
            elif len(ids[row]) == limits[row]:
                stops[row] = "length"

        is_live = [row not in stops for row in rows]
        if not any(is_live):
            break
        # To drop rows copies the cache, so it waits until it pays.
        if sum(is_live) <= COMPACT_SHARE * len(is_live):
            live = torch.tensor(is_live, device=device)
            cache.keep_rows(live)
            rows = [row for row in rows if row not in stops]
            uniform, temperature, top_p, tokens = (x[live] for x in (uniform, temperature, top_p, tokens))
        logits = decode(policy.model, cache, tokens)
    return [Completion(tuple(ids[row]), tuple(logprobs[row]), stops[row]) for row in range(len(requests))]


def _create_stop_check(policy: Policy, stop: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    """Return a function from token ids to whether the last one completed a stop string."""
    # A token is at least a byte, so the last tokens suffice, as many as the longest string has bytes. A few more,
    # because some tokenizers write the first word of a text without the space before it.
    reach = max(len(text.encode()) for text in stop) + 4

    def has_stop(ids: Sequence[int]) -> bool:
        text = policy.tokenizer.decode(list(ids[-reach:]), skip_special_tokens=False)
        return any(string in text for string in stop)

    return has_stop


# ---- forwards ----------------------------------------------------------------------------------------------


def prefill(model: Any, prompts: Sequence[tuple[int, ...]], device: torch.device) -> tuple[KVCache, Tensor]:
    """
    Encode the prompts of all rows; return their cache, and the logits of their first tokens, [R, V].

    Equal prompts must be side by side. Distinct ones lie end to end in one sequence, without padding.
    """
    # The rows of a group share their prompt: it is encoded once, and its keys and values are stored once.
    distinct = [(prompt, len(list(rows))) for prompt, rows in groupby(prompts)]
    buckets, logits = [], []
    while distinct:
        count = count_fitting([len(prompt) for prompt, _ in distinct], PREFILL_TOKENS)
        chunk, distinct = distinct[:count], distinct[count:]
        packed = PackedPrompts([len(prompt) for prompt, _ in chunk])
        last = torch.tensor(packed.lengths).cumsum(0) - 1
        ids = torch.tensor([[token for prompt, _ in chunk for token in prompt]], device=device)
        positions = torch.cat([torch.arange(length) for length in packed.lengths])[None].to(device)
        with use_backend(packed):
            out = model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=last.to(device))
        rows = [count for _, count in chunk]
        buckets += packed.buckets(rows)
        logits.append(out.logits[0].repeat_interleave(torch.tensor(rows, device=device), 0))
    return KVCache(buckets), torch.cat(logits)


def decode(model: Any, cache: KVCache, ids: Tensor) -> Tensor:
    """Append one token to each row, `ids` [R], and return the logits of the next ones, [R, V]."""
    with use_backend(cache):
        out = model(input_ids=ids[:, None], position_ids=cache.positions, use_cache=False)
    cache.advance()
    return out.logits[:, -1]


# ---- one token ---------------------------------------------------------------------------------------------


def sample_tokens(logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """
    Return a token of each row, [R], and its log-probability, [R].

    `logits` are [R, V], `temperature` and `top_p` [R, 1], `uniform` [R] random numbers in [0, 1). Tokens are sampled by
    inversion of the distribution function, so that the same number gives the same token.
    """
    is_greedy = temperature == 0
    logits, scale = logits.float(), torch.where(is_greedy, 1.0, temperature)
    if not bool((scale == 1).all()):
        logits = logits / scale
    top, likeliest = logits.max(-1, keepdim=True)
    shares = (logits - top).exp_()  # not normalised
    # Blocks are summed in float32, their sums in float64: one long sum in float32 would lose unlikely tokens.
    total = _split_blocks(shares).sum(-1).sum(-1, keepdim=True, dtype=torch.float64)

    nucleus = shares
    if bool((top_p < 1).any()):
        # The fewest shares that together hold `top_p` of the total, 0 for the others (arXiv 1904.09751).
        falling, order = shares.sort(-1, descending=True)
        is_inside = falling.cumsum(-1) - falling < top_p * falling.sum(-1, keepdim=True)
        cut = torch.zeros_like(shares).scatter(-1, order, torch.where(is_inside, falling, 0.0))
        nucleus = torch.where(top_p < 1, cut, shares)
    ids = torch.where(is_greedy, likeliest, _invert_distribution(nucleus, uniform))  # [R, 1]
    logp = logits.gather(1, ids) - top - total.log()
    return ids[:, 0], logp[:, 0].float()


def _split_blocks(shares: Tensor) -> Tensor:
    """Return shares [R, V] as [R, V / BLOCK_SIZE, BLOCK_SIZE], padded with 0."""
    return torch.nn.functional.pad(shares, (0, -shares.shape[1] % BLOCK_SIZE)).view(len(shares), -1, BLOCK_SIZE)


def _invert_distribution(shares: Tensor, uniform: Tensor) -> Tensor:
    """Return the first token, [R, 1], at which the cumulative sum of `shares` exceeds `uniform` of their total."""
    # Two levels, sums of blocks and then one block: only those few numbers are summed in float64.
    blocks = _split_blocks(shares)
    cumulative = blocks.sum(-1).double().cumsum(-1)  # [R, blocks]
    target = uniform[:, None] * cumulative[:, -1:]
    block = _search_above(cumulative, target)
    inside = blocks[torch.arange(len(blocks), device=shares.device), block[:, 0]].double().cumsum(-1)
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
    return block * BLOCK_SIZE + _search_above(inside, target - before)


def _search_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """Return the first index, [R, 1], where a cumulative sum exceeds `target`."""
    # Where rounding leaves none, the last index that adds to the sum.
    last = (cumulative < cumulative[:, -1:]).sum(-1, keepdim=True)
    return torch.searchsorted(cumulative, target, right=True).minimum(last)
