"""API keys are kept out of errors, and so out of logs, reports and the journal."""

import os
import re

_SECRET = re.compile(r"\b(?:sk|pk|rk)-[\w*-]{6,}|(?<=Bearer )\S+")
_NAMES = ("_API_KEY", "_TOKEN", "_SECRET", "_ACCESS_KEY")


def redact(text: str, *secrets: str) -> str:
    """`text` without API keys: the given `secrets`, those in the environment, and whatever looks like one."""
    known = [value for name, value in os.environ.items() if name.upper().endswith(_NAMES)]
    for secret in sorted({*secrets, *known}, key=len, reverse=True):
        if len(secret) >= 6:
            text = text.replace(secret, "[key]")
    return _SECRET.sub("[key]", text)
