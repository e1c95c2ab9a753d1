"""
Who and what a training row names: people, places and firms, and the identifiers of its code.

A capital letter within a sentence makes a name where the word is never written small, belongs to few rows and is not
known to everybody.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from typing import TypeVar

from edgewise.experience.guard.injection import fold
from edgewise.experience.guard.word_lists import KNOWN, NO_NAME, STOP_WORDS, USUAL_PARTS

T = TypeVar("T")

_TITLE = (
    r"(?:Mr|Mrs|Ms|Miss|Dr|Prof|Professor|Herr|Frau|"
    r"Mme|Madame|Monsieur|Señora?|Sra?|Sir|Lady|Captain|Pastor|Officer)\.?"
)
_PERSON = r"[^\W\d_a-z][\w'’]*[^\W\d_A-Z](?:-[^\W\d_a-z][\w'’]+)?"
_CALLED = re.compile(
    rf"\b(?:{_TITLE}|[Mm]y name is|[Tt]his is|I am|I'm|"
    r"(?:[Rr]egards|[Tt]hanks|[Tt]hank you|[Bb]est|[Ss]incerely|[Cc]heers|[Gg]reetings|[Yy]ours|[Ww]ishes|"
    r"[Gg]rüße|[Gg]ruß)[,.!]?|"
    r"[Ss]igned(?: by)?|[Dd]ear|[Nn]amed|[Cc]alled|[Cc]olleague|[Hh]usband|[Ww]ife|[Dd]aughter|[Ss]on|"
    r"[Ff]riend|[Cc]ustomer|"
    rf"[Pp]atient|[Nn]eighbou?r)\s+({_PERSON}(?:\s+{_PERSON}){{0,2}})"
)
_FULL = re.compile(rf"(?<![\w'’])(?=({_PERSON}\s+(?:[A-Z]\.\s+)?{_PERSON}))")
_CAPITAL = re.compile(r"(?<![^\W_])[^\W\d_a-z][^\W\d_A-Z]{2,}(?![\w@])")
_OPENS = re.compile(r"(?:^|[.!?:;\n\"'“”‘’«„(\[{<>|*#•→`]|[-–—]\s|(?<!\w)\d+[.)])\s*$")
_AFTER_CAPITAL = re.compile(r"[^\W\d_a-z][\w'’]*[ -]$")
# In German every noun has a capital letter; words that only German has.
_GERMAN = re.compile(
    r"\b(?:und|der|das|dem|bei|nicht|ist|sind|für|oder|eine[mnrs]?|mit|zu|auf|wenn|werden|wird)\b"
)
_IDENTIFIER = re.compile(
    r"(?<![\w.])(?:[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+|[a-z][a-z0-9]+(?:[A-Z][a-z0-9]+)+)(?!\w)"
)


def proper(text: str) -> Iterator[tuple[str, bool]]:
    """Words with a capital letter, and whether the letter can only come from a name, not from a sentence's start."""
    for match in _CAPITAL.finditer(text):
        before = text[max(0, match.start() - 24) : match.start()]
        owned = re.match(r"['’]s\b", text[match.end() : match.end() + 3])
        yield match[0], bool(owned) or not _OPENS.search(before)


def rare_proper(texts: Sequence[str], few: int) -> tuple[Set[str], Set[str]]:
    """Names of few rows: all of them, and those that stand within a sentence of the row at the head of a name."""
    lower = lower_case(texts)
    spread = Counter(word for text in texts for word in {word for word, _ in proper(text)})
    rare = {
        w for w, n in spread.items() if n <= few and w.lower() not in lower | KNOWN | NO_NAME | STOP_WORDS
    }
    heads = {
        match[0]
        for text in texts
        for match in _CAPITAL.finditer(text)
        if not _OPENS.search(before := text[max(0, match.start() - 24) : match.start()])
        and not _AFTER_CAPITAL.search(before)
    }
    return frozenset(rare), frozenset(rare & heads)


def names_in(text: str, rare: Set[str], heads: Set[str]) -> bool:
    """Whether a text names one of these; capitals tell nothing in German and where most words have them."""
    found = list(proper(text))
    if not any(word in rare for word, _ in found) or _GERMAN.search(text):
        return False
    inside = sum(sure for _, sure in found)
    small = len(re.findall(r"(?<!\w)[^\W\d_A-Z]\w*", text))
    if inside > 3 and inside > small:
        return False
    return any(word in (rare if sure else heads) for word, sure in found)


def identifiers(text: str) -> set[str]:
    """Names that code gives to its own things: snake_case and camelCase; attributes and usual ones are none."""
    found = (match[0] for match in _IDENTIFIER.finditer(text))
    return {x for x in found if len(x) > 5 and not x.isupper() and not set(_parts(x)) <= USUAL_PARTS}


def _parts(identifier: str) -> list[str]:
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", identifier)]


def lower_case(texts: Sequence[str]) -> set[str]:
    """Words that stand somewhere without a capital letter."""
    return {word for text in texts for word in re.findall(r"(?<!\w)[^\W\d_A-Z][\w'’]*", text)}


def rare(of_rows: Sequence[set[T]], few: int) -> dict[T, tuple[int, ...]]:
    """What stands in at most `few` rows, with these rows."""
    found: dict[T, tuple[int, ...]] = {}
    for row, items in enumerate(of_rows):
        for item in items:
            rows = found.get(item, ())
            if len(rows) <= few:
                found[item] = (*rows, row)
    return {item: rows for item, rows in found.items() if len(rows) <= few}


def people(texts: Sequence[str], words: Sequence[Sequence[str]], few: int) -> frozenset[str]:
    """People of few rows: after a title or words like "regards", or two words never in lower case."""
    lower = lower_case(texts)
    marked = rare([_marked(text) for text in texts], few)
    full = rare([{" ".join(name.split()) for name in _FULL.findall(text)} for text in texts], few)
    spread = Counter(word for row in words for word in set(row))
    real = {
        n
        for n in full
        if not any(w.lower() in lower | NO_NAME | KNOWN or spread[fold(w)] > few + 2 for w in n.split())
    }
    single = {
        n
        for n in marked
        if not any(w.lower() in lower | NO_NAME | KNOWN for w in n.split())
        and spread[fold(n.split()[-1])] <= few
    }
    return frozenset(real | single | {n.split()[-1] for n in single})


def _marked(text: str) -> set[str]:
    return {" ".join(match[1].split()) for match in _CALLED.finditer(text)}
