"""Prices of models in dollars per million tokens, from the user or from litellm's price list."""

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
"""Key of an override for every model that is not free and has no override of its own."""


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
    Return the price of a model by its full name; None means unknown, which is not free.

    Sources, in this order: `overrides` by name; models on this machine, which are free; `overrides["*"]`; litellm's
    price list. A server of the user's own (`http://…`, or openai/… with OPENAI_BASE_URL set) has no known price.
    """
    # A price that the user gives wins; "*" only fills gaps, so that local models stay free.
    overrides = overrides or {}
    if model in overrides:
        return overrides[model]
    if model.startswith(_FREE):
        return FREE
    if ANY in overrides:
        return overrides[ANY]
    base_url = os.environ.get("OPENAI_BASE_URL") or "api.openai.com"
    if model.startswith(("http://", "https://")):
        return None
    if model.startswith("openai/") and "api.openai.com" not in base_url:
        return None

    # litellm lists most models as "provider/name", those of the large providers by their name alone.
    provider, _, name = model.partition("/")
    row = _load_price_list().get(model)
    if row is None:
        row = _load_price_list().get(name, {})
        if row.get("litellm_provider") != provider:
            return None
    price_in, price_out = row.get("input_cost_per_token"), row.get("output_cost_per_token")
    if price_in is None or price_out is None:
        return None
    cached = row.get("cache_read_input_token_cost", price_in)
    # In decimal: 1.5e-07 dollars per token are 0.15 per million and not 0.15000000000000002.
    return Price(*(float(Decimal(str(dollars)) * 1_000_000) for dollars in (price_in, price_out, cached)))


@cache
def _load_price_list() -> dict[str, dict[str, Any]]:
    # As a file, since to import litellm takes seconds.
    spec = importlib.util.find_spec("litellm")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / _PRICE_LIST
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    return {}
