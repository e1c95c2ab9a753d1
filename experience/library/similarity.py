"""Similarity of lessons by their content words."""

import re

MIN_OVERLAP = 0.8
STOP_WORDS = frozenset(
    "a about an and any are as at be by for from if in into is it its of on or that the their then there these "
    "this to was were when which with you your always should must".split()
)


NEGATIONS = frozenset({"not", "no", "never", "without", "except", "unless", "only", "don't", "cannot"})


def is_near_duplicate(a: str, b: str) -> bool:
    """
    Whether two lessons say the same, so that one of them is enough.

    The content words of one must contain those of the other and overlap with them by `NEAR` or more (Jaccard),
    and they may not differ in a negation. Strict on purpose: "refunds go to birch" and "refunds go to amber"
    differ in one word and in everything.
    """
    first, second = content_words(a), content_words(b)
    if not first or not second or (first ^ second) & NEGATIONS:
        return False
    nested = first <= second or second <= first
    return nested and len(first & second) / len(first | second) >= MIN_OVERLAP


def content_words(text: str) -> frozenset[str]:
    """Stems of the words that carry meaning, in lower case; negations are kept whole."""
    found = re.findall(r"[\w'-]+", text.lower())
    return frozenset(w if w in NEGATIONS else _stem(w) for w in found if w not in STOP_WORDS)


def _stem(word: str) -> str:
    return re.sub(r"(ing|ed|es|s|e)$", "", word) if len(word) > 4 else word
