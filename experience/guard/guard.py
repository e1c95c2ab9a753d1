"""
The guard on learned text: checks what a lesson may not hold, before it enters a library and again at import.

    row_leaks, proper_names        what copies a training row: its words, names, codes, answer
    injection                      orders to the system around the lesson
    private_data, private_checks   secrets and personal data
    patterns                       what all of these look like, in `patterns.toml`

Leaks of training rows and orders to the system around a lesson block it. Secrets and personal data are taken out, and
block it only where nothing useful is left.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from edgewise.experience.guard.injection import find_injections
from edgewise.experience.guard.patterns import get_words
from edgewise.experience.guard.private_data import PLACEHOLDER, redact
from edgewise.experience.guard.row_leaks import RowIndex
from edgewise.toolkit.types import Example

Kind = Literal["leak", "injection", "secret", "personal"]
MIN_WORDS = 2
"""Words of three letters or more that a redacted lesson needs beside its placeholders."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a text; `reason` is a sentence for people that never repeats the matched text."""

    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class GuardResult:
    """A text as it may be used: redacted where that is enough, not to be used at all where `is_blocked`."""

    text: str
    findings: tuple[Finding, ...] = ()
    is_blocked: bool = False

    @property
    def reason(self) -> str:
        """All reasons in one line; "" without findings."""
        return " ".join(finding.reason for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Guard:
    """
    Checks learned text against the rows it was learned from.

    Make one with `Guard.from_examples`; checking changes nothing, so one guard serves a whole run and its threads.
    """

    rows: RowIndex = field(repr=False)

    @classmethod
    def from_examples(cls, examples: Iterable[Example] = ()) -> "Guard":
        """Return a guard that knows these training rows, indexed once; without any it looks for no leaks."""
        return cls(RowIndex.from_examples(examples))

    def check(self, text: Any) -> GuardResult:
        """
        Return what is wrong with a lesson, and the text with secrets and personal data taken out.

        Anything but text is read as its `str`, None as "". Checking the result again finds nothing to take out.
        """
        text = "" if text is None else str(text)
        redacted, removals = redact(text)
        # Leaks and orders are looked for in the text as it came, since a placeholder could split them.
        leaks = [Finding("leak", f"It {reason}.") for reason in self.rows.find_leaks(text)]
        injections = [Finding("injection", f"It {reason}.") for reason in dict.fromkeys(find_injections(text))]
        private = [Finding(kind, f"It held {what}.") for what, kind in sorted(removals.items())]

        # "password: hunter2" leaves the word for a secret and no lesson.
        words = re.findall(r"[^\W\d_]{3,}", PLACEHOLDER.sub(" ", redacted).lower())
        is_empty = sum(word not in get_words("empty") for word in words) < MIN_WORDS
        is_blocked = bool(leaks or injections or (private and is_empty))
        return GuardResult(redacted, (*leaks, *injections, *private), is_blocked)
