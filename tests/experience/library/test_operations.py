import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.experience.library.library import Effect, Library, make_lesson
from edgewise.experience.library.operations import Operation, OperationError, apply, parse, shorten
from edgewise.experience.library.similarity import is_near_duplicate

START = Library((make_lesson("Refunds go to birch"), make_lesson("Late parcels go to cedar")))


def op(action, id=None, text="", **more):
    return Operation(action=action, id=id, text=text, **more)


def test_four_actions_change_the_library():
    ops = [op("modify", "G0", "Refunds go to amber"), op("keep", "G1"), op("add", text="Answer in one word")]
    after, outcomes = apply(START, ops, born=3)
    assert [x.text for x in after.lessons] == ["Refunds go to amber", "Late parcels go to cedar", "Answer in one word"]
    assert after.lessons[0].id == START.lessons[0].id
    assert after.lessons[2].born == 3
    assert all(outcome.applied for outcome in outcomes)


def test_rewording_drops_the_effect():
    measured = replace(START.lessons[0], effect=Effect(0.2, 0.1, 0.3, 40, 10))
    start = START.with_lessons((measured, *START.lessons[1:]))
    same, _ = apply(start, [op("modify", "G0", measured.text, sources=("r9",))], born=1)
    assert same.lessons[0] == replace(measured, sources=("r9",))
    other, _ = apply(start, [op("modify", "G0", "Refunds go to amber")], born=1)
    assert other.lessons[0].effect is None


# Section 1.7 of the method's known defects: deletions without text were lost.
@pytest.mark.parametrize("text", ["", None])
def test_delete_needs_no_text(text):
    reply = json.dumps([{"option": "DELETE", "id": "G0", "content": text}])
    after, outcomes = apply(START, parse(reply), born=1)
    assert [x.text for x in after.lessons] == ["Late parcels go to cedar"]
    assert outcomes[0].applied


@pytest.mark.parametrize("action", ["modify", "delete", "keep"])
def test_unknown_id_is_reported_and_never_becomes_an_add(action):
    after, (outcome,) = apply(START, [op(action, "G77", "something new")], born=1)
    assert after == START
    assert not outcome.applied
    assert "G77" in outcome.reason


def test_deletion_wins_at_any_position():
    for ops in ([op("modify", "G0", "x y"), op("delete", "G0")], [op("delete", "G0"), op("modify", "G0", "x y")]):
        after, outcomes = apply(START, ops, born=1)
        assert len(after) == 1
        assert [o.applied for o in outcomes] == [o.action == "delete" for o in ops]


def test_stable_ids_are_resolved_beside_labels():
    after, _ = apply(START, [op("delete", START.lessons[1].id)], born=1)
    assert [x.text for x in after.lessons] == ["Refunds go to birch"]


def test_near_duplicates_are_joined_with_their_sources():
    twin = op("add", text="Refund go to the birch.", sources=("r9",))
    after, (outcome,) = apply(START, [twin], born=1)
    assert len(after) == 2
    assert not outcome.applied
    assert "joined" in outcome.reason
    assert after.lessons[0].sources == ("r9",)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Messages about refunds go to birch", "messages about a refund go to birch.", True),
        ("Route messages about refunds to birch", "Messages about refunds should be routed to birch", True),
        ("Refunds and double charges go to birch", "Refunds and double charges go to amber", False),
        ("If a customer asks for money say yes at once", "If a customer asks for money never say yes at once", False),
        ("", "", False),
    ],
)
def test_near_duplicates_share_their_content_words(a, b, same):
    assert is_near_duplicate(a, b) is same
    assert is_near_duplicate(b, a) is same


def test_long_lessons_are_cut_with_a_note():
    long = "First rule stands here and it is long enough. " + "word " * 40
    after, (outcome,) = apply(Library(), [op("add", text=long)], born=1, words=12)
    assert len(after.lessons[0].text.split()) <= 12
    assert "cut" in outcome.reason


@given(st.text(), st.integers(1, 40))
def test_shorten_never_exceeds_the_limit(text, words):
    assert len(shorten(text, words)[0].split()) <= words


@pytest.mark.parametrize(
    "reply",
    [
        '[{"operation": "ADD", "id": null, "content": "x"}]',
        'Sure!\n```json\n[{"option": "add", "experience": "x"}]\n```',
        '{"action": "add", "text": "x"}',
        '{"operations": [{"action": "add", "text": "x"}]}',
        'I think [so]: {"op": "Add", "lesson": "x"}',
    ],
)
def test_replies_of_many_shapes_are_parsed(reply):
    (operation,) = parse(reply)
    assert (operation.action, operation.text, operation.id) == ("add", "x", None)


@pytest.mark.parametrize("reply", ["", "no json", "[1, 2]", '[{"action": "explode", "text": "x"}]', "{", "[[]]"])
def test_unreadable_reply_raises_with_a_reason(reply):
    with pytest.raises(OperationError, match=r".+"):
        parse(reply)


def test_empty_list_is_valid():
    assert parse('{"operations": []}') == ()


ids = st.sampled_from([None, "G0", "G1", "G5", "[G1]", START.lessons[0].id])
operations = st.builds(op, st.sampled_from(["add", "modify", "delete", "keep"]), ids, st.text(max_size=60))


@given(st.lists(operations, max_size=8))
def test_every_operation_is_applied_or_has_a_reason(ops):
    after, outcomes = apply(START, ops, born=1, words=8)
    assert [o.operation for o in outcomes] == ops
    assert all(o.applied or o.reason for o in outcomes)
    assert len({x.id for x in after.lessons}) == len(after.lessons)
    assert all(x.text and len(x.text.split()) <= 8 for x in after.lessons)
