"""
Decoding of one token at a time for many rows, with the keys and values of a prompt stored once for all its rows.

The model's own forward runs with this attention in place of its own, so any model works whose attention transformers
can exchange. All rows of a cache have written the same number of tokens: they begin together, and finished ones are
dropped.

Shapes: P prompts of a bucket, L tokens of the longest of them; R rows in all and r of a bucket, S keys that a token
attends to; H heads of keys, g heads of queries for each of them, D numbers a head; B rows of a forward of N tokens.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from edgewise.learner.attention.shared_prefix import AttentionOptions
from edgewise.toolkit.errors import ConfigError

NAME = "edgewise_rows"
INITIAL_ROOM = 32
"""Tokens of replies that a cache can hold at first; doubled when it is full."""
MAX_LENGTH_RATIO = 1.25
"""Most of longest over shortest prompt of a bucket, whose prompts are padded to the longest."""


Pair = tuple[Tensor, ...]
"""Keys and values of a layer."""


def _compute_shares(options: AttentionOptions, scores: Tensor, is_visible: Tensor | None) -> Tensor:
    """Return shares of attention of scaled scores [..., H, g, S]; `is_visible` is broadcast to them."""
    if options.softcap is not None:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    if is_visible is not None:
        scores = scores.masked_fill(~is_visible, -torch.inf)
    if options.sinks is None:
        return scores.softmax(-1)
    # A sink is one more score a head, whose share goes nowhere.
    sinks = options.sinks.to(scores).view(*scores.shape[-3:-1], 1).expand(*scores.shape[:-1], 1)
    return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]


# ---- prompts -----------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class PackedPrompts:
    """Prompts one after the other in one row, none of which sees another; stores keys and values of each layer."""

    lengths: Sequence[int]
    states: dict[int, Pair] = field(default_factory=dict)  # [H, N, D] a layer

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        """Return attention [1, N, H g, D] of queries [1, H g, N, D], keys and values [1, H, N, D]; store these."""
        self.states[layer] = tuple(x[0].to(_stored_dtype(x)) for x in (key, value))
        parts = [states.split(list(self.lengths), 2) for states in (query, key, value)]
        outputs = [_attend_causal(q, k, v, options) for q, k, v in zip(*parts, strict=True)]
        return torch.cat(outputs, 2).transpose(1, 2)

    def buckets(self, rows: Sequence[int]) -> list["PromptBucket"]:
        """Return buckets of prompts of about one length, in the order given; `rows` continue each of the prompts."""
        # Sizes first: a bucket ends before the prompt that would stretch it too far.
        sizes: list[int] = []
        low = high = 0
        for length in self.lengths:
            low, high = min(low, length), max(high, length)
            if not sizes or high > MAX_LENGTH_RATIO * low:
                sizes.append(0)
                low = high = length
            sizes[-1] += 1

        buckets, start, begin = [], 0, 0
        device = next(iter(self.states.values()))[0].device
        for size in sizes:
            lengths = torch.tensor(self.lengths[start : start + size])
            at = torch.arange(int(lengths.max()))[None].expand(size, -1)  # [P, L]
            # Padding repeats the last token; `PromptBucket.visible` hides it.
            place = begin + (lengths.cumsum(0) - lengths)[:, None] + at.minimum(lengths[:, None] - 1)
            place = place.to(device)
            states = {
                layer: tuple(x[:, place].transpose(0, 1).contiguous() for x in pair)
                for layer, pair in self.states.items()
            }
            prompt = torch.arange(size).repeat_interleave(torch.tensor(rows[start : start + size]))
            buckets.append(PromptBucket(lengths.to(device), prompt.to(device), states))
            start, begin = start + size, begin + int(lengths.sum())
        return buckets


def _attend_causal(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
    """Return causal attention of one prompt, [1, H g, N, D]."""
    length, heads, window = query.shape[2], key.shape[1], options.window
    is_plain = options.softcap is None and options.sinks is None
    if is_plain and (window is None or length <= window):
        return scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=options.scale, enable_gqa=query.shape[1] != heads
        )
    place = torch.arange(length, device=query.device)
    back = place[:, None] - place  # [N, N] how far a key lies behind a query
    is_visible = (back >= 0) if window is None else (back >= 0) & (back < window)
    queries = query.view(1, heads, -1, length, query.shape[-1]).float()  # [1, H, g, N, D]
    scores = queries * options.scale @ key[:, :, None].float().transpose(-1, -2)
    # Shares want the heads of a token side by side, [N, H, g, N].
    shares = _compute_shares(options, scores[0].permute(2, 0, 1, 3), is_visible[:, None, None])
    output = shares.permute(1, 2, 0, 3) @ value[0, :, None].float()  # [H, g, N, D]
    return output.reshape(1, -1, length, value.shape[-1]).to(query.dtype)


# ---- replies -----------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class PromptBucket:
    """
    P prompts of about one length and the r rows that continue them.

    Products with a prompt's keys are done for all its rows at once, so rows are grouped by prompt into `_most` places
    each. Places that a prompt has no row for repeat its last row, and are left out on the way back:

        prompt of each row       0  0  0  1  2  2      r = 6, P = 3, _most = 3
        rows in their places     0  1  2 | 3  3  3 | 4  5  5      _fill [P _most]
        place of each row        0  1  2   3         6  7         _take [r]
    """

    lengths: Tensor  # [P]
    prompt: Tensor  # [r] number of each row's prompt, in rising order
    states: dict[int, Pair]  # [P, H, L, D] a layer
    _most: int = 0
    _fill: Tensor | None = None  # None where all prompts have as many rows
    _take: Tensor | None = None

    def __post_init__(self) -> None:
        counts = torch.bincount(self.prompt, minlength=len(self.lengths))
        self._most = int(counts.max())
        if int(counts.min()) < self._most:
            first = counts.cumsum(0) - counts
            place = torch.arange(self._most, device=counts.device)[None]
            self._fill = (first[:, None] + place.minimum(counts[:, None] - 1)).clamp(min=0).reshape(-1)
            rank = torch.arange(len(self.prompt), device=counts.device) - first[self.prompt]
            self._take = self.prompt * self._most + rank

    def group_rows(self, rows: Tensor) -> Tensor:
        """Return rows [r, H, g, S] with those of a prompt side by side, [P, H, _most g, S]."""
        rows = rows if self._fill is None else rows[self._fill]
        _, heads, of, width = rows.shape
        grouped = rows.reshape(-1, self._most, heads, of, width).transpose(1, 2)
        return grouped.reshape(-1, heads, self._most * of, width)

    def ungroup_rows(self, grouped: Tensor) -> Tensor:
        """Return rows [r, H, g, S] of grouped ones: the inverse of `group_rows`."""
        prompts, heads, many, width = grouped.shape
        rows = grouped.view(prompts, heads, self._most, many // self._most, width)
        rows = rows.transpose(1, 2).flatten(0, 1)
        return rows if self._take is None else rows[self._take]

    def select_rows(self, keep: Tensor) -> "PromptBucket | None":
        """Return the bucket of the rows where `keep` [r] is true, without prompts that have none left."""
        prompt = self.prompt[keep]
        if not len(prompt):
            return None
        remaining, prompt = prompt.unique(return_inverse=True)
        if len(remaining) == len(self.lengths):
            return PromptBucket(self.lengths, prompt, self.states)
        states = {layer: tuple(x[remaining] for x in pair) for layer, pair in self.states.items()}
        return PromptBucket(self.lengths[remaining], prompt, states)

    def visible(self, written: int, window: int | None) -> Tensor | None:
        """Return which keys the next token of each row sees, [r, 1, 1, L + written + 1]; None if all."""
        longest = next(iter(self.states.values()))[0].shape[2]
        if int(self.lengths.min()) == longest and (window is None or longest + written < window):
            return None
        begin = self.lengths[self.prompt][:, None]  # [r, 1] position of a reply's first token
        before = torch.arange(longest, device=begin.device).expand(len(begin), -1)
        after = begin + torch.arange(written + 1, device=begin.device)
        is_visible = torch.cat([before < begin, torch.ones_like(after, dtype=torch.bool)], 1)
        if window is not None:
            is_visible &= begin + written - torch.cat([before, after], 1) < window
        return is_visible[:, None, None]


@dataclass(slots=True, eq=False)
class KVCache:
    """Keys and values of R rows: those of prompts in `buckets`, and those of the `written` tokens of each reply."""

    buckets: list[PromptBucket]
    written: int = 0
    _states: dict[int, Pair] = field(default_factory=dict)  # [R, H, room, D] a layer
    _visible: dict[int | None, list[Tensor | None]] = field(default_factory=dict)  # of this token, by window

    @property
    def positions(self) -> Tensor:
        """Positions of the next token, [R, 1]."""
        return torch.cat([b.lengths[b.prompt] for b in self.buckets])[:, None] + self.written

    def advance(self) -> None:
        """Count one more token of each row, after it has gone through all layers."""
        self.written += 1
        self._visible = {}

    def keep_rows(self, keep: Tensor) -> None:
        """Drop all rows but those where `keep` [R] is true."""
        for layer, pair in self._states.items():  # one after the other, so that old ones are freed
            self._states[layer] = tuple(x[keep] for x in pair)
        parts = keep.split([len(bucket.prompt) for bucket in self.buckets])
        buckets = [bucket.select_rows(part) for bucket, part in zip(self.buckets, parts, strict=True)]
        self.buckets = [bucket for bucket in buckets if bucket is not None]
        self._visible = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
        """Store keys and values [R, H, 1, D]; return attention [R, 1, H g, D] of queries [R, H g, 1, D]."""
        keys, values = self._append(layer, (key, value))
        rows, heads, _, width = key.shape
        queries = query.reshape(rows, heads, -1, width).to(keys.dtype) * options.scale  # [R, H, g, D]
        own_scores = queries @ keys.transpose(2, 3)  # [R, H, g, written + 1]
        if options.window not in self._visible:
            self._visible[options.window] = [b.visible(self.written, options.window) for b in self.buckets]

        sizes = [len(bucket.prompt) for bucket in self.buckets]
        outputs = []
        for bucket, mine, is_visible, own, own_values in zip(
            self.buckets,
            queries.split(sizes),
            self._visible[options.window],
            own_scores.split(sizes),
            values.split(sizes),
            strict=True,
        ):
            # One softmax over the prompt's keys, computed for all its rows at once, and over the row's own.
            before = bucket.ungroup_rows(bucket.group_rows(mine) @ bucket.states[layer][0].transpose(2, 3))
            longest = before.shape[-1]
            shares = _compute_shares(options, torch.cat([before, own], -1), is_visible)
            output = bucket.ungroup_rows(bucket.group_rows(shares[..., :longest]) @ bucket.states[layer][1])
            outputs.append(output + shares[..., longest:] @ own_values)
        out = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return out.reshape(rows, 1, query.shape[1], -1).to(query.dtype)

    def _append(self, layer: int, token: Pair) -> Pair:
        """Write the states of the new token to a layer's, and return these, [R, H, written + 1, D]."""
        pair = self._states.get(layer)
        if pair is None:
            pair = tuple(x.new_zeros((*x.shape[:2], INITIAL_ROOM, x.shape[3]), dtype=_stored_dtype(x)) for x in token)
        elif pair[0].shape[2] == self.written:
            pair = tuple(torch.cat([x, torch.zeros_like(x)], 2) for x in pair)
        self._states[layer] = pair
        for states, new in zip(pair, token, strict=True):
            states[:, :, self.written] = new[:, :, 0]
        return tuple(x[:, :, : self.written + 1] for x in pair)


def _stored_dtype(states: Tensor) -> torch.dtype:
    # Small products in bfloat16 are slow on a CPU, and rounded for nothing.
    return torch.float32 if states.device.type == "cpu" and states.dtype == torch.bfloat16 else states.dtype


# ---- in place of a model's attention -----------------------------------------------------------------------

_backend: ContextVar[PackedPrompts | KVCache] = ContextVar("attention")


@contextlib.contextmanager
def exchange_attention(model: Any) -> Iterator[None]:
    """
    Inside, the model attends by the backend of `use_backend`.

    Raises ConfigError for a model whose attention transformers can't exchange.
    """
    from transformers import AttentionInterface, PreTrainedModel

    AttentionInterface.register(NAME, _call_backend)
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    if not parts or not all(part._can_set_attn_implementation() for part in parts):
        raise ConfigError(
            f"The attention of {type(model).__name__} can't be exchanged, so prompts can't be shared: take a model "
            "that follows the AttentionInterface of transformers."
        )
    # Parts may share a configuration; each is set and restored once.
    configs = list({id(part.config): part.config for part in parts}.values())
    before = [config._attn_implementation_internal for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = NAME
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name


@contextlib.contextmanager
def use_backend(backend: PackedPrompts | KVCache) -> Iterator[None]:
    """Set the backend of forwards inside of `exchange_attention`."""
    token = _backend.set(backend)
    try:
        yield
    finally:
        _backend.reset(token)


def _call_backend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    options = AttentionOptions(scaling or query.shape[-1] ** -0.5, sliding_window, softcap, s_aux)
    return _backend.get().attend(module.layer_idx, query, key, value, options), None
