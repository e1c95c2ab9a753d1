"""Rewards and advantages at two levels: numbers worked out by hand, and laws that hold for any numbers."""

import math
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.mas.two_level.advantages import (
    Grading,
    alignment_depth,
    build_levels,
    copy_weights,
    equal_weights,
    format_reward,
    grade_rollout,
    has_answer,
    inverse_weights,
    main_score,
    standardise,
    sub_score,
)
from edgewise.mas.two_level.delegation import DelegationSpec, sub_rollouts
from edgewise.toolkit.reward.reward import resolve_reward
from edgewise.toolkit.rollout.tool_calls import UNREADABLE
from edgewise.toolkit.types import Message, Reply, ToolCall
from tests.support.mas.by_hand import EXAMPLE, levels, said, scored
from tests.support.plans import play

# ---- rewards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "value"),
    [
        (main_score(1, 1), 1.0),
        (main_score(0, 1), 0.1),
        (main_score(1, 0), 0.9),
        (main_score(0.5, 1), 0.55),
        (main_score(1, 1, valid=False), 0.0),
        (sub_score(1, 1, 1), 1.0),
        (sub_score(0, 1, 1), 0.6),
        (sub_score(1, 0, 1), 0.5),
        (sub_score(0, 0, 1), 0.1),
        (sub_score(1, 0.5, 0), 0.65),
        (sub_score(1, 1, 1, valid=False), 0.0),
    ],
)
def test_rewards_have_the_weights_of_the_paper_behind_the_gate(score, value):
    assert score.value == pytest.approx(value, abs=1e-15)
    assert score.valid


@pytest.mark.parametrize(
    ("run", "valid", "form"),
    [
        (said(), True, 1.0),
        (said(stop="length"), True, 0.0),
        (said(stop="turns"), False, 0.0),
        (said(" "), False, 1.0),
        (said(stop="failed"), False, 0.0),
        (said(calls=(ToolCall("c", UNREADABLE, "{"),)), True, 0.0),
    ],
)
def test_validity_needs_an_answer_and_format_a_clean_end(run, valid, form):
    assert (has_answer(run), format_reward(run)) == (valid, form)


def expert(answer: str, question: str) -> dict:
    """Half for anything, all for a part that is named."""
    return {"score": 1.0 if answer == question else 0.5, "feedback": "an expert's word"}


def grading(**changes) -> Grading:
    return replace(Grading(resolve_reward("exact"), resolve_reward(expert), "judge", DelegationSpec()), **changes)


def grade(run, **changes):
    return play(grade_rollout(grading(**changes), EXAMPLE, run), lambda request: pytest.fail("nobody is asked"))


def test_a_run_is_graded_at_both_levels():
    done = grade(said("wrong", below=[said("part 0"), said("x"), said("", "turns"), said(stop="timeout")]))
    assert done.score.value == pytest.approx(0.1)
    values = [each.score.value for each in sub_rollouts(done)]
    assert values == pytest.approx([0.6, 0.35, 0.0, 0.0])
    assert [each.score.valid for each in sub_rollouts(done)] == [True, True, True, False]
    assert sub_rollouts(done)[0].score.parts == {"format": 1.0, "main_correct": 0.0, "expert": 1.0, "valid": 1.0}
    assert "an expert's word" in sub_rollouts(done)[0].score.feedback
    assert sub_rollouts(grade(said(below=[said("x")])))[0].score.value == pytest.approx(0.75)


def test_main_rollout_without_answer_has_reward_0():
    done = grade(said("", "turns", below=[said("part 0")]))
    assert (done.score.value, done.score.valid) == (0.0, True)
    assert "no answer (turns)" in done.score.feedback
    assert sub_rollouts(done)[0].score.value == pytest.approx(0.6)


@pytest.mark.parametrize("broken", [{"stop": "failed"}, {"stop": "timeout"}])
def test_a_main_run_that_broke_has_no_reward_at_either_level(broken):
    done = grade(said(**broken, below=[said("part 0")]))
    assert not done.score.valid
    assert sub_rollouts(done)[0].score is None


def test_a_judge_is_the_expert_and_sees_the_part_alone():
    asked = []

    def judge(request):
        asked.append(request.messages[-1].content)
        return '{"reason": "fine", "score": 0.8}'

    plan = grade_rollout(
        grading(expert=resolve_reward({"kind": "judge", "reference": False})), EXAMPLE, said(below=[said("five")])
    )
    done = play(plan, judge)
    assert sub_rollouts(done)[0].score.value == pytest.approx(0.1 + 0.4 + 0.4)
    assert asked == ["<question>\npart 0\n</question>\n\n<answer>\nfive\n</answer>"]


def test_without_an_expert_sub_runs_are_not_graded():
    assert sub_rollouts(grade(said(below=[said("x")]), expert=None))[0].score is None


def test_a_judge_that_breaks_leaves_its_sub_run_without_a_reward():
    plan = grade_rollout(grading(expert=resolve_reward("judge")), EXAMPLE, said(below=[said("x")]))
    done = play(plan, lambda request: Reply(Message("assistant", ""), "failed", error="down"))
    assert done.score.valid
    assert not sub_rollouts(done)[0].score.valid


# ---- alignment -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "share", "expected"),
    [
        ([3], 0.99, 3),
        ([1] * 99 + [50], 0.99, 1),
        ([1] * 98 + [50] * 2, 0.99, 50),
        ([1] * 198 + [7, 9], 0.99, 1),
        ([1] * 197 + [7, 8, 9], 0.99, 7),
        (range(1, 11), 0.7, 7),
        (range(1, 11), 1.0, 10),
        ([0, 0, 0], 0.99, 1),
        ([], 0.99, 1),
    ],
)
def test_depth_is_the_quantile_of_the_calls(sizes, share, expected):
    assert alignment_depth(list(sizes), share) == expected


def test_exact_weights_are_one_over_the_calls():
    parents = np.array([0, 2, 2, 2, 2, 5, 5])
    assert inverse_weights(parents).tolist() == [1, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5]
    assert inverse_weights(np.array([], np.int64)).tolist() == []


calls = st.lists(st.integers(0, 9), min_size=1, max_size=8)


def parents_of(sizes) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


@given(calls, st.integers(1, 10), st.integers(0, 2**31 - 1))
def test_copies_bring_each_main_run_to_the_depth(sizes, d, seed):
    parents = parents_of(sizes)
    copies = copy_weights(parents, seed, d)
    for parent, size in enumerate(sizes):
        mine = copies[parents == parent]
        assert mine.sum() == (d if size else 0)
        assert (mine <= 1).all() if size > d else (mine >= 1).all()
    assert (copies == copy_weights(parents, seed, d)).all()


@given(calls)
def test_exact_weights_give_each_main_run_that_called_the_mass_1(sizes):
    parents = parents_of(sizes)
    mass = np.bincount(parents, inverse_weights(parents), len(sizes))
    assert mass == pytest.approx([min(1, size) for size in sizes])


@pytest.mark.parametrize("d", [2, 3, 8])
def test_on_average_copies_are_the_exact_weights_times_the_depth(d):
    parents = parents_of([1, 2, 3, 7])
    draws = 4000
    mean = sum(copy_weights(parents, seed, d) for seed in range(draws)) / draws
    # Copies of one run of d are binomial: no standard deviation is above sqrt(d) / 2.
    assert mean == pytest.approx(d * inverse_weights(parents), abs=5 * math.sqrt(d) / 2 / math.sqrt(draws))


# ---- advantages ------------------------------------------------------------------------------------


def test_advantages_by_hand():
    assert standardise([1, 0, 0, 0]) == pytest.approx(np.array([3, -1, -1, -1]) / math.sqrt(3))
    assert standardise([1.0, 0.1]) == pytest.approx([1, -1])
    # Weighted mean 0.5, weighted variance 0.25.
    assert standardise([1, 0, 0], [1, 0.5, 0.5]) == pytest.approx([1, -1, -1])
    # A weight is a number of copies: [1, 0, 0, 0] without the last.
    assert standardise([1, 0, 9], [1, 3, 0]) == pytest.approx([math.sqrt(3), -1 / math.sqrt(3), 0])
    assert standardise([math.nan, 1, 0]) == pytest.approx([0, 1, -1])


@pytest.mark.parametrize("kind", [np.float32, np.float64, list])
@pytest.mark.parametrize("value", [0.1, 0.55, 1 / 3, 1e-30])
def test_equal_rewards_give_exactly_zero(kind, value):
    rewards = np.full(8, value, kind) if kind is not list else [value] * 8
    assert (standardise(rewards, inverse_weights(parents_of([1, 3, 4]))) == 0).all()
    assert (standardise(rewards) == 0).all()


@pytest.mark.parametrize("rewards", [[], [0.5], [math.nan], [math.nan, 0.5]])
def test_too_few_rewards_give_zero(rewards):
    assert standardise(rewards).tolist() == [0.0] * len(rewards)


rewards = st.lists(st.floats(0, 1), min_size=2, max_size=20)
coarse = st.lists(st.integers(0, 100).map(lambda n: n / 128), min_size=2, max_size=20)
weighted = coarse.flatmap(
    lambda r: st.tuples(st.just(r), st.lists(st.sampled_from([0.125, 0.5, 1.0]), min_size=len(r), max_size=len(r)))
)


@given(rewards)
def test_advantages_are_finite_with_mean_0_and_variance_1(found):
    a = standardise(found)
    assert np.isfinite(a).all()
    if len(set(found)) > 1:
        assert a.mean() == pytest.approx(0, abs=1e-9)
        assert (a**2).mean() == pytest.approx(1)
        assert np.argmax(a) == np.argmax(found)


@given(weighted, st.integers(-8, 8))
def test_a_shift_changes_nothing(found, shift):
    r, w = found
    assert standardise(np.array(r) + shift, w) == pytest.approx(standardise(r, w))


@given(weighted, st.randoms())
def test_the_order_of_the_members_changes_no_bit(found, random):
    r, w = map(np.array, found)
    order = random.sample(range(len(r)), len(r))
    assert (standardise(r[order], w[order]) == standardise(r, w)[order]).all()


@given(st.lists(st.lists(st.integers(0, 4).map(lambda n: n / 4), min_size=1, max_size=5), min_size=2, max_size=5))
def test_inverse_weights_ignore_how_often_a_planner_calls(by_run):
    """The same sub runs twice in one main run: as many values, the same mass."""
    doubled = [by_run[0] * 2, *by_run[1:]]
    flat, flat_doubled = [*chain(*by_run)], [*chain(*doubled)]
    once = standardise(flat, inverse_weights(parents_of(list(map(len, by_run)))))
    twice = standardise(flat_doubled, inverse_weights(parents_of(list(map(len, doubled)))))
    n = len(by_run[0])
    assert twice[:n] == pytest.approx(once[:n], abs=1e-9)
    assert twice[2 * n :] == pytest.approx(once[n:], abs=1e-9)


# ---- the two levels of a query ---------------------------------------------------------------------


def test_the_advantages_of_a_query_by_hand():
    main, sub = levels((1.0, [1.0]), (0.1, [0.1, 0.1, 0.6, 0.6]), (0.1, []))
    assert (main.group.role, sub.group.role, len(sub.group.rollouts)) == ("main", "sub", 5)
    assert main.advantages == pytest.approx([math.sqrt(2), -math.sqrt(0.5), -math.sqrt(0.5)])
    # Masses 1 and 4 x 1/4: mean 0.675, variance (0.325^2 + (0.575^2 + 0.075^2) / 2) / 2.
    deviation = math.sqrt((0.325**2 + (0.575**2 + 0.075**2) / 2) / 2)
    assert sub.advantages == pytest.approx(np.array([0.325, -0.575, -0.575, -0.075, -0.075]) / deviation)
    assert sub.parents.tolist() == [0, 1, 1, 1, 1]
    assert (main.skipped, sub.skipped) == ("", "")


def test_equal_weights_count_a_planner_once_per_call():
    _, sub = levels((1.0, [1.0]), (0.1, [0.0, 0.0, 0.0]), align=equal_weights)
    assert sub.advantages == pytest.approx(np.array([3, -1, -1, -1]) / math.sqrt(3))
    _, aligned = levels((1.0, [1.0]), (0.1, [0.0, 0.0, 0.0]))
    assert aligned.advantages == pytest.approx([1, -1, -1, -1])


def test_dropped_copies_have_no_advantage():
    runs = ((1.0, [1.0]), (0.1, [0.0, 0.1, 0.2, 0.3]))
    align = partial(copy_weights, depth=2)
    found = [levels(*runs, align=align, seed=seed)[1].advantages for seed in range(20)]
    assert all(np.count_nonzero(each) == 3 for each in found)
    assert len({tuple(each) for each in found}) > 1
    assert (levels(*runs, align=align, seed=5)[1].advantages == found[5]).all()


def test_a_sub_run_without_a_reward_is_no_part_of_its_main_run():
    _, sub = levels((1.0, [1.0]), (0.1, [0.0, None, None]))
    assert sub.advantages == pytest.approx([1, -1, 0, 0])
    assert np.isnan(sub.rewards[2:]).all()


@pytest.mark.parametrize(
    ("runs", "main", "sub"),
    [
        ([(1.0, []), (0.1, [])], "", "no calls"),
        ([(1.0, [0.5]), (1.0, [0.5])], "equal", "equal"),
        ([(1.0, [1.0]), (1.0, [0.5])], "equal", ""),
        ([(None, [None]), (None, [])], "no rewards", "no rewards"),
        ([(1.0, [0.5]), (0.1, [None])], "", "equal"),
    ],
)
def test_level_without_signal_says_why(runs, main, sub):
    found = levels(*runs)
    assert [each.skipped for each in found] == [main, sub]
    assert all(not each.advantages.any() for each in found if each.skipped)


def test_outputs_that_are_all_invalid_are_told_from_equal_ones():
    runs = [scored(said("", "turns", below=[scored(said(" "), 0.0, part=0.0)]), 0.0, part=0.0) for _ in "ab"]
    assert [each.skipped for each in build_levels(EXAMPLE, runs, inverse_weights, 0)] == ["invalid", "invalid"]
    mixed = [*runs, scored(said(), 0.0)]
    assert build_levels(EXAMPLE, mixed, inverse_weights, 0)[0].skipped == "equal"


def test_levels_as_plain_data():
    main, sub = levels((1.0, [1.0, None]), (0.1, [0.5]))
    assert main.to_json()["rewards"] == [1.0, 0.1]
    assert sub.to_json()["rewards"] == [1.0, None, 0.5]
    assert Counter(sub.to_json()["parents"]) == {0: 2, 1: 1}
