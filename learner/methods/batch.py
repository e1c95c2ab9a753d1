"""
What comes of finished groups for an update: token ids, weights of axis 7, and the columns that losses read.

B sequences in a batch (a step of a rollout each), b in a slice of it, T tokens of the longest reply.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

EXTREME = 20.0
"""The largest logarithm of a ratio."""


@dataclass(frozen=True, slots=True)
class Batch:
    """
    B sequences, all that an optimizer step is about, before it is sliced.

    `prompts` are the ids before each reply, `ids` (B, T) those of replies, padded; `mask` (B, T) is true where a token
    was written by the policy. `group` (B,) numbers groups. `advantage` is (B, 1) or (B, T). `columns` holds what else
    parts read, (B,) or (B, T), by name. Everything is on the CPU; `advantage` and (B,) columns are float64.
    """

    prompts: tuple[tuple[int, ...], ...]
    ids: Tensor
    mask: Tensor
    group: Tensor
    advantage: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[int]],
        group: Sequence[int],
        advantage: Sequence[float],
        **columns: Any,
    ) -> "Batch":
        """A batch of lists; ragged columns of one value a token are padded as the replies are."""
        ids, mask = padded(replies)
        found = {name: _column(values, ids.shape[1]) for name, values in columns.items()}
        credit = torch.tensor(advantage, dtype=torch.float64)[:, None]
        return cls(tuple(map(tuple, prompts)), ids, mask, torch.tensor(group), credit, found)

    def __len__(self) -> int:
        return len(self.prompts)

    def column(self, name: str) -> Tensor:
        """A column by name. ValueError that says which there are."""
        return _named(self.columns, name)

    @property
    def lengths(self) -> Tensor:
        """(B,) tokens of each reply."""
        return self.mask.sum(1)

    def rows(self, which: Sequence[int]) -> "Batch":
        """The same of some sequences, cut to the longest reply among them."""
        index = torch.tensor(list(which), dtype=torch.long)
        longest = max(1, int(self.lengths[index].max())) if len(index) else 0

        def cut(values: Tensor) -> Tensor:
            chosen = values[index]
            return chosen[:, :longest] if chosen.ndim == 2 and chosen.shape[1] > 1 else chosen

        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in which),
            ids=cut(self.ids),
            mask=cut(self.mask),
            group=self.group[index],
            advantage=cut(self.advantage),
            columns={name: cut(values) for name, values in self.columns.items()},
        )

    def with_columns(self, **columns: Tensor) -> "Batch":
        """The same with more columns."""
        return replace(self, columns={**self.columns, **columns})


@dataclass(frozen=True, slots=True)
class Tokens:
    """
    What losses and penalties read of a slice: b sequences of T tokens.

    `logp` (b, T) of the policy, with a gradient; `old_logp` (b, T) of the policy before the update; `mask` (b, T);
    `advantage` (b, 1) or (b, T); `group` (b,). Other columns are there by name where a part declares them with `reads`:
    "ref_logp" of the reference model, "entropy" (b, T) of the policy, with a gradient, "sampler_logp", or any of the
    batch. What stands where `mask` is false is set to 0, so that garbage there, NaN included, reaches no gradient.
    """

    logp: Tensor
    old_logp: Tensor
    mask: Tensor
    advantage: Tensor
    group: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("logp", "old_logp", "advantage"):
            object.__setattr__(self, name, self._clean(getattr(self, name)))
        object.__setattr__(self, "columns", {k: self._clean(v) for k, v in self.columns.items()})

    def column(self, name: str) -> Tensor:
        """(b, 1) or (b, T) a column by name. ValueError that says which there are."""
        values = _named(self.columns, name)
        return values[:, None] if values.ndim == 1 else values

    @property
    def log_ratio(self) -> Tensor:
        """(b, T) log of the policy's probability over the old policy's, 0 outside of the mask."""
        return self.logp - self.old_logp

    @property
    def ratio(self) -> Tensor:
        """(b, T) the policy's probability over the old policy's, its log held within 20, so that it stays finite."""
        return self.log_ratio.clamp(-EXTREME, EXTREME).exp()

    def mean(self, values: Tensor) -> Tensor:
        """(b, 1) the mean over the tokens of each sequence; 0 for one without any."""
        return self.sum(values) / self.mask.sum(1, keepdim=True).clamp(min=1)

    def sum(self, values: Tensor) -> Tensor:
        """(b, 1) the sum over the tokens of each sequence."""
        return torch.where(self.mask, values, 0.0).sum(1, keepdim=True)

    def only(self, names: Collection[str]) -> "Tokens":
        """The same without other columns."""
        return replace(self, columns={k: v for k, v in self.columns.items() if k in names})

    def _clean(self, values: Tensor) -> Tensor:
        return torch.where(self.mask, values, 0.0) if values.shape == self.mask.shape else values


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(B, T) ids, 0 behind the end of a row, and the mask that is true before it."""
    lengths = torch.tensor([len(row) for row in rows])
    longest = max(1, int(lengths.max())) if len(rows) else 1
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return ids, torch.arange(longest)[None] < lengths[:, None]


def slices(batch: Batch, tokens: int, *, whole_groups: bool = False) -> Iterator[list[int]]:
    """
    Rows of slices whose prompts and replies are about `tokens` together, a shared prompt counted once.

    Rows with the same prompt stay side by side, those of a group together if `whole_groups`. A slice has at least one
    such unit, however large it is.
    """
    taken: list[int] = []
    prompts: set[tuple[int, ...]] = set()
    used = 0
    for unit in _units(batch, whole_groups):
        new = {batch.prompts[i] for i in unit} - prompts
        size = sum(map(len, new)) + int(batch.lengths[unit].sum())
        if taken and used + size > tokens:
            yield taken
            taken, prompts, used = [], set(), 0
            new = {batch.prompts[i] for i in unit}
            size = sum(map(len, new)) + int(batch.lengths[unit].sum())
        taken, prompts, used = taken + unit, prompts | new, used + size
    if taken:
        yield taken


def _units(batch: Batch, whole_groups: bool) -> list[list[int]]:
    order = sorted(range(len(batch)), key=lambda i: (int(batch.group[i]), batch.prompts[i], i))
    if not whole_groups:
        return [[i] for i in order]
    return [list(each) for _, each in groupby(order, key=lambda i: int(batch.group[i]))]


def _column(values: Any, longest: int) -> Tensor:
    if isinstance(values, Tensor):
        return values
    if len(values) and isinstance(values[0], Sequence):
        rows = [[*row, *[0.0] * (longest - len(row))] for row in values]
        return torch.tensor(rows, dtype=torch.float32)
    return torch.tensor(values, dtype=torch.float64)


def _named(columns: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in columns:
        raise ValueError(
            f"there is no column {name!r}, only {sorted(columns)}: declare it with @reads({name!r})"
        )
    return columns[name]
