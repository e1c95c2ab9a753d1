"""
Finished groups as tensors: token ids, the advantage of each sequence, and the columns that losses read.

Shapes: B sequences in a batch (one for each step of a rollout), b of them in a slice, T tokens of the longest reply.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Bound on the logarithm of a ratio: e^20 and its square are finite in float32."""


@dataclass(frozen=True, slots=True)
class Batch:
    """
    All B sequences of an optimizer step, before they are cut into slices.

    Everything is on the CPU. `advantage` and columns of one value a sequence are float64.
    """

    prompts: tuple[tuple[int, ...], ...]  # B rows of token ids
    ids: Tensor  # [B, T] token ids of the replies, padded with 0 on the right
    mask: Tensor  # [B, T] true where the policy wrote the token
    group: Tensor  # [B] number of the group
    advantage: Tensor  # [B, 1] or [B, T]
    columns: Mapping[str, Tensor] = field(default_factory=dict)  # [B] or [B, T], what else parts read

    @classmethod
    def from_lists(
        cls,
        prompts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[int]],
        group: Sequence[int],
        advantage: Sequence[float],
        **columns: Any,
    ) -> "Batch":
        """Return a batch made of lists. Columns with a list for each sequence are padded as the replies are."""
        longest = max([1, *map(len, replies)])
        ids = torch.zeros(len(replies), longest, dtype=torch.long)
        for i, reply in enumerate(replies):
            ids[i, : len(reply)] = torch.tensor(reply, dtype=torch.long)
        mask = torch.arange(longest)[None] < torch.tensor([len(reply) for reply in replies])[:, None]

        tensors: dict[str, Tensor] = {}
        for name, values in columns.items():
            if isinstance(values, Tensor):
                tensors[name] = values
            elif len(values) and isinstance(values[0], Sequence):
                rows = [[*row, *[0.0] * (longest - len(row))] for row in values]
                tensors[name] = torch.tensor(rows, dtype=torch.float32)  # as precise as log-probabilities are
            else:
                tensors[name] = torch.tensor(values, dtype=torch.float64)
        credit = torch.tensor(advantage, dtype=torch.float64)[:, None]
        return cls(tuple(map(tuple, prompts)), ids, mask, torch.tensor(group), credit, tensors)

    def __len__(self) -> int:
        return len(self.prompts)

    def column(self, name: str) -> Tensor:
        """Return a column. Raise ValueError that lists the others if it is missing."""
        return _get_column(self.columns, name)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each reply, [B]."""
        return self.mask.sum(1)

    def select_rows(self, rows: Sequence[int]) -> "Batch":
        """Return the batch of some sequences, cut to the longest reply among them."""
        index = torch.tensor(list(rows), dtype=torch.long)
        longest = max(1, int(self.lengths[index].max())) if len(index) else 0

        def cut(values: Tensor) -> Tensor:
            # [B] and [B, 1] have no axis of tokens to cut.
            selection = values[index]
            return selection[:, :longest] if selection.ndim == 2 and selection.shape[1] > 1 else selection

        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in rows),
            ids=cut(self.ids),
            mask=cut(self.mask),
            group=self.group[index],
            advantage=cut(self.advantage),
            columns={name: cut(values) for name, values in self.columns.items()},
        )

    def with_columns(self, **columns: Tensor) -> "Batch":
        """Return the batch with more columns."""
        return replace(self, columns={**self.columns, **columns})


@dataclass(frozen=True, slots=True)
class LossInputs:
    """
    Tensors of a slice that losses and penalties read.

    `columns` holds what the parts declare with `reads_columns`: "ref_logp" of the reference model, "entropy" [b, T] of
    the policy, with a gradient, "sampler_logp", or any column of the batch. Values outside of `mask` are set to 0, so
    that padding, NaN included, reaches no gradient.
    """

    logp: Tensor  # [b, T] of the policy, with a gradient
    old_logp: Tensor  # [b, T] of the policy before the update
    mask: Tensor  # [b, T]
    advantage: Tensor  # [b, 1] or [b, T]
    group: Tensor  # [b]
    columns: Mapping[str, Tensor] = field(default_factory=dict)  # [b] or [b, T]

    def __post_init__(self) -> None:
        def clean(values: Tensor) -> Tensor:
            return torch.where(self.mask, values, 0.0) if values.shape == self.mask.shape else values

        for name in ("logp", "old_logp", "advantage"):
            object.__setattr__(self, name, clean(getattr(self, name)))
        object.__setattr__(self, "columns", {name: clean(values) for name, values in self.columns.items()})

    def column(self, name: str) -> Tensor:
        """Return a column, [b, 1] or [b, T]. Raise ValueError that lists the others if it is missing."""
        values = _get_column(self.columns, name)
        return values[:, None] if values.ndim == 1 else values

    @property
    def log_ratio(self) -> Tensor:
        """Logarithm of the ratio of the policy to the old policy, [b, T], 0 outside of the mask."""
        return self.logp - self.old_logp

    @property
    def ratio(self) -> Tensor:
        """Ratio of the policy's probability to the old policy's, [b, T], finite since its logarithm is clamped."""
        return self.log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the tokens of each sequence, [b, 1]; 0 for a sequence without tokens."""
        return self.sum(values) / self.mask.sum(1, keepdim=True).clamp(min=1)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the tokens of each sequence, [b, 1]."""
        return torch.where(self.mask, values, 0.0).sum(1, keepdim=True)

    def select_columns(self, names: Collection[str]) -> "LossInputs":
        """Return the inputs with these columns only."""
        return replace(self, columns={name: x for name, x in self.columns.items() if name in names})


def split_into_slices(batch: Batch, tokens: int, *, whole_groups: bool = False) -> Iterator[list[int]]:
    """
    Yield the row numbers of slices of about `tokens` tokens, counting a prompt that rows share once.

    Rows with equal prompts stay side by side. With `whole_groups` no group is cut. A slice holds at least one row or
    group, however large it is.
    """
    order = sorted(range(len(batch)), key=lambda i: (int(batch.group[i]), batch.prompts[i], i))
    units = [[i] for i in order]
    if whole_groups:
        units = [list(rows) for _, rows in groupby(order, key=lambda i: int(batch.group[i]))]

    rows: list[int] = []
    prompts: set[tuple[int, ...]] = set()
    used = 0
    for unit in units:
        own, replies = {batch.prompts[i] for i in unit}, int(batch.lengths[unit].sum())
        size = sum(map(len, own - prompts)) + replies
        if rows and used + size > tokens:
            yield rows
            rows, prompts, used = [], set(), 0
            size = sum(map(len, own)) + replies  # in a new slice no prompt is there yet
        rows, prompts, used = rows + unit, prompts | own, used + size
    if rows:
        yield rows


def _get_column(columns: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in columns:
        raise ValueError(
            f"there is no column {name!r}, only {sorted(columns)}: declare it with @reads_columns({name!r})"
        )
    return columns[name]
