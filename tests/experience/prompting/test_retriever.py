import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.experience.library.library import Lesson, Library, make_lesson
from edgewise.experience.prompting.full_text import MAX_INDEXES
from edgewise.experience.prompting.retriever import (
    Retrieval,
    prefetch_embeddings,
    select_by_embedding,
    select_by_full_text,
    select_lessons,
)
from edgewise.toolkit.budget.journal import Journal
from edgewise.toolkit.budget.ledger import Ledger, Limits
from edgewise.toolkit.errors import ConfigError, ModelError
from edgewise.toolkit.model.middleware import stack_middleware
from edgewise.toolkit.model.openai_format import pack_vector
from edgewise.toolkit.model.router import Router
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.types import Message, Reply, Request
from tests.support.plans import play
from tests.support.server import Server

TEXTS = (
    "Refunds above a hundred euros go to birch.",
    "A parcel that is late belongs to heron.",
    "Passwords and sign-ins are for amber.",
    "Café bookings are taken by onyx.",
    "退款申请请转给财务部门。",
    "คำขอคืนเงินส่งไปที่ฝ่ายการเงิน",
    "नमस्ते कहने वाले संदेश मेपल को भेजें",
    "Damaged lamps, broken pumps, dead sensors: cobalt.",
)
LIBRARY = Library(tuple(map(make_lesson, TEXTS)))
ALWAYS = replace(make_lesson("Answer with one word."), always=True)
WITH_ALWAYS = LIBRARY.with_lessons((*LIBRARY.lessons, ALWAYS))
LITTLE = 130


def select_texts(question, library=LIBRARY, most=LITTLE):
    return [x.text for x in select_by_full_text(library, question, most).lessons]


def test_library_within_budget_is_used_whole():
    assert select_by_full_text(LIBRARY, "anything", LIBRARY.tokens) is LIBRARY
    assert select_by_full_text(LIBRARY, "anything", LIBRARY.tokens - 1) is not LIBRARY


@pytest.mark.parametrize(
    ("question", "number"),
    [
        ("I want to be REFUNDED!", 0),
        ("my parcels", 1),
        ("password:forgotten", 2),
        ("the cafe", 3),
        ("我想退款", 4),
        ("ขอคืนเงินได้ไหม", 5),
        ("नमस्ते", 6),
        ('"sensor" OR', 7),
    ],
)
def test_question_selects_the_lesson_with_its_words(question, number):
    assert select_texts(question) == [TEXTS[number]]


@pytest.mark.parametrize(
    "question",
    [
        "",
        " \n\t",
        '"',
        '""""',
        "NEAR(x y, 2) AND NOT (",
        "text: *",
        "-- '; DROP TABLE lessons; {x y} : ^a + b*",
        "\x00",
        'x\x00"y',
        "\ud83d",
        "😀😀",
        "́",
        "of the and for is that",
        "Ж" * 100_000,
        " ".join(f"w{n}" for n in range(20_000)),
        "'" * 100_000,
    ],
    ids=lambda question: ascii(question[:12]),
)
def test_any_text_without_a_match_selects_always_on_lessons(question):
    assert select_texts(question, WITH_ALWAYS) == [ALWAYS.text]


def test_word_at_the_end_of_a_very_long_question_counts():
    assert select_texts("la " * 30_000 + "parcel") == [TEXTS[1]]


def test_common_word_selects_no_lessons():
    texts = [f"Messages of type x{n} go to team {n}." for n in range(50)]
    library = Library(tuple(map(make_lesson, texts)))
    assert select_texts("Which messages go to a team? x17", library) == [texts[17]]
    assert select_texts("Which messages go to a team?", library) == []


def test_common_word_counts_where_there_is_no_rarer_one():
    texts = [f"{('Parcels', 'Refunds', 'Invoices')[n % 3]} of kind k{n}." for n in range(60)]
    library = Library(tuple(map(make_lesson, texts)))
    assert select_texts("parcel", library, 300) == texts[::3]
    assert select_texts("parcel k6", library, 300) == texts[6:7]


def test_lesson_with_one_incidental_word_is_not_selected():
    texts = [
        "Grinder motor overheats after long espresso brewing: cobalt, unless warranty ended.",
        "Espresso.",
        *(f"Topic {n} alone." for n in range(200)),
        *["Long words need care, and yet more words follow here to make it count less."] * 3,
    ]
    library = Library(tuple(replace(make_lesson(text), id=str(n)) for n, text in enumerate(texts)))
    question = "The motor of my grinder overheats when brewing long; is the warranty ended?"
    assert select_texts(question, library, 300) == texts[:1]


def test_selection_keeps_the_best_in_library_order():
    texts = ["alpha one.", "alpha beta two.", "alpha beta gamma three.", "other", "more", "words"]
    library = Library(tuple(map(make_lesson, texts)))
    for question in ("alpha beta gamma", "gamma gamma beta"):
        assert select_texts(question, library, 37) == texts[1:3]


def test_always_on_lessons_over_budget_raise():
    with pytest.raises(ConfigError, match="always-on lessons alone"):
        select_by_full_text(WITH_ALWAYS, "parcel", 20)


def test_index_cache_tells_always_on_lessons_apart():
    assert select_texts("parcel") == [TEXTS[1]]
    pinned = LIBRARY.with_lessons(replace(x, always=x.text == TEXTS[7]) for x in LIBRARY.lessons)
    assert pinned.version == LIBRARY.version
    assert select_texts("parcel", pinned) == [TEXTS[1], TEXTS[7]]


def test_more_libraries_than_cached_indexes_are_searched():
    libraries = [
        Library(tuple(make_lesson(f"Library {n} has word{n}x{k} in it.") for k in range(9)))
        for n in range(MAX_INDEXES + 8)
    ]
    for _ in range(2):
        for n, library in enumerate(libraries):
            assert select_texts(f"word{n}x4", library, 40) == [library.lessons[4].text]


def test_threads_share_an_index():
    library = Library(tuple(make_lesson(f"Case{n} goes to team {n % 7}.") for n in range(300)))
    questions = [f"What of case{n}?" for n in range(300)]
    with ThreadPoolExecutor(8) as pool:
        selections = list(pool.map(lambda question: select_texts(question, library), questions))
    assert selections == [[x.text] for x in library.lessons]


words = st.sampled_from("alpha beta gamma delta 退款 café don't x1 😀 \ud83d".split(" ")) | st.text(max_size=6)
sentences = st.lists(words, max_size=8).map(" ".join)
lessons = st.builds(
    Lesson,
    st.integers().map(str),
    sentences,
    st.sampled_from(["content", "form"]),
    always=st.sampled_from([False] * 5 + [True]),
)


@settings(deadline=None)
@given(
    found=st.lists(lessons, max_size=12).map(tuple),
    labelled=st.booleans(),
    question=sentences,
    most=st.integers(1, 120),
)
def test_selection_is_an_ordered_subset_within_budget(found, labelled, question, most):
    library = Library(found, labelled=labelled)
    try:
        part = select_by_full_text(library, question, most)
    except ConfigError:
        assert any(x.always for x in found)
        return
    assert part.tokens <= most or part is library
    rest = iter(library.lessons)
    assert all(any(x is other for other in rest) for x in part.lessons)
    assert [x for x in library.lessons if x.always] == [x for x in part.lessons if x.always]
    assert select_by_full_text(library, question, most) == part


# --- by embeddings -----------------------------------------------------------------------------------------

MEANINGS = (("refund", "money"), ("parcel", "shipment"), ("password", "login"))
BY_MEANING = Library(
    tuple(make_lesson(f"Mail about a {word} goes to team {n}.") for n, (word, _) in enumerate(MEANINGS))
)
MODEL = "scripted/any:one"
ONE_LESSON = 36


def meaning(request: Request) -> Reply:
    """A vector with one axis for each meaning, and one that all texts share."""
    assert request.is_embedding and request.model == MODEL
    text = request.messages[0].content
    axes = [float(any(word in text for word in meaning)) for meaning in MEANINGS]
    return Reply(Message("assistant", pack_vector([*axes, 9.0])), model=MODEL)


def refused(request: Request) -> Reply:
    return Reply(Message("assistant", ""), "refused", error="no embeddings here")


def prompt(question):
    turns = (Message("user", "first"), Message("assistant", "yes?"), Message("user", question))
    return Message("system", "Be kind."), *turns


def ask(question, answer, how=None):
    how = how or Retrieval(ONE_LESSON, MODEL)
    return [x.text for x in play(select_lessons(BY_MEANING, prompt(question), how), answer).lessons]


@pytest.mark.parametrize(("number", "question"), [(0, "my money"), (1, "the shipment"), (2, "a login")])
def test_embeddings_select_a_lesson_without_shared_words(number, question):
    assert ask(question, meaning) == [BY_MEANING.lessons[number].text]


def test_without_embedder_the_last_user_message_is_searched():
    plan = select_lessons(BY_MEANING, prompt("login, password"), Retrieval(ONE_LESSON))
    assert play(plan, refused).lessons == BY_MEANING.lessons[2:]


def test_library_within_budget_needs_no_embeddings():
    how = Retrieval(BY_MEANING.tokens, MODEL)
    assert play(prefetch_embeddings(BY_MEANING, how), refused) is None
    assert play(select_lessons(BY_MEANING, prompt("money"), how), refused) is BY_MEANING


def test_lessons_are_embedded_once_and_new_ones_on_arrival():
    texts: list[str] = []

    def record(request: Request) -> Reply:
        texts.append(request.messages[0].content)
        return meaning(request)

    how = Retrieval(ONE_LESSON, MODEL)
    play(prefetch_embeddings(BY_MEANING, how), record)
    assert texts == [x.text for x in BY_MEANING.lessons]
    grown = BY_MEANING.with_lessons((*BY_MEANING.lessons, make_lesson("More money.")))
    selection = play(select_lessons(grown, prompt("login"), how), record)
    assert selection.lessons == BY_MEANING.lessons[2:]
    assert texts[3:] == ["More money.", "login"]


@pytest.mark.parametrize("question", ["password", "  "])
def test_question_without_vector_falls_back_to_full_text(question):
    def too_long(request: Request) -> Reply:
        return (refused if request.messages[0].content == question else meaning)(request)

    assert ask(question, too_long) == [x.text for x in BY_MEANING.lessons if question in x.text]


def test_lesson_without_vector_is_not_selected():
    def not_this(request: Request) -> Reply:
        return (refused if "refund" in request.messages[0].content else meaning)(request)

    assert ask("login", not_this) == [BY_MEANING.lessons[2].text]
    assert ask("money", not_this) == []


def test_lessons_without_any_vector_fall_back_to_full_text():
    how = Retrieval(ONE_LESSON, MODEL)
    how.vectors["a lesson of another library"] = np.ones(2, np.float32)
    assert ask("login, password", refused, how) == [BY_MEANING.lessons[2].text]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (refused, "no embeddings here"),
        (lambda request: Reply(Message("assistant", "I can't do that."), model=MODEL), "embedding model"),
        (lambda request: pack_vector([1.0] * len(request.messages[0].content)), "different lengths"),
    ],
)
def test_model_without_vectors_raises(answer, sentence):
    with pytest.raises(ModelError, match=sentence):
        ask("money", answer)


def test_embeddings_are_journalled_billed_and_paid_once(tmp_path):
    questions = ["zzz refund", "qqq parcel", "xx password"] * 2

    async def run(name, inner, ledger):
        with Journal(tmp_path / "j.sqlite", ballast=0) as journal:
            client = stack_middleware(inner, journal, ledger) if inner else stack_middleware(Router(), journal, ledger)
            plans = [select_by_embedding(BY_MEANING, question, Retrieval(ONE_LESSON, name)) for question in questions]
            selections = await asyncio.gather(*(drive(plan, client) for plan in plans))
            await client.aclose()
            return [library.lessons for library in selections]

    with Server() as server:
        name, ledger = f"{server.url}#vectors", Ledger(Limits(tokens=100_000))
        selections = asyncio.run(run(name, None, ledger))
        assert asyncio.run(run(name, None, Ledger(Limits(calls=1)))) == selections
    assert server.counts == dict.fromkeys((*questions, *(x.text for x in BY_MEANING.lessons)), 1)
    book = ledger.tabulate("role")["retrieval",]
    assert (book.calls, book.output) == (6, 0)
    assert book.input == sum(len(text.split()) for text in server.counts)
