"""
Drawing replies: a prompt is encoded once for all its replies, all rows go forward together, finished ones are dropped.

Each ask has random numbers of its own: what is drawn does not depend on what else is in the batch, up to the rounding
of products of another size. R rows, V tokens of the vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
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
"""Tokens, of distinct prompts and of replies at their longest, that are in memory at once."""
PREFILL_TOKENS = 1 << 13
"""Tokens of prompts that are encoded in one forward."""
CROWD = 0.75
"""Finished rows are dropped when no more than this share is left of those that are computed."""
BLOCK = 128


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One reply that is wanted: `prompt` are token ids; a temperature of 0 takes the likeliest token each time."""

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """
    A reply: its ids, the one that ended it included, and why it ended.

    `logprobs` are at the temperature of the ask (at 1 where that is 0), of the whole distribution before `top_p` cuts
    it.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop: Literal["stop", "length"]


@torch.inference_mode()
def sample(
    policy: Policy, requests: Sequence[CompletionRequest], on_token: Callable[[], None] | None = None
) -> list[Completion]:
    """
    A reply to each ask; those with equal prompts share one encoding of it. `watch` is called before each token.

    A reply ends with the context at the latest. Where memory is short, fewer are drawn at a time. Raises ValueError for
    an empty prompt, or one that leaves no room, and OutOfMemory where there is none for one reply.
    """
    for ask in requests:
        if not 0 < len(ask.prompt) < policy.context_length:
            raise ValueError(f"a prompt has 1 to {policy.context_length - 1} tokens, not {len(ask.prompt)}")
    order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt), requests[i].prompt, i))
    found: dict[int, Completion] = {}
    with (
        exchange_attention(policy.model),
        disable_compilation(policy.model),
        pack_weights(policy.model, max((max_completion_tokens(a, policy.context_length) for a in requests), default=0)),
    ):
        most = len(requests)
        while left := [(i, requests[i]) for i in order[len(found) :]]:
            wave = _wave(left[:most], policy.context_length)
            drawn = try_in_memory(partial(_drawn, policy, [ask for _, ask in wave], on_token or _nothing))
            if drawn is not None:
                found |= zip((i for i, _ in wave), drawn, strict=True)
            elif len(wave) > 1:
                most = len(wave) // 2
            else:
                raise OutOfMemory(f"There is not enough memory to draw one reply: {MEMORY_ADVICE}.")
    return [found[i] for i in range(len(requests))]


def _drawn(policy: Policy, asks: Sequence[CompletionRequest], watch: Callable[[], None]) -> list[Completion]:
    return _Rows(policy, asks).drawn(watch)


def _nothing() -> None:
    pass


def _wave(asks: Sequence[tuple[int, CompletionRequest]], context: int) -> list[tuple[int, CompletionRequest]]:
    """The first rows, which go forward together: of at most `WAVE` tokens, but one at least."""
    wave: list[tuple[int, CompletionRequest]] = []
    used = 0
    for i, ask in asks:
        same = wave and wave[-1][1].prompt == ask.prompt
        used += max_completion_tokens(ask, context) + (0 if same else len(ask.prompt))
        if wave and used > WAVE_TOKENS:
            break
        wave.append((i, ask))
    return wave


def max_completion_tokens(ask: CompletionRequest, context: int) -> int:
    """Tokens that a reply may have."""
    return max(1, min(ask.max_tokens, context - len(ask.prompt)))


class _Rows:
    """Rows on their way. What is in tensors of (R,) has the rows that are still computed; `row` numbers them."""

    def __init__(self, policy: Policy, asks: Sequence[CompletionRequest]):
        self.policy, self.asks = policy, asks
        device = policy.device
        self.limits = [max_completion_tokens(ask, policy.context_length) for ask in asks]
        self.ids: list[list[int]] = [[] for _ in asks]
        self.logprobs: list[list[float]] = [[] for _ in asks]
        self.ended: dict[int, Literal["stop", "length"]] = {}
        self.row = list(range(len(asks)))
        self.uniform = _uniform(asks, self.limits).to(device)
        self.temperature = torch.tensor([ask.temperature for ask in asks], device=device)[:, None]
        self.top_p = torch.tensor([ask.top_p for ask in asks], device=device)[:, None]
        self.ends = {row: _ends(policy, ask.stop) for row, ask in enumerate(asks) if ask.stop}

    def drawn(self, watch: Callable[[], None]) -> list[Completion]:
        """Go on until all have ended."""
        cache, logits = prefill(self.policy.model, [ask.prompt for ask in self.asks], self.policy.device)
        while True:
            watch()
            ids, logp = sample_tokens(logits, self.temperature, self.top_p, self.uniform[:, cache.written])
            self._take(ids.tolist(), logp.tolist())
            live = [row not in self.ended for row in self.row]
            if not any(live):
                break
            if sum(live) <= CROWD * len(live):
                ids = self._drop(cache, torch.tensor(live, device=ids.device), ids)
            logits = _forward(self.policy.model, cache, ids)
        return [
            Completion(tuple(ids), tuple(logprobs), self.ended[row])
            for row, (ids, logprobs) in enumerate(zip(self.ids, self.logprobs, strict=True))
        ]

    def _take(self, ids: list[int], logprobs: list[float]) -> None:
        for row, token, logprob in zip(self.row, ids, logprobs, strict=True):
            if row in self.ended:
                continue
            self.ids[row].append(token)
            self.logprobs[row].append(logprob)
            if token in self.policy.stop_ids or (row in self.ends and self.ends[row](self.ids[row])):
                self.ended[row] = "stop"
            elif len(self.ids[row]) == self.limits[row]:
                self.ended[row] = "length"

    def _drop(self, cache: KVCache, live: Tensor, ids: Tensor) -> Tensor:
        cache.keep_rows(live)
        self.row = [row for row in self.row if row not in self.ended]
        self.uniform, self.temperature, self.top_p = (
            x[live] for x in (self.uniform, self.temperature, self.top_p)
        )
        return ids[live]


def prefill(model: Any, prompts: Sequence[tuple[int, ...]], device: torch.device) -> tuple[KVCache, Tensor]:
    """A cache for rows with these prompts, equal ones side by side, and the logits (R, V) of their first tokens."""
    distinct = [(prompt, len(list(rows))) for prompt, rows in groupby(prompts)]
    buckets, logits = [], []
    for chunk in _chunks(distinct):
        packed = PackedPrompts([len(prompt) for prompt, _ in chunk])
        ends = torch.tensor(packed.lengths).cumsum(0) - 1
        ids = torch.tensor([[token for prompt, _ in chunk for token in prompt]], device=device)
        place = torch.cat([torch.arange(length) for length in packed.lengths])[None].to(device)
        with use_backend(packed):
            out = model(input_ids=ids, position_ids=place, use_cache=False, logits_to_keep=ends.to(device))
        rows = [count for _, count in chunk]
        buckets += packed.buckets(rows)
        logits.append(out.logits[0].repeat_interleave(torch.tensor(rows, device=device), 0))
    return KVCache(buckets), torch.cat(logits)


def _chunks(prompts: Sequence[tuple[tuple[int, ...], int]]) -> Iterator[list[tuple[tuple[int, ...], int]]]:
    chunk: list[tuple[tuple[int, ...], int]] = []
    for prompt in prompts:
        if chunk and sum(len(ids) for ids, _ in chunk) + len(prompt[0]) > PREFILL_TOKENS:
            yield chunk
            chunk = []
        chunk.append(prompt)
    if chunk:
        yield chunk


def _forward(model: Any, cache: KVCache, ids: Tensor) -> Tensor:
    """(R, V) logits after one more token of each row."""
    with use_backend(cache):
        out = model(input_ids=ids[:, None], position_ids=cache.positions, use_cache=False)
    cache.advance()
    return out.logits[:, -1]


# ---- one token ---------------------------------------------------------------------------------------------


def sample_tokens(logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """
    (R,) ids and their log-probabilities, of (R, V) logits; `temperature` and `top_p` (R, 1), `uniform` (R,) in [0, 1).

    The inverse of the distribution function: the same number picks the same token.
    """
    greedy = temperature == 0
    logits = _scaled(logits, torch.where(greedy, 1.0, temperature))
    top, likeliest = logits.max(-1, keepdim=True)
    shares = (logits - top).exp_()
    whole = _blocks(shares).sum(-1).sum(-1, keepdim=True, dtype=torch.float64)
    if bool((top_p < 1).any()):
        shares = torch.where(top_p < 1, _nucleus(shares, top_p), shares)
    ids = torch.where(greedy, likeliest, _picked(shares, uniform))
    logp = logits.gather(1, ids) - top - whole.log()
    return ids[:, 0], logp[:, 0].float()


def _scaled(logits: Tensor, temperature: Tensor) -> Tensor:
    logits = logits.float()
    return logits if bool((temperature == 1).all()) else logits / temperature


def _blocks(shares: Tensor) -> Tensor:
    """(R, V / BLOCK, BLOCK)."""
    return torch.nn.functional.pad(shares, (0, -shares.shape[1] % BLOCK)).view(len(shares), -1, BLOCK)


def _picked(shares: Tensor, uniform: Tensor) -> Tensor:
    """(R, 1) the first token at which the sum of shares exceeds `uniform` of the whole: its block, then itself."""
    blocks = _blocks(shares)
    upto = blocks.sum(-1).double().cumsum(-1)
    wanted = uniform[:, None] * upto[:, -1:]
    block = _first_above(upto, wanted)
    inside = blocks[torch.arange(len(blocks), device=shares.device), block[:, 0]].double().cumsum(-1)
    before = torch.where(block > 0, upto.gather(1, (block - 1).clamp(min=0)), 0.0)
    return block * BLOCK + _first_above(inside, wanted - before)


def _first_above(upto: Tensor, wanted: Tensor) -> Tensor:
    """(R, 1) the first place where a sum exceeds what is wanted; if rounding leaves none, the last that adds to it."""
    last = (upto < upto[:, -1:]).sum(-1, keepdim=True)
    return torch.searchsorted(upto, wanted, right=True).minimum(last)


def _nucleus(shares: Tensor, top_p: Tensor) -> Tensor:
    """The fewest shares that hold `top_p` of the whole together, 0 for the others (arXiv 1904.09751)."""
    falling, order = shares.sort(-1, descending=True)
    before = falling.cumsum(-1) - falling
    kept = before < top_p * falling.sum(-1, keepdim=True)
    return torch.zeros_like(shares).scatter(-1, order, torch.where(kept, falling, 0.0))


def _uniform(asks: Sequence[CompletionRequest], limits: Sequence[int]) -> Tensor:
    """(R, most tokens) random numbers of each ask: the first are the same however many there are."""
    found = np.zeros((len(asks), max(limits)))
    for row, (ask, limit) in enumerate(zip(asks, limits, strict=True)):
        found[row, :limit] = np.random.default_rng(ask.seed % 2**64).random(limit)
    return torch.from_numpy(found)


def _ends(policy: Policy, stop: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    """
    Whether the last token of a reply completed one of these strings.

    A token is a byte at least, so only as many as the longest string has bytes need to be read, and a few before them,
    as some tokenizers write the first word of a text without the space before it.
    """
    reach = max(len(text.encode()) for text in stop) + 4

    def ends(ids: Sequence[int]) -> bool:
        text = policy.tokenizer.decode(list(ids[-reach:]), skip_special_tokens=False)
        return any(each in text for each in stop)

    return ends
