"""
What a lesson must not carry although the rest of it may stay: secrets and personal data, each with its placeholder.

detect-secrets knows the key formats of many providers; its guesses from entropy and keywords fire on plain words, so
they are left out and replaced by stricter ones here. Phone numbers have their own patterns: the phonenumbers library
needs a country to read national numbers, and passes over numbers that are not assigned today.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from edgewise.experience.guard.checksums import always, iban_end
from edgewise.experience.guard.private_data_rules import PERSONAL, PROVIDERS, SECRETS, Kind, Rule

PLACEHOLDER = re.compile(r"\[(?:secret|email|phone|card|iban|id|ip|address|date)\]")


class Private(NamedTuple):
    """A stretch of text to take out, from `start` to `end`, and what stands there then."""

    start: int
    end: int
    kind: Kind
    placeholder: str
    what: str


@cache
def _provided() -> tuple[Rule, ...]:
    """The key formats of detect-secrets, as rules."""
    from importlib import import_module

    found = []
    for name in PROVIDERS:
        module, _, detector = name.rpartition(".")
        for pattern in getattr(import_module(f"detect_secrets.plugins.{module}"), detector).denylist:
            found.append(Rule("secret", "[secret]", "an API key", pattern, always))
    return tuple(found)


def redact(text: str) -> tuple[str, dict[str, Kind]]:
    """
    A text without secrets and personal data, and what was taken out ("an e-mail address") by kind.

    What is returned holds nothing more to take out: a text that still does after some rounds, as only one made to
    confuse does, comes back empty.
    """
    taken: dict[str, Kind] = {}
    for _ in range(6):
        found = list(_private(text))
        if not found:
            return text, taken
        taken |= {private.what: private.kind for private in found}
        text = _without(text, found)
    return "", taken


def _without(text: str, found: list[Private]) -> str:
    """The text with each stretch replaced; of two that overlap the first in the list counts."""
    pieces, end = [], 0
    for private in sorted(found):
        pieces += [text[end : private.start], private.placeholder]
        end = private.end
    return "".join([*pieces, text[end:]])


def _private(text: str) -> Iterator[Private]:
    """Stretches to take out, none overlapping another or a placeholder."""
    used = bytearray(len(text))
    for match in PLACEHOLDER.finditer(text):
        used[match.start() : match.end()] = b"\1" * (match.end() - match.start())
    for rule in (*SECRETS, *_provided(), *PERSONAL):
        for start, end in _spans(rule, text):
            if start < end and not any(used[start:end]):
                used[start:end] = b"\1" * (end - start)
                yield Private(start, end, rule.kind, rule.placeholder, rule.what)


def _spans(rule: Rule, text: str) -> Iterator[tuple[int, int]]:
    """Where a rule holds in a text: its group `it`, or the whole match."""
    group = "it" if "it" in rule.pattern.groupindex else 0
    for match in rule.pattern.finditer(text):
        if rule.holds(match[group]):
            start, end = match.span(group)
            yield start, start + iban_end(match[0]) if rule.placeholder == "[iban]" else end
