"""
Secrets and personal data: a lesson must not carry them, although the rest of it may stay, with a placeholder each.

detect-secrets knows the key formats of many providers; its guesses from entropy and keywords fire on plain words, so
they are left out and replaced by the stricter rules of `patterns.toml`. Phone numbers have patterns of our own: the
phonenumbers library needs a country to read national numbers, and ignores numbers that are not assigned today.
"""

import re
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Literal, NamedTuple

from edgewise.experience.guard import private_checks
from edgewise.experience.guard.patterns import expand, read_tables

Kind = Literal["secret", "personal"]

PLACEHOLDER = re.compile(r"\[(?:secret|email|phone|card|iban|id|ip|address|date)\]")
MAX_ROUNDS = 6
"""Rounds of taking out. A placeholder may complete another match, but hardly so often unless it is meant to."""


class Rule(NamedTuple):
    """Where `pattern` matches and `check` agrees, its group `it` (or all of the match) is private."""

    kind: Kind
    placeholder: str
    what: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool] | None


class Span(NamedTuple):
    """A stretch of text to take out, from `start` to `end`, and the rule that says so."""

    start: int
    end: int
    rule: Rule


def redact(text: str) -> tuple[str, dict[str, Kind]]:
    """
    Return a text without secrets and personal data, and the kinds of what was taken out ("an e-mail address").

    The result holds nothing more to take out: a text that still does after `MAX_ROUNDS` comes back empty.
    """
    removals: dict[str, Kind] = {}
    for _ in range(MAX_ROUNDS):
        spans = find_private(text)
        if not spans:
            return text, removals
        removals |= {span.rule.what: span.rule.kind for span in spans}
        # The text between the spans, and a placeholder for each.
        pieces, end = [], 0
        for span in sorted(spans, key=lambda span: span.start):
            pieces += [text[end : span.start], span.rule.placeholder]
            end = span.end
        text = "".join([*pieces, text[end:]])
    return "", removals


def find_private(text: str) -> list[Span]:
    """Return the stretches to take out, by rule; none overlaps another or a placeholder."""
    # A span that touches an earlier one is left to the next round, which sees the placeholder in its place.
    used = bytearray(len(text))
    for match in PLACEHOLDER.finditer(text):
        used[match.start() : match.end()] = b"\1" * len(match[0])

    spans = []
    for rule in _compile_rules():
        group = "it" if "it" in rule.pattern.groupindex else 0
        for match in rule.pattern.finditer(text):
            if rule.check and not rule.check(match[group]):
                continue
            start, end = match.span(group)
            if rule.placeholder == "[iban]":  # its pattern runs on into the words behind the number
                end = start + private_checks.measure_iban(match[0])
            if start < end and not any(used[start:end]):
                used[start:end] = b"\1" * (end - start)
                spans.append(Span(start, end, rule))
    return spans


@cache
def _compile_rules() -> tuple[Rule, ...]:
    """Return all rules in their order of precedence: secrets, formats of providers' keys, personal data."""
    rules: dict[Kind, list[Rule]] = {"secret": [], "personal": []}
    for entry in read_tables()["private"]:
        # A check is a function by its name, or how many digits there must be, from and to.
        check = getattr(private_checks, entry["check"]) if "check" in entry else None
        if "digits" in entry:
            least, most = entry["digits"]
            check = partial(private_checks.has_digits, least=least, most=most)
        pattern = re.compile(expand(entry["pattern"]))
        rules[entry["kind"]].append(Rule(entry["kind"], entry["placeholder"], entry["what"], pattern, check))

    # Imported by name, since these modules of detect-secrets are loaded only where text is checked.
    for name in read_tables()["detect_secrets"]["detectors"]:
        module, _, detector = name.rpartition(".")
        formats = getattr(import_module(f"detect_secrets.plugins.{module}"), detector).denylist
        rules["secret"] += [Rule("secret", "[secret]", "an API key", pattern, None) for pattern in formats]
    return (*rules["secret"], *rules["personal"])
