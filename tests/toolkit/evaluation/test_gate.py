import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.experience.library.library import Library, make_lesson
from edgewise.toolkit.evaluation.gate import AlphaSpending, Choice, Verdict, choose, compare_scores, rungs, spend_alpha
from edgewise.toolkit.types import Example
from tests.support.plans import play

ROWS = [Example(f"r{n}", ()) for n in range(64)]


def library(name: str) -> Library:
    return Library((make_lesson(name),))


def make_measure(quality, log=None):
    """Make a measure in which a library named x is right on the first quality[x] share of the rows."""

    def measure(candidate, rows):
        name = candidate.lessons[0].text if candidate.lessons else ""
        if log is not None:
            log.extend((name, row.id) for row in rows)
        return np.array([float(int(row.id[1:]) % 8 < 8 * quality[name]) for row in rows])
        yield

    return measure


def run_gate(quality, names, rows=ROWS, level=0.05, anchors=(), log=None):
    challengers = {name: library(name) for name in names}
    return play(choose(Library(), challengers, rows, make_measure(quality, log), level, anchors), str)


def test_the_best_proven_challenger_wins():
    choice = run_gate({"": 0.25, "bad": 0.0, "good": 0.5, "best": 0.75}, ["bad", "good", "best"])
    assert choice.winner == "best"
    assert choice.chosen == library("best")
    assert choice.verdict.difference == pytest.approx(0.5)
    assert choice.verdict.p <= choice.verdict.level


def test_a_gain_by_chance_is_not_accepted():
    quality = {"": 0.5, "lucky": 0.625}
    assert run_gate(quality, ["lucky"], ROWS[:16]).winner == "", "2 of 16 rows better and none worse: p = 1/4"
    assert run_gate(quality, ["lucky"]).winner == "lucky", "8 of 64 rows better and none worse: p = 1/256"


def test_no_gain_keeps_the_current_version():
    choice = run_gate({"": 0.5, "same": 0.5, "worse": 0.25}, ["same", "worse"])
    assert choice.winner == ""
    assert choice.chosen == Library()


def test_the_level_is_divided_among_challengers():
    quality = {"": 0.5, **{f"c{n}": 0.625 for n in range(16)}}
    assert run_gate(quality, ["c0"], level=0.01).winner == "c0"
    assert run_gate(quality, [f"c{n}" for n in range(16)], level=0.01).winner == ""


def test_level_zero_accepts_nothing():
    assert run_gate({"": 0.0, "perfect": 1.0}, ["perfect"], level=0.0).winner == ""


def test_bad_candidates_use_few_rows():
    log = []
    quality = {"": 0.5, **{f"c{n}": n / 8 for n in range(8)}}
    run_gate(quality, [name for name in quality if name], log=log)
    counts = {name: sum(n == name for n, _ in log) for name in quality}
    assert counts["c0"] == min(rungs(64, 8)) < 64
    assert counts["c7"] == max(counts.values())
    assert len(log) == len(set(log)), "a row was measured twice for one library"


def test_a_clear_gain_and_a_clear_failure_end_early():
    for quality, winner in ((1.0, "x"), (0.0, "")):
        log = []
        assert run_gate({"": 0.25, "x": quality}, ["x"], log=log).winner == winner
        assert len(log) == 2 * 32


def test_an_early_proof_needs_a_final_lead():
    won, lost = [1.0] * 40, [0.0] * 40
    rewards = {"": [0.5] * 80, "early": won + lost, "other": [0.4] * 80}

    def measure(candidate, rows):
        name = candidate.lessons[0].text if candidate.lessons else ""
        return np.array([rewards[name][int(row.id)] for row in rows])
        yield

    rows = [Example(str(n), ()) for n in range(80)]
    challengers = {name: library(name) for name in ("early", "other")}
    choice = play(choose(Library(), challengers, rows, measure, 0.05), str)
    assert (choice.winner, choice.verdict.difference) == ("", 0.0)


def test_anchors_may_not_get_worse():
    quality = {"": 0.25, "good": 0.75}

    def measure(candidate, rows):
        scores = yield from make_measure(quality)(candidate, rows)
        return np.array([0.0 if candidate.lessons and r.id == "r1" else s for r, s in zip(rows, scores, strict=True)])

    for anchors, winner in (([ROWS[0]], "good"), (ROWS[:2], "")):
        choice = play(choose(Library(), {"good": library("good")}, ROWS, measure, 0.05, anchors), str)
        assert choice.winner == winner
        assert choice.verdict.worse == (() if winner else ("r1",))
    assert "r1" in choice.summary()


def test_equal_versions_are_measured_once():
    log = []
    duplicates = {"a": library("x"), "b": library("x"), "c": Library()}
    play(choose(Library(), duplicates, ROWS, make_measure({"": 0.0, "x": 1.0}, log), 0.05), str)
    assert {name for name, _ in log} == {"", "x"}
    assert len(log) == len(set(log))
    choice = play(choose(Library(), {"c": Library()}, ROWS, make_measure({}), 0.05), str)
    assert choice.winner == ""


def test_without_rows_the_current_version_stays():
    choice = play(choose(Library(), {"a": library("x")}, [], make_measure({}), 0.05), str)
    assert choice.chosen == Library()


@given(st.integers(1, 500), st.integers(1, 40))
def test_rungs_rise_to_all_rows(rows, challengers):
    sizes = rungs(rows, challengers)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == rows
    assert all(size >= 1 for size in sizes)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_equal_scores_are_never_accepted(scores):
    assert not compare_scores(np.array(scores), np.array(scores), 0.05).accepted


OUTCOMES = {"yes": ("x", 9), "no": ("", 9), "nothing to test": ("", 0)}


@given(st.lists(st.sampled_from(sorted(OUTCOMES)), max_size=20), st.integers(1, 10))
def test_spending_stays_within_alpha(outcomes, tests):
    spending, spent = AlphaSpending(0.05, tests), 0.0
    for outcome in outcomes:
        winner, rows = OUTCOMES[outcome]
        choice = Choice(Library(), winner, Verdict(bool(winner), 0.1, rows))
        # What an acceptance spent is handed on: it is spent twice only if the acceptance was right.
        spent += 0 if winner or not rows else spending.level
        carried = spending.level if winner or not rows else 0.0
        spending = spending.after(choice)
        assert spending.carried == pytest.approx(carried)
    assert spent <= 0.05 + 1e-12


def test_looks_spend_the_level_once():
    assert spend_alpha(0) == 0
    assert spend_alpha(1) == 1
    assert spend_alpha(0.25) < 0.02, "the last look keeps nearly all"


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 10_000))
def test_false_acceptances_stay_below_alpha(seed):
    rng = np.random.default_rng(seed)
    chances = {row.id: rng.beta(0.6, 0.4) for row in ROWS}
    draws = {}

    def measure(candidate, rows):
        for row in rows:
            key = (candidate.version, row.id)
            draws.setdefault(key, float(rng.random() < chances[row.id]))
        return np.array([draws[candidate.version, row.id] for row in rows])
        yield

    accepted = 0
    for trial in range(60):
        draws.clear()
        names = {f"{trial} {n}": library(f"{trial} {n}") for n in range(4)}
        accepted += bool(play(choose(Library(), names, ROWS, measure, 0.05), str).winner)
    # 60 trials at 5 % or less: more than 9 happens once in a thousand times.
    assert accepted <= 9
