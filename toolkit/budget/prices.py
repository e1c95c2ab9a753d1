"""What a model costs: dollars per million tokens, from the user or from the price list of litellm."""

import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any

from edgewise.toolkit.errors import ConfigError

_FREE = ("local/", "scripted/", "torch/")
_PRICE_LIST = "model_prices_and_context_window_backup.json"
ANY = "*"
"""Key of an override that holds for every model that is not free and has no override of its own."""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens; `cached` is for input from the provider's cache (None: same as `input`)."""

    input: float
    output: float
    cached: float | None = None

    def __post_init__(self) -> None:
        if not all(0 <= x < float("inf") for x in (self.input, self.output, self.cached or 0)):
            raise ConfigError(f"A price can't be negative or infinite: {self}.")

    @classmethod
    def parse(cls, text: str) -> "Price":
        """Read `INPUT,OUTPUT` or `INPUT,OUTPUT,CACHED`, dollars per million tokens."""
        try:
            numbers = [float(Decimal(part.strip())) for part in text.split(",")]
            return cls(*numbers)
        except (InvalidOperation, TypeError):
            raise ConfigError(
                f"--price {text!r} is not INPUT,OUTPUT in dollars per million tokens, such as 0.15,0.60."
            ) from None


FREE = Price(0.0, 0.0)


def find_price(model: str, overrides: Mapping[str, Price] | None = None) -> Price | None:
    """
    The price of a model by its full name; None means unknown, which is not free.

    Looked up in this order: `overrides` by name; models on this machine, which are free; `overrides["*"]`;
    the list shipped with litellm. A server of your own (`http://…`, or openai/… with OPENAI_BASE_URL set) has
    no known price.
    """
    overrides = overrides or {}
    if model in overrides:
        return overrides[model]
    if model.startswith(_FREE):
        return FREE
    if ANY in overrides:
        return overrides[ANY]
    if model.startswith(("http://", "https://")) or (model.startswith("openai/") and _own_server()):
        return None
    return _listed(model)


def _own_server() -> bool:
    return "api.openai.com" not in (os.environ.get("OPENAI_BASE_URL") or "api.openai.com")


def _listed(model: str) -> Price | None:
    provider, _, name = model.partition("/")
    row = _price_list().get(model)
    if row is None:
        row = _price_list().get(name, {})
        if row.get("litellm_provider") != provider:
            return None
    cost_in, cost_out = row.get("input_cost_per_token"), row.get("output_cost_per_token")
    if cost_in is None or cost_out is None:
        return None
    cached = row.get("cache_read_input_token_cost", cost_in)
    return Price(*map(_per_million, (cost_in, cost_out, cached)))


def _per_million(dollars_per_token: float) -> float:
    """In decimal: 1.5e-07 is to become 0.15 and not 0.15000000000000002."""
    return float(Decimal(str(dollars_per_token)) * 1_000_000)


@cache
def _price_list() -> dict[str, dict[str, Any]]:
    """The file is read without importing litellm, which takes seconds."""
    spec = importlib.util.find_spec("litellm")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / _PRICE_LIST
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    return {}
