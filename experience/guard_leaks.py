"""
What a lesson copies from a training row, so that it is no lesson but an answer key.

Words that many rows share, like those of a prompt template, belong to no row. A lesson leaks where it copies a
row's own words at length, names a number, code or person of one row, or gives an answer that does not recur.

Sizes: honest topics share up to six or seven words in a row with a message ("charged twice for the same order");
eight do not come by chance, and edits of every fifth word leave about half of the groups of three words standing.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from experience.guard_orders import fold
from toolkit.types import Example

T = TypeVar("T")

N = 3
RUN = 8 - N + 1
SHARED = 5
OF_LESSON, OF_ROW = 0.4, 0.5
CONTENT, OF_CONTENT = 6, 0.6

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_CODE = re.compile(r"(?<!\w)[#€$£]?\w+(?:[-:./,_]\w+)*")
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
_NO_NAME = frozenset(
    "new north south east west great united saint san los las dear hello hi hey thanks thank best kind "
    "regards sir madam "
    "monday tuesday wednesday thursday friday saturday sunday january february march april may june july "
    "august "
    "september october november december street road avenue lane city bank pay card university college "
    "school theorem "
    "formula inequality remainder black customer support service team english german french spanish this "
    "that these "
    "the and but for not you your all please i we it is my our can what when how why who where if a an in "
    "on at to of "
    "from there he she they was has have had".split()
)
_STOP_WORDS = frozenset(
    "a about after all also an and any are as at be been before but by can do does for from had has have "
    "he her his how i if "
    "in into is it its me my no not of on or our out she so than that the their them then there these "
    "they this to up was "
    "we were what when which who will with would you your".split()
)
_PLAIN_ANSWERS = frozenset(
    "yes no none true false unknown other null nan n/a maybe positive negative neutral".split()
)
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

    `own` holds groups of three words, and words, with the rows they stand in; `grams` counts a row's own groups;
    `codes`, `names` and `answers` are those of few rows.
    """

    own: Mapping[tuple[str, ...], tuple[int, ...]]
    grams: Mapping[int, int]
    codes: frozenset[str]
    names: frozenset[str]
    answers: frozenset[str]

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Rows":
        """Index rows; equal rows count once."""
        distinct = list({(_text(x), str(x.target)): x for x in examples}.values())
        texts = ["\n".join([_text(x), *_answers(x.target)]) for x in distinct]
        few = 2 if len(texts) >= 8 else 1
        words = [_words(text) for text in texts]
        own = _rare([{*_grams(w, N), *_grams(w, 1)} for w in words], few)
        of_row = Counter(row for gram, rows in own.items() if len(gram) == N for row in rows)
        codes = _rare([set(_codes(text)) for text in texts], few)
        return cls(own, of_row, frozenset(codes), _names(texts, words, few), _own_answers(distinct, few))

    def leaks(self, text: str) -> Iterator[str]:
        """What a text leaks, one phrase each: "copies ...", "names ..."."""
        if self._copied(_words(text)):
            yield "copies the words of a training row"
        if any(code in self.codes for code in _codes(text)):
            yield "holds a number or code of a single training row"
        if any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in self.names if name in text):
            yield "names a person of a single training row"
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
        return any(n >= SHARED and (a >= OF_LESSON or b >= OF_ROW) for n, a, b in parts) or self._reworded(
            words
        )

    def _reworded(self, words: Sequence[str]) -> bool:
        """Whether most words that carry meaning are a single row's own."""
        content = {w for w in words if w not in _STOP_WORDS and len(w) > 2}
        rows = Counter(row for word in content for row in self.own.get((word,), ()))
        most = max(rows.values(), default=0)
        return most >= CONTENT and most >= OF_CONTENT * len(content)

    def _answered(self, text: str) -> bool:
        """Whether an own answer is given: a long one or a name anywhere, others where stated."""
        plain = " ".join(text.split())
        folded = fold(plain)
        spoken = f" {' '.join(_words(plain))} "
        return any(
            _gives(answer, plain, folded)
            for answer in self.answers
            if f" {' '.join(_words(answer))} " in spoken
        )


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


def _own_answers(examples: Sequence[Example], few: int) -> frozenset[str]:
    """Answers of few rows; where each recurs in two rows on average, short ones are labels."""
    found = _rare([set(_answers(x.target)) for x in examples], few)
    whole = [str(x.target) for x in examples]
    labels = len(set(whole)) * 2 <= len(whole)
    kept = (a for a in found if fold(a) not in _PLAIN_ANSWERS | _STOP_WORDS and (_is_number(a) or len(a) > 1))
    return frozenset(a for a in kept if not labels or len(_words(a)) >= 4)


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


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def _rare(of_rows: Sequence[set[T]], few: int) -> dict[T, tuple[int, ...]]:
    """What stands in at most `few` rows, with these rows."""
    found: dict[T, tuple[int, ...]] = {}
    for row, items in enumerate(of_rows):
        for item in items:
            rows = found.get(item, ())
            if len(rows) <= few:
                found[item] = (*rows, row)
    return {item: rows for item, rows in found.items() if len(rows) <= few}


def _codes(text: str) -> Iterator[str]:
    """Numbers and codes that tell one row from others: four digits or more, not round, not a year."""
    for match in _CODE.finditer(text):
        bare = re.sub(r"[\W_]", "", match[0]).lower()
        digits = re.sub(r"\D", "", bare)
        mixed = digits != bare and len(bare) >= 5 and len(digits) >= 2
        year = re.fullmatch(r"(19|20)\d\d", bare)
        if (len(digits) >= 4 or mixed) and len(digits.rstrip("0")) > (1 if mixed else 2) and not year:
            yield bare


def _names(texts: Sequence[str], words: Sequence[Sequence[str]], few: int) -> frozenset[str]:
    """People of few rows: after a title or words like "regards", or two words never in lower case."""
    lower = {word for text in texts for word in re.findall(r"(?<!\w)[^\W\d_A-Z][\w'’]*", text)}
    marked = _rare([_marked(text) for text in texts], few)
    full = _rare([{" ".join(name.split()) for name in _FULL.findall(text)} for text in texts], few)
    spread = Counter(word for row in words for word in set(row))
    real = {
        n
        for n in full
        if not any(w.lower() in lower | _NO_NAME or spread[fold(w)] > few + 2 for w in n.split())
    }
    single = {
        n
        for n in marked
        if not any(w.lower() in lower | _NO_NAME for w in n.split()) and spread[fold(n.split()[-1])] <= few
    }
    return frozenset(real | single | {n.split()[-1] for n in single})


def _marked(text: str) -> set[str]:
    return {" ".join(match[1].split()) for match in _CALLED.finditer(text)}


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?[€$£]?[\d.,/]*\d%?", text))
