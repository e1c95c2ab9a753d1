"""Near-duplicates among many lessons, found without comparing each lesson with each other."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from edgewise.experience.library.library import Lesson
from edgewise.experience.library.similarity import MIN_OVERLAP, content_words, is_near_duplicate


@dataclass(frozen=True, slots=True)
class _Known:
    place: int
    lesson: Lesson
    words: frozenset[str]


class DuplicateIndex:
    """
    Lessons by the words that carry their meaning, to ask which of them say the same as a text.

    Says what `experience.library.similarity.near` says. Near texts share all but a fifth of their words, so a twin has at least one
    of any few words of the text; the rarest few leave hardly anything to compare.
    """

    def __init__(self, lessons: Iterable[Lesson] = ()):
        self._known: dict[str, _Known] = {}
        self._with: defaultdict[str, set[str]] = defaultdict(set)
        for lesson in lessons:
            self.add(lesson)

    def add(self, lesson: Lesson) -> None:
        """Know one more lesson, or another wording of one that is known."""
        before = self._known.get(lesson.id)
        for word in before.words if before else ():
            self._with[word].discard(lesson.id)
        words = content_words(lesson.text)
        place = before.place if before else len(self._known)
        self._known[lesson.id] = _Known(place, lesson, words)
        for word in words:
            self._with[word].add(lesson.id)

    def find(self, text: str) -> list[Lesson]:
        """The lessons that say the same as a text, in the order in which they were added."""
        words = content_words(text)
        missing = int((1 - MIN_OVERLAP) * len(words) + 1e-9)
        rare = sorted(words, key=lambda word: (len(self._with.get(word, ())), word))[: missing + 1]
        candidates = {id for word in rare for id in self._with.get(word, ())}
        found = [self._known[id] for id in candidates if _nested(self._known[id].words, words)]
        return [x.lesson for x in sorted(found, key=lambda x: x.place) if is_near_duplicate(x.lesson.text, text)]


def _nested(one: frozenset[str], other: frozenset[str]) -> bool:
    return one <= other or other <= one
