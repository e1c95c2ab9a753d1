"""Train, validation and test splits: by fractions of the rows, or one file per split."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.task.examples import Placed
from edgewise.toolkit.task.readers import Row

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Fractions(BaseModel, extra="forbid", frozen=True):
    """Shares of the rows, drawn with `seed`; a split that is not named gets none."""

    train: float = Field(0.0, ge=0)
    validation: float = Field(0.0, ge=0)
    test: float = Field(gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def _whole(self) -> "Fractions":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test must add up to 1, not {total:g}")
        return self


class Files(BaseModel, extra="forbid", frozen=True):
    """One source of rows per split."""

    train: str | None = None
    validation: str | None = None
    test: str


def _kind(splits: Any) -> str:
    values = splits.values() if isinstance(splits, Mapping) else ()
    return "files" if isinstance(splits, Files) or any(isinstance(v, str) for v in values) else "fractions"


Splits = Annotated[
    Annotated[Fractions, Tag("fractions")] | Annotated[Files, Tag("files")], Discriminator(_kind)
]


def _lists(rows: Mapping[Any, Iterable[Row]], splits: Any) -> dict[str, list[Row]]:
    odd = set(rows) - set(SPLITS)
    if odd or "test" not in rows or splits is not None:
        raise TaskError(
            "rows are a list of dicts, or a dict with lists under train, validation and test (test at least) "
            "and then no splits"
        )
    return {name: list(part) for name, part in rows.items()}


Parts = dict[str, list[Placed]]


def divided(placed: Sequence[Placed], fractions: Fractions) -> Parts:
    """
    The rows in three splits of exact sizes, each sorted by id.

    Rows are dealt out in the order of a hash of seed and id, so the order they came in changes nothing.
    """

    def draw(one: Placed) -> bytes:
        return hashlib.sha256(f"{fractions.seed}:{one.example.id}".encode()).digest()

    deck = iter(sorted(placed, key=draw))
    shares = {name: getattr(fractions, name) for name in SPLITS}
    return {
        name: sorted((next(deck) for _ in range(size)), key=lambda one: one.example.id)
        for name, size in sizes(len(placed), shares).items()
    }


def sizes(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """
    How many of `total` rows each share gets: whole numbers by the largest remainder, which add up to `total`.

    A share above 0 gets a row in any case, from the largest one. TaskError if there are too few rows.
    """
    # Decimal text, since 0.29 * 100 is just below 29 in binary.
    exact = {
        name: Fraction(str(share)) * total / sum(Fraction(str(s)) for s in shares.values())
        for name, share in shares.items()
    }
    counts = {name: int(quota) for name, quota in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    for name in [name for name, share in shares.items() if share > 0 and not counts[name]]:
        largest = max(counts, key=lambda name: counts[name])
        if counts[largest] < 2:
            raise TaskError(
                f"{total} rows are too few for the splits {', '.join(n for n in shares if shares[n])}"
            )
        counts[largest] -= 1
        counts[name] += 1
    return counts
