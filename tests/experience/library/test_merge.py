"""Differences between libraries, and their three-way merge."""

from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.experience.library.diff import diff, summarize
from edgewise.experience.library.library import PLACES, Effect, Lesson, Library, make_lesson
from edgewise.experience.library.merge import add_lessons, merge, resolve_conflicts
from edgewise.experience.library.similarity import DuplicateIndex, is_near_duplicate

WORDS = ("refunds", "parcels", "invoices", "birch", "cedar", "amber", "late", "never", "large", "paid")
effects = st.none() | st.builds(
    lambda low, width, uses, unused: Effect(low + width / 2, low, low + width, uses, unused),
    *(st.floats(-1, 1), st.floats(0, 1), st.integers(0, 9), st.integers(0, 9)),
)
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join)
ids = st.sets(st.sampled_from("abcdefg"), max_size=2).map(lambda x: tuple(sorted(x)))
kinds = st.sampled_from(["content", "form"])
lessons = st.builds(
    Lesson,
    st.sampled_from("ABCDEFGH"),
    texts,
    kinds,
    st.integers(0, 3),
    ids,
    ids,
    st.booleans(),
    st.booleans(),
    effects,
)
libraries = st.builds(
    lambda result, place, labelled: Library(tuple(result), place, labelled),
    st.lists(lessons, max_size=6, unique_by=lambda x: x.id),
    st.sampled_from(PLACES),
    st.booleans(),
)


@st.composite
def edit_library(draw, base: Library) -> Library:
    """What somebody might make of a library: some lessons gone, some others in, some moved to the end."""
    new = draw(libraries)
    remaining = [x for x in base.lessons if draw(st.integers(0, 3))]
    lessons_by_id = {x.id: x for x in (*remaining, *(x for x in new.lessons if draw(st.booleans())))}
    place = base.place if draw(st.booleans()) else new.place
    return Library(tuple(lessons_by_id.values()), place, base.labelled)


@st.composite
def three_versions(draw) -> tuple[Library, Library, Library]:
    base = draw(libraries)
    return base, draw(edit_library(base)), draw(edit_library(base))


def without_order(library: Library):
    return {x.id: x for x in library.lessons}, library.place, library.labelled


A, B, C = (
    make_lesson("Refunds go to birch"),
    make_lesson("Late parcels go to cedar"),
    make_lesson("Answer in one word", "form"),
)
BASE = Library((A, B))


# ---- diff ------------------------------------------------------------------------------------------------


@given(libraries, libraries)
def test_diff_is_empty_exactly_for_equal_libraries(one, other):
    assert diff(one, one) == ()
    assert bool(diff(one, other)) == (one != other)
    assert all(line for change in diff(one, other) for line in change.lines())


def test_diff_is_rendered_line_by_line():
    after = Library((C, replace(A, text="Refunds go to amber", locked=True)), "system")
    changes = diff(BASE, after)
    assert [line for change in changes for line in change.lines()] == [
        "* library  place: before becomes system",
        f"- {B.id}  Late parcels go to cedar",
        f"+ {C.id}  Answer in one word",
        f"~ {A.id}  Refunds go to birch",
        "   becomes  Refunds go to amber",
        f"* {A.id}  locked: no becomes yes",
    ]
    assert summarize(changes) == "+1 -1 ~1 *2"


def test_order_of_lessons_is_a_change():
    assert [c.what for c in diff(BASE, Library((B, A)))] == ["order"]


# ---- laws of merge ---------------------------------------------------------------------------------------


@given(libraries, libraries)
def test_changes_of_one_side_alone_are_taken(x, y):
    for merged in (merge(x, x, y), merge(x, y, x), merge(x, y, y)):
        assert merged.library == y
        assert not merged.conflicts


@settings(max_examples=60, deadline=None)
@given(three_versions())
def test_merge_is_symmetric_up_to_order(libraries):
    base, ours, theirs = libraries
    one, other = merge(base, ours, theirs), merge(base, theirs, ours)
    assert {(c.subject, c.ours, c.theirs) for c in one.conflicts} == {
        (c.subject, c.theirs, c.ours) for c in other.conflicts
    }
    assert without_order(resolve_conflicts(one, "ours")) == without_order(resolve_conflicts(other, "theirs"))
    assert without_order(resolve_conflicts(one, "theirs")) == without_order(resolve_conflicts(other, "ours"))
    assert set(one.notes) == set(other.notes)


@settings(max_examples=60, deadline=None)
@given(three_versions(), st.booleans())
def test_merge_loses_no_lesson(libraries, related):
    base, ours, theirs = libraries
    merged = merge(base if related else None, ours, theirs)
    old, left = {x.id for x in base.lessons} if related else set(), {x.id for x in merged.library.lessons}
    joined = {pair.other.id: pair.lesson for pair in merged.joined}
    disputed = {conflict.subject for conflict in merged.conflicts}
    assert {lesson.id for lesson in joined.values()} <= left
    for side, other in ((ours, theirs), (theirs, ours)):
        deleted = old - {x.id for x in other.lessons}
        for x in side.lessons:
            assert x.id in left | deleted | joined.keys() | disputed
            if x.id in joined:
                assert is_near_duplicate(x.text, joined[x.id].text)
                assert set(x.sources) <= set(joined[x.id].sources)


@settings(max_examples=60, deadline=None)
@given(three_versions())
def test_merge_has_unique_ids_and_conflicts_of_two_sides(libraries):
    merged = merge(*libraries)
    for library in (merged.library, resolve_conflicts(merged, "ours"), resolve_conflicts(merged, "theirs")):
        assert len({x.id for x in library.lessons}) == len(library)
    assert resolve_conflicts(merged, "ours") == merged.library
    assert all(conflict.ours != conflict.theirs and len(conflict.lines()) == 3 for conflict in merged.conflicts)


# ---- cases of merge --------------------------------------------------------------------------------------


def reword(x: Lesson, text: str, **more) -> Lesson:
    return replace(x, text=text, **more)


def test_changes_of_different_fields_are_combined():
    ours = Library((replace(A, sources=("r1",)), B, C))
    theirs = Library((reword(A, "Refunds go to amber"),))
    merged = merge(BASE, ours, theirs)
    assert not merged.conflicts
    assert merged.library.lessons == (replace(A, text="Refunds go to amber", sources=("r1",)), C)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        (reword(A, "Refunds go to amber"), reword(A, "Refunds go to cedar"), "reworded differently"),
        (reword(A, "Refunds go to amber"), None, "changed on one side and deleted"),
        (replace(A, always=True), None, "changed on one side and deleted"),
        (replace(A, kind="form"), reword(A, "Refunds go to cedar"), "reworded differently"),
        (
            reword(A, "Refunds go to amber", locked=True),
            reword(A, "Refunds go to cedar", locked=True),
            "reworded differently",
        ),
    ],
)
def test_contradictions_are_conflicts(ours, theirs, reason):
    one, other = (Library(tuple(filter(None, (x, B)))) for x in (ours, theirs))
    merged = merge(BASE, one, other)
    (conflict,) = merged.conflicts
    assert conflict.subject == A.id and reason in conflict.reason
    assert without_order(resolve_conflicts(merged, "ours")) == without_order(one)
    assert without_order(resolve_conflicts(merged, "theirs")) == without_order(other)


@pytest.mark.parametrize("theirs", [reword(A, "Refunds go to amber"), None])
def test_newly_locked_side_wins_with_a_note(theirs):
    locked = Library((replace(A, locked=True), B))
    merged = merge(BASE, locked, Library(tuple(filter(None, (theirs, B)))))
    assert not merged.conflicts
    assert merged.library == locked
    assert "locked" in merged.notes[0] and A.id in merged.notes[0]


def test_deletion_wins_over_a_mere_measurement():
    measured = Library((replace(A, effect=Effect(0.1, 0.0, 0.2, 9, 9)), B))
    merged = merge(BASE, measured, Library((B,)))
    assert merged.library.lessons == (B,)
    assert not merged.conflicts and A.id in merged.notes[0]


@pytest.mark.parametrize(("name", "values"), [("place", ("system", "after")), ("labelled", (True, False))])
def test_settings_that_differ_are_a_conflict(name, values):
    base = replace(BASE, **{name: "before"}) if name == "place" else None
    ours, theirs = (replace(BASE, **{name: value}) for value in values)
    merged = merge(base, ours, theirs)
    assert [conflict.subject for conflict in merged.conflicts] == [name]
    assert resolve_conflicts(merged, "theirs") == theirs


def test_near_duplicates_keep_the_better_measured_wording():
    one = Lesson("one", "Large refunds that were paid go to the team birch", sources=("r1",), rollouts=("x",))
    two = Lesson(
        "two", "Large refunds which were paid go to team birch", sources=("r2",), effect=Effect(0.1, 0, 0.2, 9, 9)
    )
    merged = merge(BASE, BASE.with_lessons((A, B, one)), BASE.with_lessons((two, A, B)))
    (joined,) = merged.joined
    assert joined.to_json() == {"kept": asdict(joined.lesson), "other": asdict(one)}
    assert joined.lesson == replace(two, sources=("r1", "r2"), rollouts=("x",)) and joined.other == one
    assert set(merged.library.lessons) == {A, B, joined.lesson}
    locked = merge(BASE, BASE.with_lessons((A, B, replace(one, locked=True))), BASE.with_lessons((A, B, two)))
    assert locked.joined[0].lesson.text == one.text


def test_locked_lessons_are_joined_only_where_equal():
    one, two = (Lesson(id, "Large refunds go to birch", locked=True) for id in ("one", "two"))
    assert merge(None, Library((one,)), Library((two,))).joined
    more = replace(two, text="Large refunds go to the birch")
    assert is_near_duplicate(one.text, more.text)
    assert not merge(None, Library((one,)), Library((more,))).joined


def test_order_comes_from_the_side_that_changed_it():
    more = make_lesson("Invoices go to amber")
    merged = merge(Library((A, B, C)), Library((A, B, C, more)), Library((C, B, A)))
    assert merged.library.lessons == (C, B, A, more)


# ---- enter -----------------------------------------------------------------------------------------------


@given(libraries, libraries)
def test_adding_lessons_removes_none(here, other):
    result = add_lessons(here, other.lessons)
    after = {x.id: x for x in result.library.lessons}
    assert [x.id for x in result.library.lessons][: len(here)] == [x.id for x in here.lessons]
    assert len(other) == len(result.added) + len(result.joined) + len(result.duplicates)
    assert {x.text for x in here.lessons if x.locked} <= {x.text for x in after.values()}


@given(libraries, st.lists(texts, max_size=6))
def test_adding_lessons_twice_changes_nothing(here, new):
    once = add_lessons(here, map(make_lesson, new)).library
    assert add_lessons(once, map(make_lesson, new)).library == once


def test_same_id_with_another_wording_replaces_nothing():
    result = add_lessons(BASE, [reword(A, "Invoices go to amber")])
    assert result.library.lessons[:2] == BASE.lessons
    assert result.added == (make_lesson("Invoices go to amber"),)
    since = Library((reword(A, "Refunds are for birch alone"),))
    assert add_lessons(since, [A]).library == since


# ---- twins -----------------------------------------------------------------------------------------------


@given(st.lists(texts, max_size=12), texts)
def test_index_finds_exactly_the_near_duplicates(known, text):
    duplicates = DuplicateIndex(Lesson(str(n), other) for n, other in enumerate(known)).find(text)
    assert [x.text for x in duplicates] == [other for other in known if is_near_duplicate(other, text)]
