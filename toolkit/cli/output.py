"""What the ways of improving print, and how their settings come from the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgewise.toolkit.budget.prices import ANY, Price
from edgewise.toolkit.run.runner import Result


@dataclass(frozen=True, slots=True)
class Output:
    """Something to print: for people as lines, for programs as data."""

    text: Sequence[str]
    data: Any

    def lines(self) -> Sequence[str]:
        """For people."""
        return self.text

    def to_json(self) -> Any:
        """For programs."""
        return self.data


@dataclass(frozen=True, slots=True)
class ImproveOutput(Output):
    """What `improve` prints, and whether it found something worth keeping."""

    improved: bool = False


def given_price(price: str | None) -> dict[str, Any]:
    """The setting `prices` for a price on the command line, such as "0.15,0.6"."""
    return {"prices": {ANY: _numbers(Price.parse(price))}} if price else {}


def _numbers(price: Price) -> tuple[float, ...]:
    return (price.input, price.output) if price.cached is None else (price.input, price.output, price.cached)


def render_costs(result: Result) -> list[str]:
    """What learning and measuring cost, and how long it took."""
    parts = {"learning": result.costs["learning"], "measuring": result.costs["measuring"]}
    lines = [f"{name}: {_cost(book)}" for name, book in parts.items() if book["calls"]]
    shared = result.costs["shared"]
    if shared["calls"]:
        tokens = shared["input"] + shared["output"]
        lines.append(
            f"shared by runs of a group, not paid twice: {shared['calls']:,} calls, {tokens:,} tokens"
        )
    return [*lines, f"time: {result.seconds / 60:.1f} minutes"]


def _cost(book: Mapping[str, Any]) -> str:
    price = "price unknown" if book["usd"] is None else f"${book['usd']:.4f}"
    given = f"{book['input']:,} tokens in ({book['cached']:,} cached), {book['output']:,} out"
    return f"{book['calls']:,} calls, {given}, {price}"
