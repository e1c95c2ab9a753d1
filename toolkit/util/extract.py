"""Find the part of a model's text that was asked for: a number, a block of code, a JSON value."""

import json
import re
from typing import Any

NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
BLOCK = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
OPENING = re.compile(r"[{\[]")


def extract_number(text: str) -> float | None:
    """The last number in `text` ("1,234.5" is one number, "3-4" are 3 and 4), or None."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("−", "-")) if found else None


def extract_code(text: str) -> str:
    """The last block of Python between ``` lines, else the last of any language, else all of `text`."""
    blocks = BLOCK.findall(text)
    chosen = [code for language, code in blocks if language.lower() in ("python", "py", "python3")]
    chosen = chosen or [code for _, code in blocks]
    return chosen[-1] if chosen else text


def extract_json(text: str) -> Any:
    """
    The JSON value in `text`: all of it, else the last block that is one, else the last in prose.

    Raises ValueError if there is none.
    """
    for candidate in (text, *(code for _, code in reversed(BLOCK.findall(text)))):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    found = _values_in(text)
    if not found:
        raise ValueError("there is no JSON in it")
    return found[-1]


def _values_in(text: str) -> list[Any]:
    decoder, found, at = json.JSONDecoder(), [], 0
    while start := OPENING.search(text, at):
        try:
            value, at = decoder.raw_decode(text, start.start())
            found.append(value)
        except RecursionError:
            break
        except ValueError:
            at = start.end()
    return found
