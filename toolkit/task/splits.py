"""Train, validation and test splits: by fractions of the rows, or one file per split."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.task.examples import SourcedExample
from edgewise.toolkit.task.readers import Row
from edgewise.toolkit.util.hashing import hash_text

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Parts = dict[str, list[SourcedExample]]
"""The examples of each split."""


class Fractions(BaseModel, extra="forbid", frozen=True):
    """Shares of the rows, sampled with `seed`; a split that is not named gets none."""

    train: float = Field(0.0, ge=0)
    validation: float = Field(0.0, ge=0)
    test: float = Field(gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def check_sum(self) -> "Fractions":
        """Raise ValueError unless the shares add up to 1."""
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test must add up to 1, not {total:g}")
        return self


class Files(BaseModel, extra="forbid", frozen=True):
    """One source of rows per split."""

    train: str | None = None
    validation: str | None = None
    test: str


def detect_kind(splits: Any) -> str:
    """Return the tag of `Splits`: text values name files, numbers are fractions."""
    values = splits.values() if isinstance(splits, Mapping) else ()
    is_files = isinstance(splits, Files) or any(isinstance(value, str) for value in values)
    return "files" if is_files else "fractions"


# A tag, not the first model that fits, decides the kind, so that errors are about the kind that the user meant.
Splits = Annotated[Annotated[Fractions, Tag("fractions")] | Annotated[Files, Tag("files")], Discriminator(detect_kind)]


def check_row_lists(rows: Mapping[Any, Iterable[Row]], splits: Any) -> dict[str, list[Row]]:
    """Return the rows of each split as lists. Raises TaskError for other keys, no test split, or other `splits`."""
    if set(rows) - set(SPLITS) or "test" not in rows or splits is not None:
        raise TaskError(
            "rows are a list of dicts, or a dict with lists under train, validation and test (test at least) "
            "and then no splits"
        )
    return {name: list(part) for name, part in rows.items()}


def split_rows(examples: Sequence[SourcedExample], fractions: Fractions) -> Parts:
    """
    Split examples into three parts of exact sizes, each sorted by id.

    The order of the rows changes nothing.
    """
    # A hash of seed and id orders the rows, as a shuffle would depend on the order in which they came.
    keys = {x.example.id: hash_text(f"{fractions.seed}:{x.example.id}", 64) for x in examples}
    deck = iter(sorted(examples, key=lambda x: keys[x.example.id]))
    shares = {name: getattr(fractions, name) for name in SPLITS}
    return {
        name: sorted((next(deck) for _ in range(size)), key=lambda x: x.example.id)
        for name, size in split_sizes(len(examples), shares).items()
    }


def split_sizes(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """
    Return how many of `total` rows each share gets: whole numbers by the largest remainder, which add up to `total`.

    A share above 0 gets a row in any case, from the largest one. Raises TaskError if there are too few rows.
    """
    # Shares as decimal text, since 0.29 * 100 is just below 29 in binary.
    whole = sum(Fraction(str(share)) for share in shares.values())
    quotas = {name: Fraction(str(share)) * total / whole for name, share in shares.items()}
    counts = {name: int(quota) for name, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: counts[name] - quotas[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1

    # A share that was rounded to nothing takes a row from the largest split.
    for name in [name for name, share in shares.items() if share > 0 and not counts[name]]:
        largest = max(counts, key=lambda name: counts[name])
        if counts[largest] < 2:
            raise TaskError(f"{total} rows are too few for the splits {', '.join(n for n in shares if shares[n])}")
        counts[largest] -= 1
        counts[name] += 1
    return counts
