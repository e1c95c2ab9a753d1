"""
Select the lessons for one question, where a library is larger than a prompt should carry.

A library that fits the budget is used whole. Of a larger one, always-on lessons come first and then those that match
the question best, by full-text search or, where an embedding model is named, by the cosine of their vectors. The
selected lessons keep the library's own order, so that questions with the same lessons share their prompt's prefix.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgewise.experience.library.library import LEAD, Library, estimate_tokens
from edgewise.experience.prompting.full_text import index_lessons
from edgewise.toolkit.errors import ConfigError, ModelError
from edgewise.toolkit.model.openai_format import read_vector
from edgewise.toolkit.run.driver import plan_request
from edgewise.toolkit.types import BilledTo, Message, Plan, Reply, Request

MIN_SCORE_SHARE = 0.15
"""
A lesson that matches less than this share of what the best one does is left out, though there may be room.

Chosen by bench/retrieval.py, within 10,000 tokens of 2,000 lessons: at most one right lesson in a hundred is lost
against no cut, with 6 to 15 % fewer tokens; at 0.3 two or three are where questions say things twice, and twelve where
each wording is left to chance. Lessons that share an incidental word only mostly fall below it.
"""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """
    How lessons are selected: at most `tokens` estimated tokens, by the vectors of `embedder` where one is named.

    One value serves a run: `vectors` caches the embedding of each lesson, by its text.
    """

    tokens: int
    embedder: str = ""
    vectors: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)


def select_lessons(library: Library, messages: tuple[Message, ...], retrieval: Retrieval) -> Plan[Library]:
    """
    Select the lessons for a prompt: those that match its last user message.

    Yields no request where no embedder is named. Raises ConfigError where the always-on lessons alone pass the budget.
    """
    question = next((m.content for m in reversed(messages) if m.role == "user"), "")
    if not retrieval.embedder:
        return select_by_full_text(library, question, retrieval.tokens)
    return (yield from select_by_embedding(library, question, retrieval))


def select_by_full_text(library: Library, question: str, budget: int) -> Library:
    """
    Select the lessons for a question within `budget` estimated tokens, by full-text search.

    The question may be any text; one without words, or whose words are in no lesson, gets the always-on lessons only.
    Raises ConfigError where those alone pass the budget.
    """
    index = index_lessons(library)
    return library if index.tokens <= budget else _fill_budget(library, index.match(question), budget)


def select_by_embedding(library: Library, question: str, retrieval: Retrieval) -> Plan[Library]:
    """
    Select the lessons for a question by vectors of the embedder; lessons without a vector get one first.

    Vectors are centred on the mean of all lessons: those of chat models all point the same way (Mu and Viswanath 2018,
    arXiv 1702.01417). With local/smollm2-135m the right one of 120 lessons was so among the ten nearest for 45 % of 40
    questions, before that for 30 %; by full text for 95 %: an embedder should be made for it.

    Where the question gets no vector, because it is empty or too long, or no lesson has one, full-text search
    selects; otherwise a lesson without one is never selected. Raises ModelError for a model that gives no vectors.
    """
    if index_lessons(library).tokens <= retrieval.tokens:
        return library
    yield from _embed_lessons(library, retrieval)
    vectors = retrieval.vectors
    rows = [row for row, lesson in enumerate(library.lessons) if lesson.text in vectors]
    reply: Reply | None = None
    if rows and question.strip():
        reply = yield _embedding_request(retrieval.embedder, question)
    # Falling back costs accuracy for one question; raising would end the run for it.
    if reply is None or reply.failed:
        return select_by_full_text(library, question, retrieval.tokens)

    target = read_vector(reply)
    lessons = [vectors[library.lessons[row].text] for row in rows]
    if len({vector.size for vector in (*lessons, target)}) > 1:
        raise ModelError("The embedder gave vectors of different lengths: name one that does not change.")

    # cos(l - m, q - m), m the mean of the lessons; 0 where a length is 0.
    centre = np.mean(lessons, axis=0)
    matrix, target = np.stack(lessons) - centre, target - centre  # [lesson, dimension], [dimension]
    lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(target)
    cosines = matrix @ target / np.where(lengths > 0, lengths, np.inf)
    return _fill_budget(library, dict(zip(rows, cosines.tolist(), strict=True)), retrieval.tokens)


def prefetch_embeddings(library: Library, retrieval: Retrieval) -> Plan[None]:
    """
    Fetch the vectors of all lessons, if any are needed: once for a library, before many concurrent questions.

    Without this each of those questions requests them; a journal still pays only once.
    """
    if retrieval.embedder and index_lessons(library).tokens > retrieval.tokens:
        yield from _embed_lessons(library, retrieval)


def _embed_lessons(library: Library, retrieval: Retrieval) -> Plan[None]:
    """Cache the vectors of lessons. One whose reply failed is left out; ModelError if all did."""
    vectors = retrieval.vectors
    missing = [text for text in dict.fromkeys(x.text for x in library.lessons) if text not in vectors]
    if not missing:
        return
    replies = yield [plan_request(_embedding_request(retrieval.embedder, text)) for text in missing]
    fresh = {text: reply for text, reply in zip(missing, replies, strict=True) if not reply.failed}
    if not (fresh or vectors):
        raise ModelError(f"{retrieval.embedder} gave no vector for any lesson: {replies[0].error}")
    vectors.update((text, read_vector(reply)) for text, reply in fresh.items())


def _embedding_request(embedder: str, text: str) -> Request:
    return Request(embedder, (Message("user", text),), payer=BilledTo("retrieval"), is_embedding=True)


def _fill_budget(library: Library, scores: Mapping[int, float], budget: int) -> Library:
    """Return always-on lessons and the best by `scores` (of positions; more is better) that fit the budget."""
    # Costs are upper bounds: a label may get shorter in a smaller library, so the result never passes the budget.
    costs = index_lessons(library).costs
    chosen = {row for row, lesson in enumerate(library.lessons) if lesson.always}
    room = budget - estimate_tokens(LEAD) - sum(costs[row] for row in chosen)
    if chosen and room < 0:
        raise ConfigError(
            f"The always-on lessons alone take more than the {budget} tokens that may be shown: allow more, or make"
            " fewer always on."
        )

    # Greedy, the best first; a lesson that is too long leaves its room to shorter ones. Of equals the older first.
    least = MIN_SCORE_SHARE * max(scores.values(), default=0.0)
    good = [row for row, score in scores.items() if score > 0 and score >= least and row not in chosen]
    for row in sorted(good, key=lambda row: (-scores[row], row)):
        if costs[row] <= room:
            chosen.add(row)
            room -= costs[row]
    return library.with_lessons(library.lessons[row] for row in sorted(chosen))
