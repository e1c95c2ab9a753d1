"""Extract a number, a block of code or a JSON value from a model's text."""

import json
import re
from typing import Any

# A number may have thousands separators, a Unicode minus and an exponent. The lookbehind keeps the digits of
# identifiers ("x2") out and reads "3-4" as 3 and 4, since a minus directly after a word is no sign.
NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
BLOCK = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
OPENING = re.compile(r"[{\[]")


def extract_number(text: str) -> float | None:
    """Return the last number in `text` ("1,234.5" is one number, "3-4" are 3 and 4), or None."""
    numbers = NUMBER.findall(text)
    return float(numbers[-1].replace(",", "").replace("−", "-")) if numbers else None


def extract_code(text: str) -> str:
    """Return the last block of Python between ``` lines, else the last of any language, else all of `text`."""
    blocks = BLOCK.findall(text)
    chosen = [code for language, code in blocks if language.lower() in ("python", "py", "python3")]
    chosen = chosen or [code for _, code in blocks]
    return chosen[-1] if chosen else text


def extract_json(text: str) -> Any:
    """
    Return the JSON value in `text`: all of it, else the last block that is one, else the last in prose.

    Raises ValueError if there is none.
    """
    for candidate in (text, *(code for _, code in reversed(BLOCK.findall(text)))):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue

    # In prose: try every bracket that isn't inside a value that was already read.
    decoder, values, position = json.JSONDecoder(), [], 0
    while start := OPENING.search(text, position):
        try:
            value, position = decoder.raw_decode(text, start.start())
            values.append(value)
        except RecursionError:
            break
        except ValueError:
            position = start.end()
    if not values:
        raise ValueError("there is no JSON in it")
    return values[-1]
