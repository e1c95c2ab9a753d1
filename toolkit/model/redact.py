"""Keep API keys out of errors, and so out of logs, reports and the journal."""

import os
import re

_SECRET = re.compile(r"\b(?:sk|pk|rk)-[\w*-]{6,}|(?<=Bearer )\S+")
_VARIABLES = ("_API_KEY", "_TOKEN", "_SECRET", "_ACCESS_KEY")
_MIN_LENGTH = 6  # a shorter value, such as "none", is no secret, and would be cut out of ordinary words


def redact(text: str, *secrets: str) -> str:
    """Return `text` without API keys: `secrets`, those in the environment, and all that looks like a key."""
    environment = [value for name, value in os.environ.items() if name.upper().endswith(_VARIABLES)]
    # The longest first: one secret may be a part of another.
    for secret in sorted({*secrets, *environment}, key=len, reverse=True):
        if len(secret) >= _MIN_LENGTH:
            text = text.replace(secret, "[key]")
    return _SECRET.sub("[key]", text)
