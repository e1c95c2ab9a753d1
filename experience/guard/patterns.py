"""Patterns and word lists of the guard, read once from `patterns.toml`; its head explains how an entry is written."""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

# Gaps are bounded: with "*" a long run of blanks would be matched again from each of its characters.
_GAPS = {"words": r"(?:[\W_]{1,4})", "letters": r"(?:\s{0,3})"}
_SPELLED_GAP = r"(?:[\W_]{0,4})"


class InjectionRule(NamedTuple):
    """
    One kind of injection and its pattern.

    `spelled` matches the same words without blanks between them, for text that is spelled letter by letter.
    """

    reason: str
    pattern: re.Pattern[str]
    spelled: re.Pattern[str]


@cache
def read_tables() -> dict[str, Any]:
    """Return the content of `patterns.toml`."""
    # About 3 ms, once a process.
    with Path(__file__).with_suffix(".toml").open("rb") as file:
        return tomllib.load(file)


def expand(entry: str) -> str:
    """Return the regular expression that an entry stands for: on one line, with the {{pieces}} put in."""
    # Pieces may name pieces, so each is expanded too.
    line = re.sub(r"\A\s+|\n\s*", "", entry)
    return re.sub(r"\{\{(\w+)\}\}", lambda match: expand(read_tables()["pieces"][match[1]]), line)


@cache
def get_pattern(table: str, name: str) -> re.Pattern[str]:
    """Return one compiled pattern of the tables `context` and `placeholders`."""
    return re.compile(expand(read_tables()[table][name]))


@cache
def get_words(*lists: str) -> frozenset[str]:
    """Return the words of one list, or of several together."""
    return frozenset(word for name in lists for word in read_tables()["words"][name].split())


@cache
def compile_injection_rules() -> tuple[tuple[InjectionRule, ...], tuple[InjectionRule, ...]]:
    """Return the rules for text as it stands (marks of formats), then those for folded text (orders)."""
    marks, orders = [], []
    for entry in read_tables()["injection"]:
        alternatives = "|".join(map(expand, entry["patterns"]))
        if entry["gaps"] == "exact":
            mark = re.compile(alternatives, re.IGNORECASE)
            marks.append(InjectionRule(entry["reason"], mark, mark))
            continue

        # Groups that capture cost time and memory in patterns of this size.
        grouped = re.sub(r"(?<!\\)\((?!\?)", "(?:", f"({alternatives})")
        gap = _GAPS[entry["gaps"]]
        if entry["gaps"] == "words":
            pattern = re.compile(rf"(?<!\w){grouped}(?!\w)".replace(" ", gap))
            spelled = re.compile(grouped.replace(" ", _SPELLED_GAP))
        else:
            pattern = spelled = re.compile(grouped.replace(" ", gap))
        orders.append(InjectionRule(entry["reason"], pattern, spelled))
    return tuple(marks), tuple(orders)
