"""
One token at a time for many rows, with the keys and values of a prompt kept once for all rows that go on from it.

P prompts of a bucket, R rows in all and r of a bucket, L tokens of the longest prompt of a bucket, H heads of keys, g
heads of queries for each of them, D numbers a head. All rows of a cache have written the same number of tokens: they
begin together, and those that are finished are dropped. The model's own forward is used, with this attention in the
place of its own, so any model works that transformers lets choose its attention.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from edgewise.toolkit.errors import ConfigError

NAME = "edgewise_rows"
INITIAL_ROOM = 32
"""Tokens that a cache of replies has room for at first; doubled when it is full."""
MAX_LENGTH_RATIO = 1.25
"""How much longer than its shortest prompt the longest of a bucket may be: the others are padded to it."""


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """What a layer's attention does beyond scaled products: `window` in tokens, `cap` on scores, `sinks` (H g,)."""

    scale: float
    window: int | None = None
    cap: float | None = None
    sinks: Tensor | None = None

    def shares(self, scores: Tensor, visible: Tensor | None) -> Tensor:
        """(..., H, g, S) shares of attention; `scores` are scaled, `visible` is broadcast to them."""
        if self.cap is not None:
            scores = torch.tanh(scores / self.cap) * self.cap
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        if self.sinks is None:
            return scores.softmax(-1)
        sinks = self.sinks.to(scores).view(*scores.shape[-3:-1], 1).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]


class AttentionBackend(Protocol):
    """What stands in the place of a model's attention."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: AttentionOptions) -> Tensor:
        """(B, N, H g, D) of (B, H g, N, D) queries and (B, H, N, D) keys and values."""
        ...


# ---- prompts -----------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class PackedPrompts:
    """Prompts one after the other in one row, none of which sees another; keeps (H, N, D) keys and values a layer."""

    lengths: Sequence[int]
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: AttentionOptions) -> Tensor:
        """See `Attends`; B is 1."""
        self.keys[layer], self.values[layer] = key[0].to(_kept(key)), value[0].to(_kept(value))
        queries, keys, values = (states.split(list(self.lengths), 2) for states in (query, key, value))
        found = [_causal(q, k, v, how) for q, k, v in zip(queries, keys, values, strict=True)]
        return torch.cat(found, 2).transpose(1, 2)

    def buckets(self, rows: Sequence[int]) -> list["PromptBucket"]:
        """Prompts of about one length together, in the order given; `rows` go on from each of them."""
        buckets, start, begin = [], 0, 0
        for size in _sizes(self.lengths):
            lengths = torch.tensor(self.lengths[start : start + size])
            device = self.keys[min(self.keys)].device
            at = torch.arange(int(lengths.max()))[None].expand(size, -1)
            place = begin + (lengths.cumsum(0) - lengths)[:, None] + at.minimum(lengths[:, None] - 1)
            kept = [
                {
                    layer: states[:, place.to(device)].transpose(0, 1).contiguous()
                    for layer, states in held.items()
                }
                for held in (self.keys, self.values)
            ]
            prompt = torch.arange(size).repeat_interleave(torch.tensor(rows[start : start + size]))
            buckets.append(PromptBucket(lengths.to(device), prompt.to(device), kept[0], kept[1]))
            start, begin = start + size, begin + int(lengths.sum())
        return buckets


def _sizes(lengths: Sequence[int]) -> Iterator[int]:
    """How many prompts each bucket has."""
    size, low, high = 0, 0, 0
    for length in lengths:
        low, high = (min(low, length), max(high, length)) if size else (length, length)
        if size and high > MAX_LENGTH_RATIO * low:
            yield size
            size, low, high = 0, length, length
        size += 1
    if size:
        yield size


def _causal(query: Tensor, key: Tensor, value: Tensor, how: AttentionOptions) -> Tensor:
    """(1, H g, N, D) of one prompt."""
    length, heads = query.shape[2], key.shape[1]
    short = how.window is None or length <= how.window
    if short and how.cap is None and how.sinks is None:
        return scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=how.scale, enable_gqa=query.shape[1] != heads
        )
    place = torch.arange(length, device=query.device)
    back = place[:, None] - place
    visible = (back >= 0) if how.window is None else (back >= 0) & (back < how.window)
    asked = query.view(1, heads, -1, length, query.shape[-1]).transpose(2, 3).float()
    scores = asked.transpose(2, 3) * how.scale @ key[:, :, None].float().transpose(-1, -2)
    # As `shares` wants them: the queries of a token are its heads, (N, H, g, N).
    shares = how.shares(scores[0].permute(2, 0, 1, 3), visible[:, None, None]).permute(1, 2, 0, 3)
    return (shares @ value[0, :, None].float()).reshape(1, -1, length, value.shape[-1]).to(query.dtype)


# ---- replies -----------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class PromptBucket:
    """
    P prompts of about one length and the r rows that go on from them; `prompt` (r,) says which, in rising order.

    `lengths` (P,); `keys` and `values` (P, H, L, D) for each layer.
    """

    lengths: Tensor
    prompt: Tensor
    keys: dict[int, Tensor]
    values: dict[int, Tensor]
    _each: int = 0
    _fill: Tensor | None = None
    _take: Tensor | None = None

    def __post_init__(self) -> None:
        counts = torch.bincount(self.prompt, minlength=len(self.lengths))
        self._each = int(counts.max())
        if int(counts.min()) < self._each:  # then places of a prompt that no row has repeat its first row
            first = counts.cumsum(0) - counts
            place = torch.arange(self._each, device=counts.device)[None]
            self._fill = (first[:, None] + place.minimum(counts[:, None] - 1)).clamp(min=0).reshape(-1)
            rank = torch.arange(len(self.prompt), device=counts.device) - first[self.prompt]
            self._take = self.prompt * self._each + rank

    def group_rows(self, rows: Tensor) -> Tensor:
        """(P, H, n g, S) of (r, H, g, S): what the rows of a prompt ask, side by side."""
        rows = rows if self._fill is None else rows[self._fill]
        _, heads, of, width = rows.shape
        placed = rows.reshape(-1, self._each, heads, of, width).transpose(1, 2)
        return placed.reshape(-1, heads, self._each * of, width)

    def ungroup_rows(self, places: Tensor) -> Tensor:
        """(r, H, g, S), the way back."""
        prompts, heads, many, width = places.shape
        rows = (
            places.view(prompts, heads, self._each, many // self._each, width).transpose(1, 2).flatten(0, 1)
        )
        return rows if self._take is None else rows[self._take]

    def select_rows(self, keep: Tensor) -> "PromptBucket | None":
        """The same for some of its rows, (r,) true for those; without prompts that have none left."""
        left = self.prompt[keep]
        if not len(left):
            return None
        still, prompt = left.unique(return_inverse=True)
        if len(still) == len(self.lengths):
            return PromptBucket(self.lengths, prompt, self.keys, self.values)
        cut = [{layer: states[still] for layer, states in held.items()} for held in (self.keys, self.values)]
        return PromptBucket(self.lengths[still], prompt, cut[0], cut[1])

    def visible(self, written: int, window: int | None) -> Tensor | None:
        """(r, 1, 1, L + written + 1): which keys the token after `written` others may look at; None for all."""
        longest = self.keys[min(self.keys)].shape[2]
        if int(self.lengths.min()) == longest and (window is None or longest + written < window):
            return None
        begin = self.lengths[self.prompt][:, None]
        before = torch.arange(longest, device=begin.device).expand(len(begin), -1)
        after = begin + torch.arange(written + 1, device=begin.device)
        seen = torch.cat([before < begin, torch.ones_like(after, dtype=torch.bool)], 1)
        if window is not None:
            seen &= begin + written - torch.cat([before, after], 1) < window
        return seen[:, None, None]


@dataclass(slots=True, eq=False)
class KVCache:
    """Keys and values of R rows: those of prompts in `buckets`, and those of the `written` tokens of each reply."""

    buckets: list[PromptBucket]
    written: int = 0
    _keys: dict[int, Tensor] = field(default_factory=dict)
    _values: dict[int, Tensor] = field(default_factory=dict)
    _seen: dict[int | None, list[Tensor | None]] = field(default_factory=dict)

    @property
    def positions(self) -> Tensor:
        """(R, 1) of the next token."""
        return torch.cat([b.lengths[b.prompt] for b in self.buckets])[:, None] + self.written

    def advance(self) -> None:
        """A token of each row has gone through all layers."""
        self.written += 1
        self._seen = {}

    def keep_rows(self, keep: Tensor) -> None:
        """Go on with some rows only, (R,) true for those."""
        for held in (self._keys, self._values):
            for layer, states in held.items():
                held[layer] = states[keep]
        parts = keep.split([len(bucket.prompt) for bucket in self.buckets])
        kept = [bucket.select_rows(part) for bucket, part in zip(self.buckets, parts, strict=True)]
        self.buckets = [bucket for bucket in kept if bucket is not None]
        self._seen = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: AttentionOptions) -> Tensor:
        """See `Attends`; B is R, and N is 1."""
        keys, values = self._with(self._keys, layer, key), self._with(self._values, layer, value)
        rows, heads, _, width = key.shape
        asked = query.reshape(rows, heads, -1, width).to(keys.dtype) * how.scale
        own = asked @ keys.transpose(2, 3)
        sizes = [len(bucket.prompt) for bucket in self.buckets]
        found = []
        for bucket, mine, seen, *states in zip(
            self.buckets,
            asked.split(sizes),
            self._visible(how.window),
            own.split(sizes),
            values.split(sizes),
            strict=True,
        ):
            before = bucket.ungroup_rows(bucket.group_rows(mine) @ bucket.keys[layer].transpose(2, 3))
            longest = before.shape[-1]
            shares = how.shares(torch.cat([before, states[0]], -1), seen)
            read = bucket.ungroup_rows(bucket.group_rows(shares[..., :longest]) @ bucket.values[layer])
            found.append(read + shares[..., longest:] @ states[1])
        out = found[0] if len(found) == 1 else torch.cat(found)
        return out.reshape(rows, 1, query.shape[1], -1).to(query.dtype)

    def _visible(self, window: int | None) -> list[Tensor | None]:
        if window not in self._seen:
            self._seen[window] = [bucket.visible(self.written, window) for bucket in self.buckets]
        return self._seen[window]

    def _with(self, held: dict[int, Tensor], layer: int, new: Tensor) -> Tensor:
        """(R, H, written + 1, D) what a layer holds, with the new token."""
        if layer not in held:
            rows, heads, _, width = new.shape
            held[layer] = new.new_zeros((rows, heads, INITIAL_ROOM, width), dtype=_kept(new))
        elif held[layer].shape[2] == self.written:
            held[layer] = torch.cat([held[layer], torch.zeros_like(held[layer])], 2)
        states = held[layer][:, :, : self.written + 1]
        states[:, :, -1] = new[:, :, 0]
        return states


def _kept(states: Tensor) -> torch.dtype:
    """Small products in bfloat16 are slow on a CPU, and rounded for nothing."""
    return torch.float32 if states.device.type == "cpu" and states.dtype == torch.bfloat16 else states.dtype


# ---- in the place of a model's attention -------------------------------------------------------------------

_present: ContextVar[AttentionBackend] = ContextVar("attention")


@contextlib.contextmanager
def exchange_attention(model: Any) -> Iterator[None]:
    """
    Inside, the model attends as `attending` says.

    Raises ConfigError for a model whose attention transformers can't exchange.
    """
    from transformers import AttentionInterface, PreTrainedModel

    AttentionInterface.register(NAME, _attend)
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    if not parts or not all(part._can_set_attn_implementation() for part in parts):
        raise ConfigError(
            f"The attention of {type(model).__name__} can't be exchanged, so prompts can't be shared: take a model "
            "that follows the AttentionInterface of transformers."
        )
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
def use_backend(state: AttentionBackend) -> Iterator[None]:
    """What attends inside of `attention`."""
    token = _present.set(state)
    try:
        yield
    finally:
        _present.reset(token)


def _attend(
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
    how = AttentionOptions(scaling or query.shape[-1] ** -0.5, sliding_window, softcap, s_aux)
    return _present.get().attend(module.layer_idx, query, key, value, how), None
