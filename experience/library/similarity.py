"""Near-duplicates: lessons that say the same, told by their content words and found without comparing all pairs."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from edgewise.experience.guard.patterns import get_words
from edgewise.experience.library.library import Lesson

MIN_OVERLAP = 0.8
"""Jaccard index from which nested sets of content words say the same."""
NEGATIONS = frozenset({"not", "no", "never", "without", "except", "unless", "only", "don't", "cannot"})


def is_near_duplicate(a: str, b: str) -> bool:
    """
    Return whether two lessons say the same, so that one of them is enough.

    The content words of one must contain those of the other and overlap with them by `MIN_OVERLAP` or more (Jaccard),
    and they may not differ in a negation. Strict on purpose: "refunds go to birch" and "refunds go to amber"
    differ in one word and in everything.
    """
    first, second = content_words(a), content_words(b)
    if not first or not second or (first ^ second) & NEGATIONS:
        return False
    is_nested = first <= second or second <= first
    return is_nested and len(first & second) / len(first | second) >= MIN_OVERLAP


def content_words(text: str) -> frozenset[str]:
    """Return stems of the words that carry meaning, in lower case; negations stay whole."""
    stop_words = get_words("stop", "stop_lessons")
    stems = set()
    for word in re.findall(r"[\w'-]+", text.lower()):
        if word not in stop_words:
            is_whole = word in NEGATIONS or len(word) <= 4
            stems.add(word if is_whole else re.sub(r"(ing|ed|es|s|e)$", "", word))
    return frozenset(stems)


@dataclass(frozen=True, slots=True)
class _Entry:
    position: int
    lesson: Lesson
    words: frozenset[str]


class DuplicateIndex:
    """
    An inverted index of lessons by their content words; it finds what `is_near_duplicate` would.

    A near-duplicate of a text with n content words lacks at most (1 - MIN_OVERLAP) n of them. So it has one of any
    floor((1 - MIN_OVERLAP) n) + 1 words of the text, and the rarest of them leave hardly anything to compare.
    """

    def __init__(self, lessons: Iterable[Lesson] = ()):
        self._entries: dict[str, _Entry] = {}  # by the id of the lesson
        self._ids: defaultdict[str, set[str]] = defaultdict(set)  # by word
        for lesson in lessons:
            self.add(lesson)

    def add(self, lesson: Lesson) -> None:
        """Add a lesson, or replace the wording of one that is in the index."""
        old = self._entries.get(lesson.id)
        for word in old.words if old else ():
            self._ids[word].discard(lesson.id)
        words = content_words(lesson.text)
        self._entries[lesson.id] = _Entry(old.position if old else len(self._entries), lesson, words)
        for word in words:
            self._ids[word].add(lesson.id)

    def find(self, text: str) -> list[Lesson]:
        """Return the near-duplicates of a text, in the order in which they were added."""
        words = content_words(text)
        max_missing = int((1 - MIN_OVERLAP) * len(words) + 1e-9)  # (1 - 0.8) * 5 is a little less than 1
        by_rarity = sorted(words, key=lambda word: (len(self._ids.get(word, ())), word))
        ids = {id for word in by_rarity[: max_missing + 1] for id in self._ids.get(word, ())}

        # Whether one contains the other is quick to see, and says no for most.
        entries = [self._entries[id] for id in ids]
        nested = [entry for entry in entries if entry.words <= words or words <= entry.words]
        nested.sort(key=lambda entry: entry.position)
        return [entry.lesson for entry in nested if is_near_duplicate(entry.lesson.text, text)]
