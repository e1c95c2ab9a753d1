"""
Packing of a slice into one row: each distinct prompt once, its replies behind it, without padding.

Prompts of like size are taken together in attention: a bucket of n prompts of up to P tokens with up to G replies of
up to R tokens each. Example: a prompt A of two tokens with the reply "y z", and B of three with "u v w" and "x".

    place       0   1   2   3   4   5   6   7        one bucket: n = 2, P = 3, G = 2, R = 2
    row        A1  A2  B1  B2  B3   y   u   v
    position    0   1   0   1   2   2   3   4        prompts [n, 1, P]    replies [n, G, R]
    predicts        y          u,x  z   v   w         A1 A2  .             y  .    .  .
                                                      B1 B2 B3             u  v    .  .

The last token of a reply is left out, since nothing is predicted from it; so "x" takes no place at all. The index of
tokens is then

    token        y  z  u  v  w  x       in the order of the row, N = 6
    sources      1  4  5  6  7          places that predict, each once: here the head is computed
    source_of    0  2  1  3  4  1       the source of each token: two tokens follow B3

Shapes: b replies in the slice of up to T' tokens, T tokens in the row, N tokens of replies, n, P, G and R as above.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
from torch import Tensor

BUCKET_COST = 100_000
"""Query-key pairs that take as long as the operations of one more bucket."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows [n, G, R] of tokens that lie one after the other in the packed row, from `start` on."""

    n: int
    groups: int  # G
    rows: int  # R
    start: int
    slots: Tensor | None  # [size] slots of its tokens among the n G R; None if all are taken
    size: int  # number of tokens

    def unpack(self, row: Tensor) -> Tensor:
        """Return the block [n, G, R, ...] of a row [T, ...], with zeros in slots without a token."""
        own = row[self.start : self.start + self.size]
        if self.slots is not None:
            shape = (self.n * self.groups * self.rows, *row.shape[1:])
            own = row.new_zeros(shape).index_copy_(0, self.slots, own)
        return own.view(self.n, self.groups, self.rows, *row.shape[1:])

    def pack(self, blocks: Tensor, row: Tensor) -> None:
        """Write a block [n, G, R, ...] to its place in the row [T, ...]."""
        flat = blocks.reshape(-1, *row.shape[1:])
        row[self.start : self.start + self.size] = flat if self.slots is None else flat[self.slots]


@dataclass(eq=False)
class Bucket:
    """n prompts and their replies."""

    prompts: Block  # [n, 1, P]
    replies: Block  # [n, G, R]
    lengths: Tensor  # [n] tokens of each prompt
    _biases: dict[tuple[int, int, int | None], Tensor | None] = field(default_factory=dict)

    @cached_property
    def is_ragged(self) -> bool:
        """Whether its prompts differ in length."""
        return bool((self.lengths != self.prompts.rows).any())

    def context_bias(self, a: int, b: int, window: int | None, like: Tensor) -> Tensor | None:
        """Return the bias of scores of reply rows a to b against prompts, [n, 1, 1, b - a, 1, P]; None if it is 0."""
        if window is not None and window >= self.prompts.rows + b:
            window = None
        if not self.is_ragged and window is None:
            return None
        # All layers of a forward and backward ask for the same few.
        key = (a, b, window)
        if key not in self._biases:
            at = torch.arange(self.prompts.rows, device=like.device)
            lengths = self.lengths[:, None, None].to(like.device)
            is_hidden = (at >= lengths).expand(-1, b - a, -1)  # [n, b - a, P] padding of shorter prompts
            if window is not None:
                now = lengths + torch.arange(a, b, device=like.device)[None, :, None]
                is_hidden = is_hidden | (now - at >= window)
            self._biases[key] = _to_bias(is_hidden, like.dtype)[:, None, None, :, None, :]
        return self._biases[key]


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """A slice packed into one row of T tokens, and the index of the N tokens of its replies."""

    ids: Tensor  # [T]
    positions: Tensor  # [T]
    buckets: tuple[Bucket, ...]
    sources: Tensor  # [U] places in the row whose states predict tokens, each once
    source_of: Tensor  # [N] index into `sources`
    targets: Tensor  # [N] ids of the tokens
    places: Tensor  # [N] index into the flattened slice [b, T']

    @property
    def longest(self) -> int:
        """Largest number of tokens that one token attends to."""
        return int(self.positions.max()) + 1 if len(self.positions) else 0


def _to_bias(is_hidden: Tensor, dtype: torch.dtype) -> Tensor:
    bias = torch.zeros(is_hidden.shape, dtype=dtype, device=is_hidden.device)
    return bias.masked_fill_(is_hidden, float("-inf"))


@lru_cache(64)
def causal_bias(a: int, b: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the bias of scores of rows a to b against keys 0 to b of the same rows, [b - a, 1, b]."""
    now, at = torch.arange(a, b, device=device)[:, None], torch.arange(b, device=device)[None]
    is_hidden = at > now
    if window is not None:
        is_hidden = is_hidden | (now - at >= window)
    return _to_bias(is_hidden, dtype)[:, None, :]


# ---- packing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Group:
    """A prompt and its replies: their numbers in the slice, and how many tokens of each are in the row."""

    prompt: tuple[int, ...]
    members: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.prompt), len(self.members), max(self.sizes)


def pack_sequences(
    prompts: Sequence[tuple[int, ...]], ids: Tensor, lengths: Sequence[int], device: torch.device
) -> PackedLayout:
    """
    Return the layout of replies `ids` [b, T'] of these lengths behind their prompts.

    Raises ValueError for an empty prompt, because nothing would predict the first token of its replies.
    """
    if not all(prompts):
        raise ValueError("a prompt has no tokens: begin it with the model's first token")
    members: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        if lengths[i]:
            members.setdefault(prompt, []).append(i)
    distinct = [_Group(p, tuple(own), tuple(lengths[i] - 1 for i in own)) for p, own in members.items()]

    row: list[int] = []
    positions: list[int] = []
    index: list[tuple[int, int, int]] = []  # of each token: the place that predicts it, its id, its place in `ids`
    buckets: list[Bucket] = []
    words = ids.tolist()
    for groups in _bucket_groups(distinct):
        # Where the bucket's tokens come to lie.
        prompt_lengths = [len(group.prompt) for group in groups]
        prompt_block = _make_block([[length] for length in prompt_lengths], len(row), device)
        reply_block = _make_block([group.sizes for group in groups], len(row) + prompt_block.size, device)
        buckets.append(Bucket(prompt_block, reply_block, torch.tensor(prompt_lengths).to(device)))

        # All prompts of the bucket, then all replies.
        ends = []
        for group in groups:
            row += group.prompt
            positions += range(len(group.prompt))
            ends.append(len(row) - 1)
        for group, end in zip(groups, ends, strict=True):
            for i, size in zip(group.members, group.sizes, strict=True):
                # The prompt's last token predicts the first of the reply, each of its tokens the next.
                sources = [end, *range(len(row), len(row) + size)]
                index += [(s, words[i][t], i * ids.shape[1] + t) for t, s in enumerate(sources)]
                row += words[i][:size]
                positions += range(len(group.prompt), len(group.prompt) + size)

    table = torch.tensor(index, dtype=torch.long).reshape(-1, 3)
    sources, source_of = table[:, 0].unique(return_inverse=True)
    return PackedLayout(
        torch.tensor(row, device=device),
        torch.tensor(positions, device=device),
        tuple(buckets),
        *(x.to(device) for x in (sources, source_of, table[:, 1], table[:, 2])),
    )


def _bucket_groups(groups: Sequence[_Group]) -> Iterator[list[_Group]]:
    """Yield groups that are taken together, as long as padding costs less than another bucket."""

    def count_pairs(groups: Sequence[_Group]) -> float:
        """Return the query-key pairs of a bucket: a triangle for each prompt, a rectangle for its replies."""
        p, g, r = (max(sizes) for sizes in zip(*(group.shape for group in groups), strict=True))
        return len(groups) * (p * p / 2 + g * r * (p + r))

    bucket: list[_Group] = []
    for group in sorted(groups, key=lambda g: g.shape):
        if bucket and count_pairs([*bucket, group]) > count_pairs(bucket) + count_pairs([group]) + BUCKET_COST:
            yield bucket
            bucket = []
        bucket.append(group)
    if bucket:
        yield bucket


def _make_block(sizes: Sequence[Sequence[int]], start: int, device: torch.device) -> Block:
    """Return the block of n groups of rows with these numbers of tokens."""
    groups, rows = max(map(len, sizes)), max(max(own) for own in sizes)
    lengths = torch.tensor([[*own, *[0] * (groups - len(own))] for own in sizes])  # [n, G]
    is_taken = torch.arange(rows) < lengths[..., None]  # [n, G, R]
    slots = None if bool(is_taken.all()) else is_taken.flatten().nonzero()[:, 0].to(device)
    return Block(len(sizes), groups, rows, start, slots, int(lengths.sum()))
