"""
Names that a training row holds: people, places and firms, and the identifiers of its code.

A capital letter within a sentence makes a name where the word is never written small, belongs to few rows and is not
known to everybody. `max_rows` is how many rows are few.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from typing import TypeVar

from edgewise.experience.guard.injection import fold
from edgewise.experience.guard.patterns import get_words

T = TypeVar("T")

_TITLE = (
    r"(?:Mr|Mrs|Ms|Miss|Dr|Prof|Professor|Herr|Frau|"
    r"Mme|Madame|Monsieur|Señora?|Sra?|Sir|Lady|Captain|Pastor|Officer)\.?"
)
_PERSON = r"[^\W\d_a-z][\w'’]*[^\W\d_A-Z](?:-[^\W\d_a-z][\w'’]+)?"
# A person after a title, a greeting, a signature, or a word such as "colleague".
_CALLED = re.compile(
    rf"\b(?:{_TITLE}|[Mm]y name is|[Tt]his is|I am|I'm|"
    r"(?:[Rr]egards|[Tt]hanks|[Tt]hank you|[Bb]est|[Ss]incerely|[Cc]heers|[Gg]reetings|[Yy]ours|[Ww]ishes|"
    r"[Gg]rüße|[Gg]ruß)[,.!]?|"
    r"[Ss]igned(?: by)?|[Dd]ear|[Nn]amed|[Cc]alled|[Cc]olleague|[Hh]usband|[Ww]ife|[Dd]aughter|[Ss]on|"
    r"[Ff]riend|[Cc]ustomer|"
    rf"[Pp]atient|[Nn]eighbou?r)\s+({_PERSON}(?:\s+{_PERSON}){{0,2}})"
)
# Two words with capitals, also as overlapping pairs of three.
_FULL_NAME = re.compile(rf"(?<![\w'’])(?=({_PERSON}\s+(?:[A-Z]\.\s+)?{_PERSON}))")
_CAPITALIZED = re.compile(r"(?<![^\W_])[^\W\d_a-z][^\W\d_A-Z]{2,}(?![\w@])")
# What stands before the first word of a sentence, a quote, a list or a cell, where any word has a capital letter.
_OPENING = re.compile(r"(?:^|[.!?:;\n\"'“”‘’«„(\[{<>|*#•→`]|[-–—]\s|(?<!\w)\d+[.)])\s*$")
_AFTER_CAPITALIZED = re.compile(r"[^\W\d_a-z][\w'’]*[ -]$")
# In German every noun has a capital letter; words that only German has.
_GERMAN = re.compile(r"\b(?:und|der|das|dem|bei|nicht|ist|sind|für|oder|eine[mnrs]?|mit|zu|auf|wenn|werden|wird)\b")
_IDENTIFIER = re.compile(
    r"(?<![\w.])(?:[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+|[a-z][a-z0-9]+(?:[A-Z][a-z0-9]+)+)(?!\w)"
)
_CONTEXT = 24
"""Characters before a word that tell whether it opens a sentence."""


def find_capitalized(text: str) -> Iterator[tuple[str, bool]]:
    """Yield words with a capital letter, and whether only a name can have it there, not the start of a sentence."""
    for match in _CAPITALIZED.finditer(text):
        before = text[max(0, match.start() - _CONTEXT) : match.start()]
        # "Grace's" is a name even where it opens a sentence.
        is_owner = re.match(r"['’]s\b", text[match.end() : match.end() + 3])
        yield match[0], bool(is_owner) or not _OPENING.search(before)


def find_rare_names(texts: Sequence[str], max_rows: int) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of few rows: all of them, and those at the head of a name within a sentence of the row."""
    common = _find_lower_case(texts) | get_words("known_names", "no_name", "stop", "stop_more")
    frequency = Counter(word for text in texts for word in {word for word, _ in find_capitalized(text)})
    rare = frozenset(w for w, n in frequency.items() if n <= max_rows and w.lower() not in common)

    # The head of a name is its first word: "Apple" of "Apple Pay".
    heads = set()
    for text in texts:
        for match in _CAPITALIZED.finditer(text):
            before = text[max(0, match.start() - _CONTEXT) : match.start()]
            if not _OPENING.search(before) and not _AFTER_CAPITALIZED.search(before):
                heads.add(match[0])
    return rare, rare & heads


def has_rare_name(text: str, rare: Set[str], heads: Set[str]) -> bool:
    """
    Return whether a text names one of these.

    Capitals tell nothing in German and in titles, where most words have them. At the start of a sentence a word
    counts only where it is the head of a name: any word may stand there.
    """
    words = list(find_capitalized(text))
    if not any(word in rare for word, _ in words) or _GERMAN.search(text):
        return False
    inside = sum(is_inside for _, is_inside in words)
    lower_case = len(re.findall(r"(?<!\w)[^\W\d_A-Z]\w*", text))
    if inside > 3 and inside > lower_case:
        return False
    return any(word in (rare if is_inside else heads) for word, is_inside in words)


def find_identifiers(text: str) -> set[str]:
    """Return names that code gives to its own things, snake_case and camelCase; no attributes and no usual ones."""
    identifiers = set()
    for match in _IDENTIFIER.finditer(text):
        parts = {part.lower() for part in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", match[0])}
        # Constants in capitals and names of usual parts ("user_id") are in every program.
        if len(match[0]) > 5 and not match[0].isupper() and not parts <= get_words("usual_parts"):
            identifiers.add(match[0])
    return identifiers


def select_rare(items_of_rows: Sequence[set[T]], max_rows: int) -> dict[T, tuple[int, ...]]:
    """Return the items of few rows, with the positions of these rows."""
    rows_of: dict[T, tuple[int, ...]] = {}
    for row, items in enumerate(items_of_rows):
        for item in items:
            rows = rows_of.get(item, ())
            if len(rows) <= max_rows:  # one more than few is enough to know
                rows_of[item] = (*rows, row)
    return {item: rows for item, rows in rows_of.items() if len(rows) <= max_rows}


def find_rare_people(texts: Sequence[str], words_of_rows: Sequence[Sequence[str]], max_rows: int) -> frozenset[str]:
    """Return the people of few rows: after a title or words like "regards", or two words never in lower case."""
    common = _find_lower_case(texts) | get_words("no_name", "known_names")
    frequency = Counter(word for words in words_of_rows for word in set(words))

    # Two words with capitals may be a product; a name's words are hardly in more rows than the name.
    pairs = select_rare([{" ".join(name.split()) for name in _FULL_NAME.findall(text)} for text in texts], max_rows)
    full = {
        name
        for name in pairs
        if not any(part.lower() in common or frequency[fold(part)] > max_rows + 2 for part in name.split())
    }
    # After a title one word is enough, if few rows have it.
    matches = [{" ".join(match[1].split()) for match in _CALLED.finditer(text)} for text in texts]
    addressed = {
        name
        for name in select_rare(matches, max_rows)
        if not any(part.lower() in common for part in name.split()) and frequency[fold(name.split()[-1])] <= max_rows
    }
    return frozenset(full | addressed | {name.split()[-1] for name in addressed})


def _find_lower_case(texts: Sequence[str]) -> set[str]:
    """Return the words that stand somewhere without a capital letter."""
    return {word for text in texts for word in re.findall(r"(?<!\w)[^\W\d_A-Z][\w'’]*", text)}
