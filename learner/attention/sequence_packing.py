"""
How a slice lies in one row: each distinct prompt once, behind it all its replies, without padding.

Groups of like size are taken together in attention: a bucket of n prompts of up to P tokens with up to G replies of up
to R tokens each. The last token of a reply is left out: nothing is predicted from it.
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
    """
    n x G rows of up to R tokens; `slots` are those of its N tokens among n G R, None where all are taken.

    `start` is where its tokens begin in the row.
    """

    n: int
    groups: int
    rows: int
    start: int
    slots: Tensor | None
    size: int

    def unpack(self, row: Tensor) -> Tensor:
        """(T, ...) of the row -> (n, G, R, ...), zeros where there is no token."""
        own = row[self.start : self.start + self.size]
        if self.slots is not None:
            shape = (self.n * self.groups * self.rows, *row.shape[1:])
            own = row.new_zeros(shape).index_copy_(0, self.slots, own)
        return own.view(self.n, self.groups, self.rows, *row.shape[1:])

    def pack(self, blocks: Tensor, row: Tensor) -> None:
        """(n, G, R, ...) -> its place in the row (T, ...)."""
        flat = blocks.reshape(-1, *row.shape[1:])
        row[self.start : self.start + self.size] = flat if self.slots is None else flat[self.slots]


@dataclass(eq=False)
class Bucket:
    """n prompts and their replies. `lengths` (n,) tokens of each prompt."""

    prompts: Block
    replies: Block
    lengths: Tensor
    _biases: dict[tuple[int, int, int | None], Tensor | None] = field(default_factory=dict)

    @cached_property
    def ragged(self) -> bool:
        """Whether its prompts differ in length."""
        return bool((self.lengths != self.prompts.rows).any())

    def context_bias(self, a: int, b: int, window: int | None, like: Tensor) -> Tensor | None:
        """What is added to the scores of rows a to b of replies against prompts: (n, 1, 1, b - a, 1, P), or None."""
        if window is not None and window >= self.prompts.rows + b:
            window = None
        if not self.ragged and window is None:
            return None
        key = (a, b, window)
        if key not in self._biases:
            self._biases[key] = self._context_bias(a, b, window, like)
        return self._biases[key]

    def _context_bias(self, a: int, b: int, window: int | None, like: Tensor) -> Tensor:
        at = torch.arange(self.prompts.rows, device=like.device)
        lengths = self.lengths[:, None, None].to(like.device)
        hidden = (at >= lengths).expand(-1, b - a, -1)
        if window is not None:
            now = lengths + torch.arange(a, b, device=like.device)[None, :, None]
            hidden = hidden | (now - at >= window)
        return _bias(hidden, like)[:, None, None, :, None, :]


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """
    A slice in one row of T tokens.

    `ids` and `positions` (T,). Of N tokens of replies, `rows` (N,) is the place in `sources` of the state that predicts
    each, `targets` (N,) the token and `places` (N,) where its value goes in (b, T) flattened. `sources` are places in
    the row, each once.
    """

    ids: Tensor
    positions: Tensor
    buckets: tuple[Bucket, ...]
    sources: Tensor
    rows: Tensor
    targets: Tensor
    places: Tensor

    @property
    def longest(self) -> int:
        """The largest number of tokens that one attends to."""
        return int(self.positions.max()) + 1 if len(self.positions) else 0


def _bias(hidden: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))


@lru_cache(64)
def _causal(a: int, b: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    now, at = torch.arange(a, b, device=device)[:, None], torch.arange(b, device=device)[None]
    hidden = at > now
    if window is not None:
        hidden = hidden | (now - at >= window)
    return _bias(hidden, torch.empty(0, dtype=dtype, device=device))[:, None, :]


def causal_bias(a: int, b: int, window: int | None, like: Tensor) -> Tensor:
    """What is added to the scores of rows a to b against keys 0 to b of the same rows: (b - a, 1, b)."""
    return _causal(a, b, window, like.dtype, like.device)


# ---- made of a slice -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Group:
    """A prompt and its replies by their number in the slice, each with the tokens that are computed."""

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
    The layout of replies `ids` (b, T) of these lengths behind their prompts.

    ValueError for an empty prompt, behind which nothing predicts the first token.
    """
    if not all(prompts):
        raise ValueError("a prompt has no tokens: begin it with the model's first token")
    buckets, order = [], []
    start = 0
    for groups in _bucketed(_grouped(prompts, lengths)):
        bucket = _bucket(groups, start)
        start = bucket.replies.start + bucket.replies.size
        buckets.append(bucket)
        order.append(groups)
    return _indexed(order, buckets, ids, lengths, device)


def _grouped(prompts: Sequence[tuple[int, ...]], lengths: Sequence[int]) -> list[_Group]:
    members: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        if lengths[i]:
            members.setdefault(prompt, []).append(i)
    return [_Group(p, tuple(own), tuple(lengths[i] - 1 for i in own)) for p, own in members.items()]


def _bucketed(groups: Sequence[_Group]) -> Iterator[list[_Group]]:
    """Groups that are taken together: as long as padding costs less than another bucket."""
    taken: list[_Group] = []
    for group in sorted(groups, key=lambda g: g.shape):
        if taken and _pairs([*taken, group]) > _pairs(taken) + _pairs([group]) + BUCKET_COST:
            yield taken
            taken = []
        taken.append(group)
    if taken:
        yield taken


def _pairs(groups: Sequence[_Group]) -> float:
    """Query-key pairs of a bucket."""
    p, g, r = (max(sizes) for sizes in zip(*(group.shape for group in groups), strict=True))
    return len(groups) * (p * p / 2 + g * r * (p + r))


def _bucket(groups: Sequence[_Group], start: int) -> Bucket:
    lengths = [len(group.prompt) for group in groups]
    prompts = _block([[x] for x in lengths], start)
    replies = _block([group.sizes for group in groups], start + prompts.size)
    return Bucket(prompts, replies, torch.tensor(lengths))


def _block(sizes: Sequence[Sequence[int]], start: int) -> Block:
    wide, rows = max(map(len, sizes)), max(max(own) for own in sizes)
    lengths = torch.tensor([[*own, *[0] * (wide - len(own))] for own in sizes])
    taken = torch.arange(rows) < lengths[..., None]
    slots = None if bool(taken.all()) else taken.flatten().nonzero()[:, 0]
    return Block(len(sizes), wide, rows, start, slots, int(lengths.sum()))


def _indexed(
    order: Sequence[Sequence[_Group]],
    buckets: Sequence[Bucket],
    ids: Tensor,
    lengths: Sequence[int],
    device: torch.device,
) -> PackedLayout:
    """The tokens in the order of the buckets, and where each token of a reply is predicted."""
    row: list[int] = []
    positions: list[int] = []
    found: list[tuple[int, int, int]] = []
    words = ids.tolist()
    for groups in order:
        first = len(row)
        ends = []
        for group in groups:
            row += group.prompt
            positions += range(len(group.prompt))
            ends.append(len(row) - 1)
        for group, end in zip(groups, ends, strict=True):
            for i, size in zip(group.members, group.sizes, strict=True):
                at = len(row)
                row += words[i][:size]
                positions += range(len(group.prompt), len(group.prompt) + size)
                before = [end, *range(at, at + size)]
                found += [(s, words[i][t], i * ids.shape[1] + t) for t, s in enumerate(before)]
        assert first == buckets[len(ends) and order.index(groups)].prompts.start
    table = torch.tensor(found, dtype=torch.long).reshape(-1, 3)
    sources, rows = table[:, 0].unique(return_inverse=True)
    return PackedLayout(
        torch.tensor(row, device=device),
        torch.tensor(positions, device=device),
        tuple(_moved(bucket, device) for bucket in buckets),
        *(x.to(device) for x in (sources, rows, table[:, 1], table[:, 2])),
    )


def _moved(bucket: Bucket, device: torch.device) -> Bucket:
    def moved(block: Block) -> Block:
        slots = None if block.slots is None else block.slots.to(device)
        return Block(block.n, block.groups, block.rows, block.start, slots, block.size)

    return Bucket(moved(bucket.prompts), moved(bucket.replies), bucket.lengths.to(device))
