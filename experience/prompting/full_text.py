"""
Full-text search in the lessons of a library, by BM25.

A question is searched for by its rarest words alone: common ones hardly change the order of BM25 and take the longest.
"""

import re
import threading
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from itertools import islice, pairwise

from edgewise.experience.guard.patterns import get_words
from edgewise.experience.library.library import Library, estimate_tokens
from edgewise.toolkit.tools.full_text import FullTextIndex, make_encodable

COMMON_SHARE = 0.2
"""
A word in more than this part of all lessons, and in more than `COMMON_COUNT`, is searched for only where a question
has no rarer one: BM25 weighs it least, and it takes the longest.
"""
COMMON_COUNT = 5
MIN_SCORE = 0.01
"""BM25 of a lesson that shares nothing but words that half of all lessons have: as good as none."""

MAX_WORDS = 1000
"""The most different words of a question that are looked up; of those found the `MAX_RAREST` are searched for."""
MAX_RAREST = 64
MAX_INDEXES = 32
"""Indexes in memory, of the libraries last used: about as many as are compared with each other at once."""

# A word is what stands between controls, blanks and punctuation; FTS5 may split it further and then looks for its
# parts side by side.
_WORD = re.compile(
    r"[^\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\xa9\s\u2000-\u206f\u3000-\u3004\u3008-\u3020\uff01-\uff0f\uff1a-\uff20]{1,64}"
)
# Scripts written without blanks (Thai to Burmese, Khmer, kana, Han): here every pair of signs is a word.
_UNSPACED = re.compile(r"[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")


class LessonIndex:
    """
    A library prepared for questions; several threads may share it.

    `tokens` is what all its lessons take in a prompt, `costs` the most that each of them adds.
    """

    def __init__(self, library: Library):
        self.tokens = library.tokens
        marks = [f"[{label}]." if library.labelled else "-" for label in library.labels()]
        self._texts = [lesson.text for lesson in library.lessons]
        lines = [f"\n{mark} {text}" for mark, text in zip(marks, self._texts, strict=True)]
        self.costs = list(map(estimate_tokens, lines))

    @cached_property
    def _index(self) -> FullTextIndex:
        # Made at the first search only: most libraries fit their prompts and are never searched.
        rows = [(" ".join(_split_words(text)),) for text in self._texts]
        return FullTextIndex(rows, ("text",), "porter unicode61")

    def match(self, question: str) -> dict[int, float]:
        """Return BM25 of the lessons that share a word with the question, by position; above zero."""
        # Count first, search then: a count stops at the limit, while BM25 scores every lesson with the word.
        common = max(COMMON_COUNT, int(COMMON_SHARE * len(self._texts)))
        words = list(islice(dict.fromkeys(_split_words(question)), MAX_WORDS))
        counts = sorted((self._index.count_rows(word, common + 1), word) for word in words)
        # Words of no lesson are dropped; where all are common, common ones have to do.
        known = [(count, word) for count, word in counts if count]
        rare = [word for count, word in known if count <= common] or [word for _, word in known]
        return {row: score for row, score in self._index.search(rare[:MAX_RAREST]) if score > MIN_SCORE}


_recent: deque[tuple[Library, LessonIndex]] = deque(maxlen=MAX_INDEXES)
_recent_lock = threading.Lock()


def index_lessons(library: Library) -> LessonIndex:
    """
    Return the index of a library, made once.

    Libraries are compared, not hashed: that takes microseconds where lessons are the same objects, and a version
    takes milliseconds. A version also says nothing of which lessons are always on.
    """
    with _recent_lock:
        for other, index in _recent:
            if other == library:
                return index
        _recent.append((library, LessonIndex(library)))
        return _recent[-1][1]


def _split_words(text: str) -> Iterator[str]:
    """Yield the words of a text, in lower case, in order, without function words."""

    def split_run(match: re.Match[str]) -> str:
        run = match[0]
        return f" {' '.join(a + b for a, b in pairwise(run)) or run} "

    # Rare as they may be in lessons, they say nothing. Other languages have `COMMON_SHARE` alone.
    function_words = get_words("stop", "stop_more", "stop_retrieval")
    for match in _WORD.finditer(_UNSPACED.sub(split_run, make_encodable(text.lower()))):
        if match[0] not in function_words:
            yield match[0]
