"""Differences between libraries, and their three-way merge."""

from dataclasses import replace

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
    lambda found, place, labelled: Library(tuple(found), place, labelled),
    st.lists(lessons, max_size=6, unique_by=lambda x: x.id),
    st.sampled_from(PLACES),
    st.booleans(),
)


@st.composite
def changed(draw, base: Library) -> Library:
    """What somebody might make of a library: some lessons gone, some others in, some moved to the end."""
    new = draw(libraries)
    kept = [x for x in base.lessons if draw(st.integers(0, 3))]
    mixed = {x.id: x for x in (*kept, *(x for x in new.lessons if draw(st.booleans())))}
    place = base.place if draw(st.booleans()) else new.place
    return Library(tuple(mixed.values()), place, base.labelled)


@st.composite
def three(draw) -> tuple[Library, Library, Library]:
    base = draw(libraries)
    return base, draw(changed(base)), draw(changed(base))


def as_set(library: Library):
    return {x.id: x for x in library.lessons}, library.place, library.labelled


A, B, C = (
    make_lesson("Refunds go to birch"),
    make_lesson("Late parcels go to cedar"),
    make_lesson("Answer in one word", "form"),
)
BASE = Library((A, B))


# ---- diff ------------------------------------------------------------------------------------------------


@given(libraries, libraries)
def test_nothing_differs_exactly_where_libraries_are_equal(one, other):
    assert diff(one, one) == ()
    assert bool(diff(one, other)) == (one != other)
    assert all(line for change in diff(one, other) for line in change.lines())


def test_a_difference_is_told_line_by_line():
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


def test_an_order_is_a_difference():
    assert [c.what for c in diff(BASE, Library((B, A)))] == ["order"]


# ---- laws of merge ---------------------------------------------------------------------------------------


@given(libraries, libraries)
def test_what_one_side_changed_is_taken_as_it_is(x, y):
    for merged in (merge(x, x, y), merge(x, y, x), merge(x, y, y)):
        assert merged.library == y
        assert not merged.conflicts


@settings(max_examples=60, deadline=None)
@given(three())
def test_merging_is_symmetric_up_to_order(libraries):
    base, ours, theirs = libraries
    one, other = merge(base, ours, theirs), merge(base, theirs, ours)
    assert {(c.subject, c.ours, c.theirs) for c in one.conflicts} == {
        (c.subject, c.theirs, c.ours) for c in other.conflicts
    }
    assert as_set(resolve_conflicts(one, "ours")) == as_set(resolve_conflicts(other, "theirs"))
    assert as_set(resolve_conflicts(one, "theirs")) == as_set(resolve_conflicts(other, "ours"))
    assert set(one.notes) == set(other.notes)


@settings(max_examples=60, deadline=None)
@given(three(), st.booleans())
def test_nothing_is_lost(libraries, related):
    base, ours, theirs = libraries
    merged = merge(base if related else None, ours, theirs)
    old, left = {x.id for x in base.lessons} if related else set(), {x.id for x in merged.library.lessons}
    joined = {each.other.id: each.lesson for each in merged.joined}
    disputed = {clash.subject for clash in merged.conflicts}
    assert {kept.id for kept in joined.values()} <= left
    for side, other in ((ours, theirs), (theirs, ours)):
        deleted = old - {x.id for x in other.lessons}
        for x in side.lessons:
            assert x.id in left | deleted | joined.keys() | disputed
            if x.id in joined:
                assert is_near_duplicate(x.text, joined[x.id].text)
                assert set(x.sources) <= set(joined[x.id].sources)


@settings(max_examples=60, deadline=None)
@given(three())
def test_a_merge_has_each_id_once_and_each_clash_has_two_sides(libraries):
    merged = merge(*libraries)
    for library in (merged.library, resolve_conflicts(merged, "ours"), resolve_conflicts(merged, "theirs")):
        assert len({x.id for x in library.lessons}) == len(library)
    assert resolve_conflicts(merged, "ours") == merged.library
    assert all(clash.ours != clash.theirs and len(clash.lines()) == 3 for clash in merged.conflicts)


# ---- cases of merge --------------------------------------------------------------------------------------


def reworded(x: Lesson, text: str, **more) -> Lesson:
    return replace(x, text=text, **more)


def test_changes_of_both_sides_come_together():
    ours = Library((replace(A, sources=("r1",)), B, C))
    theirs = Library((reworded(A, "Refunds go to amber"),))
    merged = merge(BASE, ours, theirs)
    assert not merged.conflicts
    assert merged.library.lessons == (replace(A, text="Refunds go to amber", sources=("r1",)), C)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        (reworded(A, "Refunds go to amber"), reworded(A, "Refunds go to cedar"), "reworded differently"),
        (reworded(A, "Refunds go to amber"), None, "changed on one side and deleted"),
        (replace(A, always=True), None, "changed on one side and deleted"),
        (replace(A, kind="form"), reworded(A, "Refunds go to cedar"), "reworded differently"),
        (
            reworded(A, "Refunds go to amber", locked=True),
            reworded(A, "Refunds go to cedar", locked=True),
            "reworded differently",
        ),
    ],
)
def test_contradictions_are_left_to_people(ours, theirs, reason):
    one, other = (Library(tuple(filter(None, (x, B)))) for x in (ours, theirs))
    merged = merge(BASE, one, other)
    (clash,) = merged.conflicts
    assert clash.subject == A.id and reason in clash.reason
    assert as_set(resolve_conflicts(merged, "ours")) == as_set(one)
    assert as_set(resolve_conflicts(merged, "theirs")) == as_set(other)


@pytest.mark.parametrize("theirs", [reworded(A, "Refunds go to amber"), None])
def test_a_lock_wins_over_the_other_side_and_says_so(theirs):
    locked = Library((replace(A, locked=True), B))
    merged = merge(BASE, locked, Library(tuple(filter(None, (theirs, B)))))
    assert not merged.conflicts
    assert merged.library == locked
    assert "locked" in merged.notes[0] and A.id in merged.notes[0]


def test_what_was_only_measured_may_be_deleted():
    measured = Library((replace(A, effect=Effect(0.1, 0.0, 0.2, 9, 9)), B))
    merged = merge(BASE, measured, Library((B,)))
    assert merged.library.lessons == (B,)
    assert not merged.conflicts and A.id in merged.notes[0]


@pytest.mark.parametrize(("name", "values"), [("place", ("system", "after")), ("labelled", (True, False))])
def test_settings_that_differ_are_a_clash(name, values):
    base = replace(BASE, **{name: "before"}) if name == "place" else None
    ours, theirs = (replace(BASE, **{name: value}) for value in values)
    merged = merge(base, ours, theirs)
    assert [clash.subject for clash in merged.conflicts] == [name]
    assert resolve_conflicts(merged, "theirs") == theirs


def test_lessons_that_say_the_same_are_joined_and_the_better_measured_wording_wins():
    one = Lesson("one", "Large refunds that were paid go to the team birch", sources=("r1",), rollouts=("x",))
    two = Lesson(
        "two",
        "Large refunds which were paid go to team birch",
        sources=("r2",),
        effect=Effect(0.1, 0, 0.2, 9, 9),
    )
    merged = merge(BASE, BASE.with_lessons((A, B, one)), BASE.with_lessons((two, A, B)))
    (joined,) = merged.joined
    assert joined.lesson == replace(two, sources=("r1", "r2"), rollouts=("x",)) and joined.other == one
    assert set(merged.library.lessons) == {A, B, joined.lesson}
    locked = merge(BASE, BASE.with_lessons((A, B, replace(one, locked=True))), BASE.with_lessons((A, B, two)))
    assert locked.joined[0].lesson.text == one.text


def test_two_locked_lessons_are_joined_only_where_they_are_equal():
    one, two = (Lesson(id, "Large refunds go to birch", locked=True) for id in ("one", "two"))
    assert merge(None, Library((one,)), Library((two,))).joined
    more = replace(two, text="Large refunds go to the birch")
    assert is_near_duplicate(one.text, more.text)
    assert not merge(None, Library((one,)), Library((more,))).joined


def test_the_order_is_that_of_the_side_which_changed_it():
    more = make_lesson("Invoices go to amber")
    merged = merge(Library((A, B, C)), Library((A, B, C, more)), Library((C, B, A)))
    assert merged.library.lessons == (C, B, A, more)


# ---- enter -----------------------------------------------------------------------------------------------


@given(libraries, libraries)
def test_what_enters_takes_nothing_away(here, other):
    found = add_lessons(here, other.lessons)
    after = {x.id: x for x in found.library.lessons}
    assert [x.id for x in found.library.lessons][: len(here)] == [x.id for x in here.lessons]
    assert len(other) == len(found.added) + len(found.joined) + len(found.duplicates)
    assert {x.text for x in here.lessons if x.locked} <= {x.text for x in after.values()}


@given(libraries, st.lists(texts, max_size=6))
def test_what_has_entered_enters_once(here, new):
    once = add_lessons(here, map(make_lesson, new)).library
    assert add_lessons(once, map(make_lesson, new)).library == once


def test_an_id_that_means_something_else_elsewhere_replaces_nothing():
    found = add_lessons(BASE, [reworded(A, "Invoices go to amber")])
    assert found.library.lessons[:2] == BASE.lessons
    assert found.added == (make_lesson("Invoices go to amber"),)
    since = Library((reworded(A, "Refunds are for birch alone"),))
    assert add_lessons(since, [A]).library == since


# ---- twins -----------------------------------------------------------------------------------------------


@given(st.lists(texts, max_size=12), texts)
def test_twins_are_what_near_says(known, text):
    found = DuplicateIndex(Lesson(str(n), each) for n, each in enumerate(known)).find(text)
    assert [x.text for x in found] == [each for each in known if is_near_duplicate(each, text)]
