"""
The guard on learned text: what a lesson may not hold, before it enters a library and again at import.

    leaks, names      what copies a training row: its words, names, codes, answer
    orders            orders to the system around the lesson (phrases, cheats, languages: what they look like)
    private           secrets and personal data (forms, signs: what they look like)

Leaks of training rows and orders to the system around a lesson block it; secrets and personal data are taken out, and
block it only where nothing useful is left.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from edgewise.experience.guard import injection, private_data, row_leaks
from edgewise.toolkit.types import Example

Kind = Literal["leak", "injection", "secret", "personal"]
USEFUL = 2
_EMPTY = frozenset(
    "the this that use and for with was are your you password passwort token secret key api bearer login pin "
    "code".split()
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a text; `reason` is a sentence for people that never repeats what it found."""

    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class GuardResult:
    """A text as it may be used: redacted where that is enough, not to be used at all where `blocked`."""

    text: str
    findings: tuple[Finding, ...] = ()
    is_blocked: bool = False

    @property
    def reason(self) -> str:
        """All reasons in one line; "" where nothing was found."""
        return " ".join(finding.reason for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Guard:
    """
    Checks learned text against the rows it was learned from.

    Make one with `Guard.of`; checking changes nothing, so one guard serves a whole run.
    """

    rows: row_leaks.Rows = field(repr=False)

    @classmethod
    def from_examples(cls, examples: Iterable[Example] = ()) -> "Guard":
        """A guard that knows these training rows, indexed once; `Guard.of()` knows none."""
        return cls(row_leaks.Rows.of(examples))

    def check(self, text: Any) -> GuardResult:
        """
        What is wrong with a lesson, and the text with secrets and personal data taken out.

        What is no text is read as its `str`, None as "". Checking the result again finds nothing to take out.
        """
        text = "" if text is None else str(text)
        redacted, taken = private_data.redact(text)
        blocking = (*self._leaks(text), *_orders(text))
        held = tuple(Finding(kind, f"It held {what}.") for what, kind in sorted(taken.items()))
        return GuardResult(redacted, blocking + held, bool(blocking) or bool(taken and not _useful(redacted)))

    def _leaks(self, text: str) -> Iterator[Finding]:
        return (Finding("leak", f"It {what}.") for what in self.rows.leaks(text))


def _orders(text: str) -> Iterator[Finding]:
    return (Finding("injection", f"It {what}.") for what in dict.fromkeys(injection.orders(text)))


def _useful(redacted: str) -> bool:
    """Whether enough words are left around the placeholders to be a lesson."""
    left = re.findall(r"[^\W\d_]{3,}", private_data.PLACEHOLDER.sub(" ", redacted).lower())
    return len([word for word in left if word not in _EMPTY]) >= USEFUL
