"""
Leaks of training rows: a lesson that copies one is no lesson but an answer key.

Words that many rows share, like those of a prompt template, belong to no row. A lesson leaks where it copies a
row's own words at length, names a number, code or person of one row, or gives an answer that does not recur.

Sizes: honest topics share up to six or seven words in a row with a message ("charged twice for the same order");
eight do not come by chance, and edits of every fifth word leave about half of the groups of three words standing.
"""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from edgewise.experience.guard.injection import fold
from edgewise.experience.guard.patterns import get_words, read_tables
from edgewise.experience.guard.proper_names import (
    find_identifiers,
    find_rare_names,
    find_rare_people,
    has_rare_name,
    select_rare,
)
from edgewise.toolkit.types import Example

MIN_RUN = 6
"""Trigrams in a row that make a copy: eight words have six."""
MIN_SHARED, MIN_SHARE_OF_LESSON, MIN_SHARE_OF_ROW = 5, 0.4, 0.5
"""So many of a row's trigrams make a copy where they are also this share of the lesson's, or of the row's own."""
WINDOW = 12
"""Telling words within which those of one row count together."""
MIN_WEIGHT, MIN_NUMBER_WEIGHT = 7, 5
"""Weight of one row's terms in a window that makes a copy; the second of numbers alone, beside any word."""
MIN_ANSWER_WEIGHT = 2
"""Weight of one row's terms around its answer."""
MANY_ROWS = 8
"""From so many rows on, an item of two rows is still rare."""

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_TERM = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+")
_ENDING = re.compile(r"(?:ations?|ings?|ies|ied|ed|es|ers?|s|ly|e|y)$")
_CODE = re.compile(r"(?<!\w)[#€$£]?\w+(?:[-:./,_]\w+)*")
# What states an answer: "the answer is", "equals", "->". A number may come by chance after "is", so it needs more.
_STATED = r"(?:answer|result|solution|output|label|reply|total|target|value|outcome)s?"
_LEAD_TO_NUMBER = re.compile(
    rf"(?:\b{_STATED}(?:\W+\w+){{0,6}}?\W+(?:is|are|was|be|equals?|comes to|of)\W+|"
    rf"\b{_STATED}\s*[:=]?\W{{0,3}}|->\s*|=>\s*|→\s*|=\s*|####\s*|boxed\W|"
    r"\b(?:equals|amounts to|comes to|works out (?:as|at|to)|(?:say|write|return|respond|choose|pick)(?: "
    r"with)?)\W+)\W{0,3}$"
)
_LEAD_TO_WORD = re.compile(
    r"(?:\b(?:is|are|was|were|be|equals?|answer|with|gives?|yields?|write|reply|respond|say|output|return|"
    r"choose|pick|called|named|to|as|by)\b\W{0,4}|"
    r"->\s*|=>\s*|→\s*|=\s*|:\s*|####\s*|boxed\W)\W{0,3}$"
)
_ANSWER_END = re.compile(r"[\s)\]}\"'”*$]*(?:$|[.,;!?]|and\b|for\b|when\b|if\b|because\b)")

Trigram = tuple[str, str, str]
RowNumbers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RowIndex:
    """
    What belongs to few training rows only; rows are numbered.

    `trigrams` holds groups of three words, `terms` stems and numbers, and `answers` targets, each with the rows it
    stands in. `sizes` counts the trigrams of each row. `codes`, `people`, `names`, `heads` (names that are no name's
    second word) and `identifiers` stand alone.
    """

    trigrams: Mapping[Trigram, RowNumbers]
    sizes: Mapping[int, int]
    terms: Mapping[str, RowNumbers]
    codes: frozenset[str]
    people: frozenset[str]
    names: Set[str]
    heads: Set[str]
    identifiers: frozenset[str]
    answers: Mapping[str, RowNumbers]

    @classmethod
    def from_examples(cls, examples: Iterable[Example]) -> "RowIndex":
        """Index rows; equal rows count once."""
        distinct = list({(_join_messages(row), str(row.target)): row for row in examples}.values())
        max_rows = 2 if len(distinct) >= MANY_ROWS else 1
        questions = [_join_messages(row) for row in distinct]
        answers = [_list_answers(row.target) for row in distinct]
        texts = ["\n".join([question, *own]) for question, own in zip(questions, answers, strict=True)]
        words = [_split_words(text) for text in texts]

        # Answers count for copies and names, but not for terms and identifiers: they have a check of their own.
        trigrams = select_rare([set(_list_trigrams(row)) for row in words], max_rows)
        names, heads = find_rare_names(texts, max_rows)

        # Where each target recurs in two rows on average, short ones are labels, which every lesson may name.
        rare_answers = select_rare([set(own) for own in answers], max_rows)
        plain_answers = get_words("plain_answers", "stop", "stop_more")
        has_labels = len({str(row.target) for row in distinct}) * 2 <= len(distinct)
        return cls(
            trigrams=trigrams,
            sizes=Counter(row for rows in trigrams.values() for row in rows),
            terms=select_rare([set(_split_terms(text)) for text in questions], max_rows),
            codes=frozenset(select_rare([set(_find_codes(text)) for text in texts], max_rows)),
            people=find_rare_people(texts, words, max_rows),
            names=names,
            heads=heads,
            identifiers=frozenset(select_rare([find_identifiers(text) for text in questions], max_rows)),
            answers={
                answer: rows
                for answer, rows in rare_answers.items()
                if fold(answer) not in plain_answers
                and (_is_number(answer) or len(answer) > 1)
                and (not has_labels or len(_split_words(answer)) >= 4)
            },
        )

    def find_leaks(self, text: str) -> Iterator[str]:
        """Yield what a text leaks, one phrase a kind: "copies ...", "names ..."."""
        if self._has_copy(_split_words(text)) or self._has_rewording(_split_terms(text)):
            yield "copies the words of a training row"
        if any(code in self.codes for code in _find_codes(text)):
            yield "holds a number or code of a single training row"

        people = (name for name in self.people if name in text)  # quick, before the regular expressions
        is_person = any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in people)
        if is_person or has_rare_name(text, self.names, self.heads):
            yield "names a person, place or firm of a single training row"

        if not self.identifiers.isdisjoint(find_identifiers(text)):
            yield "holds an identifier from the code of a single training row"
        if self._has_answer(text):
            yield "gives the answer of a training row"

    def _has_copy(self, words: Sequence[str]) -> bool:
        """Return whether words stand in one row: as a long run, or as many trigrams that are most of either text."""
        trigrams = _list_trigrams(words)
        runs: dict[int, int] = {}  # by row: its trigrams in a row up to here
        overlaps: defaultdict[int, set[Trigram]] = defaultdict(set)
        for trigram in trigrams:
            rows = self.trigrams.get(trigram, ())
            runs = {row: runs.get(row, 0) + 1 for row in rows}  # a row without this trigram begins anew
            if any(length >= MIN_RUN for length in runs.values()):
                return True
            for row in rows:
                overlaps[row].add(trigram)

        distinct = len(set(trigrams))
        return any(
            len(common) >= MIN_SHARED
            and (len(common) / distinct >= MIN_SHARE_OF_LESSON or len(common) / self.sizes[row] >= MIN_SHARE_OF_ROW)
            for row, common in overlaps.items()
        )

    def _has_rewording(self, terms: Sequence[str]) -> bool:
        """Return whether many telling words and numbers of a single row stand close together."""
        recent: defaultdict[int, deque[tuple[int, str]]] = defaultdict(deque)  # by row: its terms in the window
        for position, term in enumerate(terms):
            for row in self.terms.get(term, ()):
                window = recent[row]
                while window and window[0][0] <= position - WINDOW:
                    window.popleft()
                window.append((position, term))

                # A term counts once. Numbers have a lower threshold, but only beside a word of the row.
                distinct = {term for _, term in window}
                numbers = sum(_weigh(term) for term in distinct if term[0].isdigit())
                words = sum(_weigh(term) for term in distinct) - numbers
                if numbers + words >= MIN_WEIGHT or (words and numbers >= MIN_NUMBER_WEIGHT):
                    return True
        return False

    def _has_answer(self, text: str) -> bool:
        """Return whether an answer of few rows is given: a long one or a name anywhere, others in their context."""
        # Most answers are not in the text at all: whole words decide before the slower checks.
        plain = " ".join(text.split())
        folded = fold(plain)
        spaced = f" {' '.join(_split_words(plain))} "
        terms = _split_terms(text)
        return any(
            _is_stated(answer, plain, folded) or self._is_in_context(answer, rows, terms)
            for answer, rows in self.answers.items()
            if f" {' '.join(_split_words(answer))} " in spaced
        )

    def _is_in_context(self, answer: str, rows: Sequence[int], terms: Sequence[str]) -> bool:
        """Return whether a short answer stands near words that its row alone has."""
        answer_terms, is_number = _split_terms(answer), _is_number(answer)
        if len(answer_terms) != 1 or (is_number and _weigh(answer_terms[0]) < 2) or len(answer) < 3:
            return False

        # A long number hardly comes by chance, so one word of its row beside it is enough.
        least = 1 if is_number and _weigh(answer_terms[0]) > 2 else MIN_ANSWER_WEIGHT
        for position, term in enumerate(terms):
            if term == answer_terms[0]:
                near = {*terms[max(0, position - WINDOW) : position + WINDOW]} - {term}
                weights = [sum(_weigh(x) for x in near if row in self.terms.get(x, ())) for row in rows]
                if max(weights) >= least:
                    return True
        return False


def _is_stated(answer: str, text: str, folded: str) -> bool:
    """Return whether a text gives an answer: long ones and proper names anywhere, others after "the answer is"."""
    words = _split_words(answer)
    is_proper = len(words) > 1 and all(word[:1].isupper() for word in answer.split()) and answer in text
    if len(words) >= 4 or is_proper:
        return True

    # "The answer is 42 euros." gives it, "42 decimal places" does not: what follows must end the clause.
    lead = _LEAD_TO_NUMBER if _is_number(answer) else _LEAD_TO_WORD
    unit = r"(?:[%°]|\s?(?:eur|usd|dollars?|euros?))?"
    statement = re.compile(rf"(?<![\w.]){re.escape(fold(' '.join(answer.split())))}{unit}(?![\w]|[.,]\d)")
    for match in statement.finditer(folded):
        before = folded[max(0, match.start() - 80) : match.start()]
        if _ANSWER_END.match(folded[match.end() :]) and lead.search(before):
            return True
    return False


def _list_answers(target: Any) -> list[str]:
    """Return the leaves of a target as text; empty ones, booleans and None are no answers."""
    if isinstance(target, Mapping):
        return [text for value in target.values() for text in _list_answers(value)]
    if isinstance(target, list | tuple | set | frozenset):
        return [text for value in target for text in _list_answers(value)]
    if target is None or isinstance(target, bool):
        return []
    if isinstance(target, float) and target.is_integer():
        return [str(int(target))]
    text = str(target).strip()
    final = text.rpartition("####")[2].strip()  # GSM8K ends its solutions with "#### 72"
    return [part for part in dict.fromkeys((text, final)) if part]


def _join_messages(example: Example) -> str:
    return "\n".join(message.content for message in example.messages)


def _split_words(text: str) -> list[str]:
    """Return the folded words of a text; in Chinese, Japanese and Korean each sign is one."""
    return _WORD.findall(fold(text))


def _split_terms(text: str) -> list[str]:
    """Return the telling words of a text as stems, and its numbers without separators of thousands, in order."""
    stop_words, numbers = get_words("stop", "stop_more"), read_tables()["number_words"]
    stems = []
    for match in _TERM.finditer(fold(text)):
        term = numbers.get(match[0], match[0])
        if term in stop_words or (len(term) < 3 and not term.isdigit()):
            continue
        if term[0].isdigit():
            stems.append(re.sub(r",(?=\d{3}\b)", "", term))
            continue
        # Spellings first (litre, liter; Gruen, Grun; colour, color), then the ending, then a doubled letter.
        stem = re.sub(r"([aou])e", r"\1", re.sub(r"(?<=[bcdfgt])re(?=s?$)", "er", term))
        stem = re.sub(r"ou(?=rs?$)", "o", stem)
        bare = _ENDING.sub("", stem)
        stems.append(re.sub(r"([bdfglmnprst])\1$", r"\1", bare if len(bare) > 2 else stem))
    return stems


def _weigh(term: str) -> int:
    """Return how much a term tells of its row: a word 1, a number up to 3 by its digits, a usual one nothing."""
    if not term[0].isdigit():
        return 1
    return 0 if term in get_words("usual_numbers") else min(3, len(re.sub(r"\D", "", term).rstrip("0")))


def _list_trigrams(words: Sequence[str]) -> list[Trigram]:
    return list(zip(words, words[1:], words[2:], strict=False))


def _find_codes(text: str) -> Iterator[str]:
    """Yield numbers and codes that tell one row from others: four digits or more, not round, not a year."""
    for match in _CODE.finditer(text):
        code = re.sub(r"[\W_]", "", match[0]).lower()
        digits = re.sub(r"\D", "", code)
        is_mixed = digits != code and len(code) >= 5 and len(digits) >= 2
        is_year = re.fullmatch(r"(19|20)\d\d", code)
        min_telling = 2 if is_mixed else 3  # digits without the zeros at the end
        if (len(digits) >= 4 or is_mixed) and len(digits.rstrip("0")) >= min_telling and not is_year:
            yield code


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?[€$£]?[\d.,/]*\d%?", text))
