import json
import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.experience.library.library import PLACES, Lesson, Library, make_lesson
from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.types import Message

TWO = Library((make_lesson("Refunds go to birch"), make_lesson("Answer in one word", "form")), labelled=True)
CHAT = (Message("system", "You route."), Message("user", "My parcel is late"))

texts = st.text(string.ascii_letters + " é[]{}", min_size=1).filter(str.strip)
libraries = st.builds(
    lambda rows, place, labelled: Library(tuple(make_lesson(t, k) for t, k in rows), place, labelled),
    st.lists(st.tuples(texts, st.sampled_from(["content", "form"])), max_size=6, unique_by=lambda x: x[0]),
    st.sampled_from(PLACES),
    st.booleans(),
)


def test_labels_exist_only_in_rendered_text():
    assert "[G0]. Refunds go to birch" in TWO.render()
    assert "[G1]. Answer in one word" in TWO.render()
    assert not any(x.id.startswith("G") for x in TWO.lessons)


def test_empty_library_leaves_the_prompt_unchanged():
    for place in PLACES:
        assert Library(place=place).insert_lessons(CHAT) == CHAT


@pytest.mark.parametrize(
    ("place", "system_ends", "user_starts", "user_ends"),
    [
        ("system", "one word", "My parcel", "is late"),
        ("before", "You route.", "Lessons", "is late"),
        ("after", "You route.", "My parcel", "one word"),
        ("split", "You route.", "Lessons", "one word"),
    ],
)
def test_lessons_are_inserted_at_their_place(place, system_ends, user_starts, user_ends):
    system, user = Library(TWO.lessons, place).insert_lessons(CHAT)
    assert system.content.endswith(system_ends)
    assert user.content.startswith(user_starts)
    assert user.content.endswith(user_ends)


def test_split_puts_content_before_and_form_after():
    user = Library(TWO.lessons, "split").insert_lessons(CHAT)[-1].content
    assert user.index("birch") < user.index("My parcel") < user.index("one word")


def test_missing_system_message_is_created():
    assert Library(TWO.lessons, "system").insert_lessons(CHAT[1:])[0].role == "system"


@given(libraries)
def test_json_round_trip(library):
    again = Library.from_json(json.loads(json.dumps(library.to_json())))
    assert again == library
    assert again.version == library.version


@given(libraries)
def test_every_lesson_is_rendered_once_at_any_place(library):
    prompt = "\n".join(message.content for message in library.insert_lessons(CHAT))
    for label, item in library.labels().items():
        mark = f"[{label}]." if library.labelled else "-"
        assert prompt.splitlines().count(f"{mark} {item.text}") == 1


def test_version_depends_on_what_a_model_sees():
    renamed = Library(tuple(Lesson("other", x.text, x.kind, 9, ("r1",)) for x in TWO.lessons))
    assert replace(renamed, labelled=True).version == TWO.version
    assert renamed.version != TWO.version
    assert TWO.with_lessons(TWO.lessons[1:]).version != TWO.version
    assert Library(place="after").version == Library(place="before").version


def test_flat_format_of_the_authors_is_read():
    assert Library.from_json({"G0": "a", "G1": "b"}).to_flat_json() == {"G0": "a", "G1": "b"}


@pytest.mark.parametrize("data", [[], {"lessons": [{}]}, {"lessons": 3, "place": "before"}, {"x": "y"}, "no"])
def test_other_data_raise(data):
    with pytest.raises(ArtifactError):
        Library.from_json(data)
