"""
Which lessons one question is shown, where a library is larger than a prompt should carry.

A library that fits the budget is shown whole. Of a larger one, always-on lessons come first and then those that
match the question best, by SQLite's full-text search (BM25, Robertson and Zaragoza 2009, doi 10.1561/1500000019)
or, where an embedding model is named, by the cosine of their vectors. What is chosen stands in the library's own
order, so that questions that get the same lessons share their prompt's prefix.
"""

import re
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise

import numpy as np

from edgewise.experience.library.library import LEAD, Library, estimate_tokens
from edgewise.toolkit.errors import ConfigError, ModelError
from edgewise.toolkit.model.openai_format import read_vector
from edgewise.toolkit.run.driver import plan_request
from edgewise.toolkit.types import BilledTo, Message, Plan, Reply, Request

SHARE = 0.15
"""
A lesson that matches less than this share of what the best one does is left out, though there may be room.

Chosen by bench/retrieval.py, within 10,000 tokens of 2,000 lessons: at most one right lesson in a hundred is lost
against no cut, with 6 to 15 % fewer tokens; at 0.3 two or three are where questions say things twice, and twelve where
each wording is left to chance. Lessons that share an incidental word only mostly fall below it.
"""

COMMON = 0.2
"""
A word in more than this part of all lessons, and in more than a `FEW`, is searched for only where a question has
no rarer one: BM25 weighs it least, and it takes the longest.
"""

FEW = 5
LEAST = 0.01
"""BM25 of a lesson that shares nothing but words that half of all lessons have: as good as none."""

FUNCTION_WORDS = frozenset(
    "a about after again all also am an and any are as at be because been before but by can could d did do does for"
    " from had has have he her him his how i if in into is it its just ll m may me more most my no nor not now of on"
    " only or other our out over own re s same she should so some such t than that the their them then there these"
    " they this those through to too until up ve very was we were what when where which while who why will with"
    " would you your".split()
)
"""Never searched for: rare as they may be in lessons, they say nothing. Other languages have `COMMON` alone."""

WORDS = 1000
"""The most different words of a question that are looked up; of those found the `RAREST` are searched for."""
RAREST = 64
INDEXES = 32
"""Libraries whose index is kept, the latest ones: about as many as are compared with each other at once."""

_PAYER = BilledTo("retrieval")
_TABLE = "CREATE VIRTUAL TABLE lessons USING fts5(text, content='', tokenize='porter unicode61')"
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM lessons WHERE lessons MATCH ? LIMIT ?)"
_MATCH = "SELECT rowid, -bm25(lessons) FROM lessons WHERE lessons MATCH ?"

# A word is what stands between controls, blanks and punctuation; SQLite, which gets it in quotes, may split it
# further and then looks for its parts side by side.
_WORD = re.compile(
    r"[^\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\xa9\s\u2000-\u206f\u3000-\u3004\u3008-\u3020\uff01-\uff0f\uff1a-\uff20]{1,64}"
)
# Scripts written without blanks (Thai to Burmese, Khmer, kana, Han): here every pair of signs is a word.
_UNSPACED = re.compile(
    r"[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """
    How lessons are chosen: at most `tokens` estimated tokens, by the vectors of `embedder` where one is named.

    One value serves a run: `vectors` keeps what the embedder said of each lesson, by its text.
    """

    tokens: int
    embedder: str = ""
    vectors: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)


def shown(library: Library, messages: tuple[Message, ...], how: Retrieval) -> Plan[Library]:
    """
    The lessons for a prompt: those that fit its last user message. Asks nobody where no embedder is named.

    Raises ConfigError where the always-on lessons alone pass the budget.
    """
    question = next((m.content for m in reversed(messages) if m.role == "user"), "")
    if not how.embedder:
        return relevant(library, question, how.tokens)
    return (yield from by_embedding(library, question, how.tokens, how.embedder, how.vectors))


def relevant(library: Library, question: str, most: int) -> Library:
    """
    The lessons for a question within `most` estimated tokens, by full-text search.

    Any text may be asked; one without words, or whose words are in no lesson, gets the always-on lessons only.
    Raises ConfigError where those alone pass the budget.
    """
    index = _index(library)
    return library if index.tokens <= most else _within(library, index.match(question), most)


def by_embedding(
    library: Library, question: str, most: int, embedder: str, vectors: dict[str, np.ndarray] | None = None
) -> Plan[Library]:
    """
    The same by vectors of `embedder`, asked for all lessons that are not in `vectors` and for the question.

    Vectors are seen from the mean of all lessons: those of models made to chat all point the same way (Mu and
    Viswanath 2018, arXiv 1702.01417). With local/smollm2-135m the right one of 120 lessons was so among the ten
    nearest for 45 % of 40 questions, before that for 30 %; by full text for 95 %: an embedder should be made for it.

    Where the question gets no vector, because it is empty or too long, or no lesson has one, full-text search
    chooses; otherwise a lesson without one is never chosen. Raises ModelError for a model that gives no vectors.
    """
    if _index(library).tokens <= most:
        return library
    known = {} if vectors is None else vectors
    yield from _learn(library, embedder, known)
    rows = [row for row, lesson in enumerate(library.lessons) if lesson.text in known]
    asked: Reply | None = (yield _request(embedder, question)) if rows and question.strip() else None
    if asked is None or asked.failed:
        return relevant(library, question, most)
    near = _cosines([known[library.lessons[row].text] for row in rows], read_vector(asked))
    return _within(library, dict(zip(rows, near, strict=True)), most)


def prepare(library: Library, how: Retrieval) -> Plan[None]:
    """
    Fetch the vectors of all lessons, if any are needed: once for a library, before many questions at once.

    Without this each of those questions asks for them; a journal still pays only once.
    """
    if how.embedder and _index(library).tokens > how.tokens:
        yield from _learn(library, how.embedder, how.vectors)


def _learn(library: Library, embedder: str, known: dict[str, np.ndarray]) -> Plan[None]:
    """Put the vectors of lessons into `known`. One whose reply failed is left out; ModelError if all did."""
    missing = [text for text in dict.fromkeys(x.text for x in library.lessons) if text not in known]
    if not missing:
        return
    replies = yield [plan_request(_request(embedder, text)) for text in missing]
    answered = {text: reply for text, reply in zip(missing, replies, strict=True) if not reply.failed}
    if not (answered or known):
        raise ModelError(f"{embedder} gave no vector for any lesson: {replies[0].error}")
    known.update((text, read_vector(reply)) for text, reply in answered.items())


def _request(embedder: str, text: str) -> Request:
    return Request(embedder, (Message("user", text),), payer=_PAYER, is_embedding=True)


def _cosines(lessons: Sequence[np.ndarray], question: np.ndarray) -> list[float]:
    """Cosines of the vectors of lessons with that of a question, all seen from the mean of the lessons."""
    if len({found.size for found in (*lessons, question)}) > 1:
        raise ModelError("The embedder gave vectors of different lengths: name one that does not change.")
    centre = np.mean(lessons, axis=0)
    rows, asked = np.stack(lessons) - centre, question - centre
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(asked)
    return (rows @ asked / np.where(lengths > 0, lengths, np.inf)).tolist()


def _within(library: Library, scores: Mapping[int, float], most: int) -> Library:
    """Always-on lessons and the best by `scores` (of positions; more is better) that fit the budget."""
    costs, room = _index(library).costs, most - estimate_tokens(LEAD)
    chosen = {row for row, lesson in enumerate(library.lessons) if lesson.always}
    room -= sum(costs[row] for row in chosen)
    if chosen and room < 0:
        raise ConfigError(
            f"The always-on lessons alone take more than the {most} tokens that may be shown: allow more, or make"
            " fewer always on."
        )
    least = SHARE * max(scores.values(), default=0.0)
    good = (row for row, score in scores.items() if score > 0 and score >= least and row not in chosen)
    for row in sorted(good, key=lambda row: (-scores[row], row)):
        if costs[row] <= room:
            chosen.add(row)
            room -= costs[row]
    return library.with_lessons(library.lessons[row] for row in sorted(chosen))


class _Index:
    """
    What is known of a library before any question; threads may share it.

    `tokens` is what all its lessons take, `costs` the most that each of them adds. The full-text index is made in
    memory when it is first searched.
    """

    def __init__(self, library: Library):
        self.tokens = library.tokens
        marks = [f"[{label}]." if library.labelled else "-" for label in library.labels()]
        self._texts = [lesson.text for lesson in library.lessons]
        self.costs = [estimate_tokens(f"\n{mark} {text}") for mark, text in zip(marks, self._texts, strict=True)]
        self._common = max(FEW, int(COMMON * len(marks)))
        self._lock = threading.Lock()
        self._table: sqlite3.Connection | None = None

    def match(self, question: str) -> dict[int, float]:
        """BM25 of the lessons that share a word with the question, by their position; above zero."""
        words = [f'"{word}"' for word in islice(dict.fromkeys(_words(question)), WORDS)]
        with self._lock:
            table = self._table = self._table or self._searchable()
            counts = [(_count(table, word, self._common + 1), word) for word in words]
            known = [(count, word) for count, word in sorted(counts) if count]
            telling = [word for count, word in known if count <= self._common] or [word for _, word in known]
            found = table.execute(_MATCH, [" OR ".join(telling[:RAREST])]).fetchall() if telling else []
        return {row: score for row, score in found if score > LEAST}

    def _searchable(self) -> sqlite3.Connection:
        table = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        weakref.finalize(self, table.close)
        table.execute(_TABLE)
        table.execute("BEGIN")
        rows = ((row, " ".join(_words(text))) for row, text in enumerate(self._texts))
        table.executemany("INSERT INTO lessons (rowid, text) VALUES (?, ?)", rows)
        table.execute("COMMIT")
        return table


_recent: deque[tuple[Library, _Index]] = deque(maxlen=INDEXES)
_guard = threading.Lock()


def _index(library: Library) -> _Index:
    """
    The index of a library, made once.

    Found by comparing: that takes microseconds where lessons are the same objects, a version takes milliseconds.
    """
    with _guard:
        for known, index in _recent:
            if known == library:
                return index
        _recent.append((library, _Index(library)))
        return _recent[-1][1]


def _count(table: sqlite3.Connection, word: str, most: int) -> int:
    """In how many lessons a word is, counted up to `most`."""
    ((count,),) = table.execute(_COUNT, (word, most))
    return count


def _words(text: str) -> Iterator[str]:
    """The words of a text, in lower case, in order."""
    text = text.lower().encode("utf-8", "replace").decode("utf-8")  # SQLite takes no lone surrogates
    words = (found[0] for found in _WORD.finditer(_UNSPACED.sub(_pairs, text)))
    return (word for word in words if word not in FUNCTION_WORDS)


def _pairs(found: re.Match[str]) -> str:
    """A run of signs as all its pairs, between blanks."""
    run = found[0]
    return f" {' '.join(a + b for a, b in pairwise(run)) or run} "
