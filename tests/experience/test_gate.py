import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experience.gate import better, choose, rungs
from experience.library import Library, lesson
from tests.plans import play
from toolkit.types import Example

ROWS = [Example(f"r{n}", ()) for n in range(32)]


def library(name: str) -> Library:
    return Library((lesson(name),))


def scoring(quality, log=None):
    """A measure in which a library named x is right on the first quality[x] share of the rows."""

    def measure(candidate, rows):
        name = candidate.lessons[0].text if candidate.lessons else ""
        if log is not None:
            log.extend((name, row.id) for row in rows)
        return np.array([float(int(row.id[1:]) % 8 < 8 * quality[name]) for row in rows])
        yield

    return measure


def test_the_best_challenger_wins_if_it_beats_the_current_one():
    quality = {"": 0.25, "bad": 0.0, "good": 0.5, "best": 0.75}
    names = {name: library(name) for name in ("bad", "good", "best")}
    choice = play(choose(Library(), names, ROWS, scoring(quality)), str)
    assert choice.winner == "best"
    assert choice.library == library("best")
    assert choice.verdict.difference == pytest.approx(0.5)
    assert choice.verdict.rows == len(ROWS)


def test_none_that_fails_to_beat_the_current_one_is_kept():
    quality = {"": 0.5, "same": 0.5, "worse": 0.25}
    choice = play(choose(Library(), {n: library(n) for n in ("same", "worse")}, ROWS, scoring(quality)), str)
    assert choice.winner == ""
    assert choice.library == Library()
    assert not choice.verdict.accepted


def test_bad_candidates_are_measured_on_few_rows():
    log = []
    quality = {"": 0.5, **{f"c{n}": n / 8 for n in range(8)}}
    play(choose(Library(), {n: library(n) for n in quality if n}, ROWS, scoring(quality, log)), str)
    counts = {name: sum(n == name for n, _ in log) for name in quality}
    assert counts["c0"] == min(rungs(32, 8)) < 32
    assert counts[""] == counts["c7"] == 32
    assert len(log) == len(set(log)), "a row was measured twice for one library"


def test_libraries_that_look_the_same_are_measured_once_and_no_challenger_costs_nothing():
    log = []
    twins = {"a": library("x"), "b": library("x"), "c": Library()}
    play(choose(Library(), twins, ROWS, scoring({"": 0.0, "x": 1.0}, log)), str)
    assert len(log) == 2 * len(ROWS)
    choice = play(choose(Library(), {"c": Library()}, ROWS, scoring({})), str)
    assert choice.winner == ""


def test_without_rows_nothing_changes():
    assert play(choose(Library(), {"a": library("x")}, [], scoring({})), str).library == Library()


@given(st.integers(1, 500), st.integers(1, 40))
def test_rungs_rise_to_all_rows(rows, challengers):
    sizes = rungs(rows, challengers)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == rows
    assert all(size >= 1 for size in sizes)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_a_library_is_never_better_than_itself(scores):
    assert not better(np.array(scores), np.array(scores)).accepted
