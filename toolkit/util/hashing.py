"""Short content hashes: versions, ids and file names that depend on nothing but a content."""

import hashlib
import json
from typing import Any


def hash_text(text: str, length: int = 12) -> str:
    """
    Return the first `length` hexadecimal digits (at most 64) of the sha256 of a text in UTF-8.

    Twelve digits are 48 bits: among a million contents two collide with a probability below 0.2 %.
    """
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def hash_json(data: Any, length: int = 12) -> str:
    """Return `hash_text` of the data as JSON with sorted keys, so that the order of keys does not matter."""
    return hash_text(json.dumps(data, sort_keys=True), length)
