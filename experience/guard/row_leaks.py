"""
What a lesson copies from a training row, so that it is no lesson but an answer key.

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
from edgewise.experience.guard.proper_names import identifiers, names_in, people, rare, rare_proper
from edgewise.experience.guard.word_lists import NUMBER_WORDS, PLAIN_ANSWERS, STOP_WORDS, USUAL_NUMBERS
from edgewise.toolkit.types import Example

N = 3
RUN = 8 - N + 1
SHARED = 5
OF_LESSON, OF_ROW = 0.4, 0.5
# Of so many telling words so much is one row's own: a word counts 1, a number up to 3 by its length.
WINDOW, OWN = 12, 7
NUMBERS = 5
ANSWER_WORDS = 2

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_TERM = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+")
_ENDING = re.compile(r"(?:ations?|ings?|ies|ied|ed|es|ers?|s|ly|e|y)$")
_CODE = re.compile(r"(?<!\w)[#€$£]?\w+(?:[-:./,_]\w+)*")
_STATED = r"(?:answer|result|solution|output|label|reply|total|target|value|outcome)s?"
_LEAD_NUMBER = re.compile(
    rf"(?:\b{_STATED}(?:\W+\w+){{0,6}}?\W+(?:is|are|was|be|equals?|comes to|of)\W+|"
    rf"\b{_STATED}\s*[:=]?\W{{0,3}}|->\s*|=>\s*|→\s*|=\s*|####\s*|boxed\W|"
    r"\b(?:equals|amounts to|comes to|works out (?:as|at|to)|(?:say|write|return|respond|choose|pick)(?: "
    r"with)?)\W+)\W{0,3}$"
)
_LEAD_WORD = re.compile(
    r"(?:\b(?:is|are|was|were|be|equals?|answer|with|gives?|yields?|write|reply|respond|say|output|return|"
    r"choose|pick|called|named|to|as|by)\b\W{0,4}|"
    r"->\s*|=>\s*|→\s*|=\s*|:\s*|####\s*|boxed\W)\W{0,3}$"
)


@dataclass(frozen=True, slots=True)
class Rows:
    """
    What belongs to few rows only.

    `own` holds groups of three words, and `terms` word stems and numbers, with the rows they stand in; `grams` counts
    a row's own groups. `codes`, `people`, `names`, `heads` (names that are no name's second word), `identifiers` and
    `answers`, with their rows, are those of few rows.
    """

    own: Mapping[tuple[str, ...], tuple[int, ...]]
    grams: Mapping[int, int]
    terms: Mapping[str, tuple[int, ...]]
    codes: frozenset[str]
    people: frozenset[str]
    names: Set[str]
    heads: Set[str]
    identifiers: frozenset[str]
    answers: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Rows":
        """Index rows; equal rows count once."""
        distinct = list({(_text(x), str(x.target)): x for x in examples}.values())
        texts = ["\n".join([_text(x), *_answers(x.target)]) for x in distinct]
        few = 2 if len(texts) >= 8 else 1
        words = [_words(text) for text in texts]
        own = rare([set(_grams(w, N)) for w in words], few)
        asked = [_text(x) for x in distinct]
        return cls(
            own,
            Counter(row for rows in own.values() for row in rows),
            rare([set(_terms(text)) for text in asked], few),
            frozenset(rare([set(_codes(text)) for text in texts], few)),
            people(texts, words, few),
            *rare_proper(texts, few),
            frozenset(rare([identifiers(text) for text in asked], few)),
            _own_answers(distinct, few),
        )

    def leaks(self, text: str) -> Iterator[str]:
        """What a text leaks, one phrase each: "copies ...", "names ..."."""
        if self._copied(_words(text)) or self._reworded(_terms(text)):
            yield "copies the words of a training row"
        if any(code in self.codes for code in _codes(text)):
            yield "holds a number or code of a single training row"
        if self._named(text):
            yield "names a person, place or firm of a single training row"
        if not self.identifiers.isdisjoint(identifiers(text)):
            yield "holds an identifier from the code of a single training row"
        if self._answered(text):
            yield "gives the answer of a training row"

    def _copied(self, words: Sequence[str]) -> bool:
        """Whether words stand in one row: as a long run, in many groups of three, or as most of the text."""
        grams = _grams(words, N)
        found = [self.own.get(gram, ()) for gram in grams]
        shared: dict[int, set[tuple[str, ...]]] = defaultdict(set)
        runs: dict[int, int] = {}
        for gram, rows in zip(grams, found, strict=True):
            runs = {row: runs.get(row, 0) + 1 for row in rows}
            for row in rows:
                shared[row].add(gram)
            if any(length >= RUN for length in runs.values()):
                return True
        parts = ((len(s), len(s) / len(set(grams)), len(s) / self.grams[row]) for row, s in shared.items())
        return any(n >= SHARED and (a >= OF_LESSON or b >= OF_ROW) for n, a, b in parts)

    def _reworded(self, terms: Sequence[str]) -> bool:
        """Whether many telling words and numbers of a single row stand close together."""
        seen: dict[int, deque[tuple[int, str]]] = defaultdict(deque)
        for at, term in enumerate(terms):
            for row in self.terms.get(term, ()):
                near = seen[row]
                while near and near[0][0] <= at - WINDOW:
                    near.popleft()
                near.append((at, term))
                found = {term for _, term in near}
                numbers = sum(_weight(x) for x in found if x[0].isdigit())
                words = sum(_weight(x) for x in found) - numbers
                if numbers + words >= OWN or (words and numbers >= NUMBERS):
                    return True
        return False

    def _named(self, text: str) -> bool:
        people = (name for name in self.people if name in text)
        return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in people) or names_in(
            text, self.names, self.heads
        )

    def _answered(self, text: str) -> bool:
        """Whether an own answer is given: a long one or a name anywhere, others where stated or near its words."""
        plain = " ".join(text.split())
        folded = fold(plain)
        spoken = f" {' '.join(_words(plain))} "
        terms = _terms(text)
        return any(
            _gives(answer, plain, folded) or self._beside(answer, rows, terms)
            for answer, rows in self.answers.items()
            if f" {' '.join(_words(answer))} " in spoken
        )

    def _beside(self, answer: str, rows: Sequence[int], terms: Sequence[str]) -> bool:
        """Whether an answer stands near words that its row alone has."""
        said, number = _terms(answer), _is_number(answer)
        if len(said) != 1 or (number and _weight(said[0]) < 2) or len(answer) < 3:
            return False
        for at, term in enumerate(terms):
            if term == said[0]:
                near = {*terms[max(0, at - WINDOW) : at + WINDOW]} - {term}
                own = (sum(_weight(x) for x in near if row in self.terms.get(x, ())) for row in rows)
                if max(own) >= (1 if number and _weight(said[0]) > 2 else ANSWER_WORDS):
                    return True
        return False


def _gives(answer: str, text: str, folded: str) -> bool:
    words = _words(answer)
    proper = len(words) > 1 and all(w[:1].isupper() for w in answer.split()) and answer in text
    if len(words) >= 4 or proper:
        return True
    number = _is_number(answer)
    lead = _LEAD_NUMBER if number else _LEAD_WORD
    said = re.compile(
        rf"(?<![\w.]){re.escape(fold(' '.join(answer.split())))}(?P<more>[%°]|\s?(?:eur|usd|dollars?|"
        rf"euros?))?(?![\w]|[.,]\d)"
    )
    for match in said.finditer(folded):
        ends = re.match(
            r"[\s)\]}\"'”*$]*(?:$|[.,;!?]|and\b|for\b|when\b|if\b|because\b)", folded[match.end() :]
        )
        if ends and lead.search(folded[max(0, match.start() - 80) : match.start()]):
            return True
    return False


def _own_answers(examples: Sequence[Example], few: int) -> dict[str, tuple[int, ...]]:
    """Answers of few rows, with these; where each recurs in two rows on average, short ones are labels."""
    found = rare([set(_answers(x.target)) for x in examples], few)
    whole = [str(x.target) for x in examples]
    labels = len(set(whole)) * 2 <= len(whole)
    kept = (a for a in found if fold(a) not in PLAIN_ANSWERS | STOP_WORDS and (_is_number(a) or len(a) > 1))
    return {a: found[a] for a in kept if not labels or len(_words(a)) >= 4}


def _answers(target: Any) -> list[str]:
    """The leaves of a target as text; empty ones, booleans and None are no answers."""
    if isinstance(target, Mapping):
        return [text for value in target.values() for text in _answers(value)]
    if isinstance(target, list | tuple | set | frozenset):
        return [text for value in target for text in _answers(value)]
    if target is None or isinstance(target, bool):
        return []
    if isinstance(target, float) and target.is_integer():
        return [str(int(target))]
    text = str(target).strip()
    final = text.rpartition("####")[2].strip()
    return [part for part in dict.fromkeys((text, final)) if part]


def _text(example: Example) -> str:
    return "\n".join(message.content for message in example.messages)


def _words(text: str) -> list[str]:
    return _WORD.findall(fold(text))


def _terms(text: str) -> list[str]:
    """The telling words of a text as stems, and its numbers without separators of thousands, in order."""
    found = [NUMBER_WORDS.get(match[0], match[0]) for match in _TERM.finditer(fold(text))]
    return [_stem(term) for term in found if term not in STOP_WORDS and (len(term) > 2 or term.isdigit())]


def _stem(term: str) -> str:
    """A word without its ending and variants of spelling (litre, liter; Grün, Gruen); a number as digits."""
    if term[0].isdigit():
        return re.sub(r",(?=\d{3}\b)", "", term)
    word = re.sub(r"([aou])e", r"\1", re.sub(r"(?<=[bcdfgt])re(?=s?$)", "er", term))
    word = re.sub(r"ou(?=rs?$)", "o", word)
    bare = _ENDING.sub("", word)
    word = bare if len(bare) > 2 else word
    return re.sub(r"([bdfglmnprst])\1$", r"\1", word)


def _weight(term: str) -> int:
    """How much a term tells of its row."""
    if not term[0].isdigit():
        return 1
    return 0 if term in USUAL_NUMBERS else min(3, len(re.sub(r"\D", "", term).rstrip("0")))


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def _codes(text: str) -> Iterator[str]:
    """Numbers and codes that tell one row from others: four digits or more, not round, not a year."""
    for match in _CODE.finditer(text):
        bare = re.sub(r"[\W_]", "", match[0]).lower()
        digits = re.sub(r"\D", "", bare)
        mixed = digits != bare and len(bare) >= 5 and len(digits) >= 2
        year = re.fullmatch(r"(19|20)\d\d", bare)
        if (len(digits) >= 4 or mixed) and len(digits.rstrip("0")) > (1 if mixed else 2) and not year:
            yield bare


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?[€$£]?[\d.,/]*\d%?", text))
