import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import stdtrit

from edgewise.experience.effects.estimate import MIN_ROWS, MISS_BOUND, attach_effects, estimate_effects
from edgewise.experience.effects.exposure import Exposure, measurement_key, record_exposure, sample_subset
from edgewise.experience.effects.pruning import PrunedLesson, estimate_ablation, prune, pool_effects, select_undecided
from edgewise.experience.library.library import Effect, Library, make_lesson

TEN = Library(tuple(make_lesson(f"lesson {number}") for number in range(10)))
KEYS = [measurement_key(x) for x in TEN.lessons]
T7 = 2.364624251592785  # Student's t, 0.975, 7 degrees of freedom
seeds = st.integers(0, 10_000)
slow = settings(max_examples=10, deadline=None)


def drawn(
    seed: int, lessons: int, groups: int, size: int = 4, share: float = 0.6, effects=()
) -> list[Exposure]:
    """Rewards of 0 or 1 with a chance of each group's own, moved by the effects of what was shown."""
    rng = np.random.default_rng(seed)
    names = KEYS[:lessons]
    worth = np.array([*effects, *[0.0] * (lessons - len(effects))])
    seen = []
    for group in range(groups):
        level = rng.uniform(0.25, 0.75)
        for _ in range(size):
            kept = rng.random(lessons) < share
            shown = frozenset(name for name, keep in zip(names, kept, strict=True) if keep)
            reward = float(rng.random() < level + worth @ (kept - share))
            seen.append(Exposure(f"group {group}", reward, frozenset(names), shown))
    return seen


def pairs(name: str, differences, group: str = "row") -> list[Exposure]:
    """Groups of two, one shown the lesson and one not, with rewards so far apart."""
    one = frozenset({name})
    return [
        each
        for number, gap in enumerate(differences)
        for each in (
            Exposure(f"{group} {number}", max(gap, 0), one, one),
            Exposure(f"{group} {number}", max(-gap, 0), one, frozenset()),
        )
    ]


def close(effect: Effect, to: Effect) -> bool:
    numbers = [(x.estimate, x.low, x.high, x.uses, x.unused) for x in (effect, to)]
    return numbers[0] == pytest.approx(numbers[1])


def measured(low: float, high: float, uses: int = 300, unused: int = 112) -> Effect:
    return Effect((low + high) / 2, low, high, uses, unused)


# Inclusion


@given(seeds, st.floats(0.05, 0.95), st.lists(st.integers(0, 9), unique=True))
def test_a_lessons_draw_does_not_depend_on_the_others(seed, share, picked):
    some = TEN.with_lessons(TEN.lessons[n] for n in picked)
    whole = sample_subset(TEN, share, seed)
    assert sample_subset(some, share, seed).lessons == tuple(x for x in some.lessons if x in whole.lessons)


def test_lessons_are_drawn_at_their_share_independently_of_each_other():
    shown = np.array([[x in sample_subset(TEN, 0.8, n).lessons for x in TEN.lessons] for n in range(2_000)])
    assert shown.mean(axis=0) == pytest.approx(0.8, abs=0.04)
    assert np.abs(np.corrcoef(shown.T) - np.eye(10)).max() < 0.09


def test_reworded_lessons_are_drawn_and_measured_anew():
    old = TEN.lessons[0]
    new = replace(old, text="another wording")
    assert measurement_key(old) != measurement_key(new)
    draws = [[bool(sample_subset(Library((x,)), 0.5, n).lessons) for n in range(64)] for x in (old, new)]
    assert draws[0] != draws[1]


def test_lessons_always_on_are_shown_and_not_measured_and_locked_ones_vary():
    always, locked = replace(TEN.lessons[0], always=True), replace(TEN.lessons[1], locked=True)
    library = Library((always, locked))
    found = [sample_subset(library, 0.5, n) for n in range(50)]
    assert all(always in each.lessons for each in found)
    assert 0 < sum(locked in each.lessons for each in found) < 50
    assert record_exposure("g", library, library, 1.0).candidates == {measurement_key(locked)}


def test_a_share_of_one_is_the_library_itself():
    assert sample_subset(TEN, 1, 3) is TEN


@pytest.mark.parametrize("share", [0, -0.1, 1.1, math.nan])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="share of lessons"):
        sample_subset(TEN, share, 0)


def test_what_was_shown_must_come_from_the_library():
    with pytest.raises(ValueError, match="not in the library"):
        record_exposure("g", TEN, Library((make_lesson("strange"),)), 1.0)


# The estimate


def test_pairs_give_the_paired_t_interval():
    """Differences of mean 0.25 and variance 0.5 on 8 rows: a standard error of sqrt(0.5 / 8)."""
    found = estimate_effects(pairs("a", [1, 1, 1, 0, 0, 0, 0, -1]))
    assert close(found["a"], Effect(0.25, 0.25 - T7 * 0.25, 0.25 + T7 * 0.25, 8, 8))


@slow
@given(seeds)
def test_agrees_with_least_squares_with_a_dummy_for_each_group(seed):
    import pandas as pd
    import statsmodels.formula.api as smf

    seen = drawn(seed, lessons=3, groups=40, effects=(0.2, -0.2))
    frame = pd.DataFrame([{f"x{k}": float(KEYS[k] in each.treatment) for k in range(3)} for each in seen])
    frame = frame.assign(y=[each.reward for each in seen], group=[int(each.group[6:]) for each in seen])
    plain = smf.ols("y ~ x0 + x1 + x2 + C(group)", frame)
    fit = plain.fit(cov_type="cluster", cov_kwds={"groups": frame.group})
    found = [estimate_effects(seen)[name] for name in KEYS[:3]]
    assert [e.estimate for e in found] == pytest.approx(list(fit.params[-3:]))
    # Dummies are nested in the clusters and don't count; t has a degree of freedom for each row but one.
    errors = fit.bse[-3:] * math.sqrt((160 - 43) / (160 - 3))
    ratios = [(e.high - e.estimate) / error for e, error in zip(found, errors, strict=True)]
    assert all(stdtrit(39, 0.975) - 1e-6 <= ratio < 2.2 for ratio in ratios)


@slow
@given(seeds, st.sampled_from([12, 40]), st.randoms())
def test_the_order_of_rollouts_changes_nothing(seed, groups, random):
    seen = drawn(seed, lessons=5, groups=groups)
    mixed = random.sample(seen, len(seen))
    assert estimate_effects(mixed) == estimate_effects(seen)


@slow
@given(seeds, st.sampled_from([12, 40]))
def test_how_hard_a_question_is_does_not_matter(seed, groups):
    seen = drawn(seed, lessons=5, groups=groups)
    moved = [replace(each, reward=each.reward + 0.5 * int(each.group[6:])) for each in seen]
    found, again = estimate_effects(seen), estimate_effects(moved)
    assert found.keys() == again.keys()
    assert all(close(found[name], again[name]) for name in found)


@slow
@given(seeds)
def test_rollouts_counted_twice_make_no_interval_narrower(seed):
    seen = drawn(seed, lessons=3, groups=40)
    once, twice = estimate_effects(seen), estimate_effects(seen * 2)
    for name, effect in once.items():
        assert twice[name].estimate == pytest.approx(effect.estimate)
        assert twice[name].high - twice[name].low == pytest.approx(effect.high - effect.low, rel=0.02)


@pytest.mark.parametrize(
    ("groups", "share"),
    [(20, 0.8), (60, 0.8), (60, 0.5)],
    ids=["each lesson alone", "together", "half shown"],
)
def test_intervals_hold_the_truth_about_19_times_in_20(groups, share):
    truth = dict(zip(KEYS, [0.1, -0.1, 0.05, 0.0, *[0.0] * 6], strict=True))
    found = [estimate_effects(drawn(n, 10, groups, 4, share, tuple(truth.values()))) for n in range(60)]
    held = [e.low <= truth[name] <= e.high for each in found for name, e in each.items()]
    assert len(held) > 500
    assert 0.92 <= np.mean(held) <= 0.98


@slow
@given(seeds)
def test_with_few_rollouts_each_lesson_is_measured_as_if_it_were_the_only_one(seed):
    seen = drawn(seed, lessons=10, groups=13)
    found = estimate_effects(seen)
    assume(len(found) == 10)
    for name, effect in found.items():
        one = frozenset({name})
        assert close(effect, estimate_effects([replace(x, candidates=one, treatment=x.treatment & one) for x in seen])[name])


def test_rows_that_come_again_are_one_witness():
    """The same 10 rows in 8 epochs, the lesson helping on some rows and hurting on others."""
    gaps = [1, 1, 1, 0, 0, 0, 0, 0, -1, -1]
    seen = [replace(x, row=x.group) for x in pairs("a", gaps)]
    epochs = [replace(x, group=f"step {n}/{x.row}") for n in range(8) for x in seen]
    apart = [replace(x, row="") for x in epochs]
    assert estimate_effects(epochs)["a"].high > 2 * estimate_effects(apart)["a"].high
    assert estimate_effects(epochs)["a"].estimate == pytest.approx(estimate_effects(apart)["a"].estimate)


def test_equal_rewards_are_no_effect_within_what_may_have_gone_unseen():
    seen = pairs("a", [0] * 50)
    assert estimate_effects(seen) == {"a": Effect(0.0, -MISS_BOUND / 50, MISS_BOUND / 50, 50, 50)}


def test_missing_rewards_say_nothing():
    seen = pairs("a", [1, 0, 1, 0, 1, 0, 0, 0, -1])
    lost = record_exposure("row 0", Library(), Library(), None)
    assert math.isnan(lost.reward)
    lost = replace(lost, candidates=frozenset("a"), treatment=frozenset("a"))
    assert estimate_effects([*seen, lost]) == estimate_effects(seen)
    assert estimate_effects([lost]) == estimate_effects([]) == {}


@pytest.mark.parametrize("rows", [MIN_ROWS - 1, MIN_ROWS])
def test_a_lesson_that_varied_on_too_few_rows_is_undecided(rows):
    always = [replace(x, treatment=x.candidates, group=f"other {x.group}") for x in pairs("a", [1] * 30)]
    seen = pairs("a", [1, 0] * (rows // 2) + [0] * (rows % 2))
    assert ("a" in estimate_effects([*seen, *always])) == (rows == MIN_ROWS)


@pytest.mark.parametrize("groups", [12, 60], ids=["each lesson alone", "together"])
def test_lessons_that_always_go_together_are_undecided(groups):
    bound = {KEYS[0]: "twin", KEYS[1]: "opposite"}
    seen = []
    for each in drawn(1, 8, groups):
        twins = {"twin"} & {bound.get(name) for name in each.treatment}
        twins |= {"opposite"} - {bound.get(name) for name in each.treatment}
        seen.append(replace(each, candidates=each.candidates | {*bound.values()}, treatment=each.treatment | twins))
    assert estimate_effects(seen).keys() == set(KEYS[2:8])


def test_rollouts_alone_in_their_group_are_compared_under_the_same_offer():
    lone = [replace(x, group=f"lone {n}") for n, x in enumerate(pairs("a", [1, 1, 1, 0, 0, 0, 0, -1]))]
    assert estimate_effects(lone)["a"].estimate == pytest.approx(0.25)
    # Under an offer of its own, each is compared with nobody.
    assert estimate_effects([replace(x, candidates=frozenset({"a", x.group})) for x in lone]) == {}


def test_each_step_measures_the_lessons_of_its_own_library():
    first, second = pairs("a", [1, 0] * 20, "step 1/row"), pairs("b", [-1, 0, 0, 0] * 10, "step 2/row")
    found = estimate_effects([*first, *second])
    assert found["a"].estimate == pytest.approx(0.5)
    assert found["a"].high == pytest.approx(estimate_effects(first)["a"].high, rel=0.02)
    assert found["b"].estimate == pytest.approx(-0.25)
    assert (found["a"].uses, found["b"].unused) == (40, 40)


# What becomes of it


def test_a_harmful_lesson_is_found_from_random_subsets_and_dropped():
    bad = TEN.lessons[3]
    seen = []
    rng = np.random.default_rng(5)
    for n in range(600):
        shown = sample_subset(TEN, 0.8, n)
        reward = float(rng.random() < 0.7 - 0.4 * (bad in shown.lessons))
        seen.append(record_exposure(f"group {n // 5}", TEN, shown, reward))
    library, dropped = prune(attach_effects(TEN, seen))
    assert bad.id in [each.lesson.id for each in dropped]
    assert len(library) >= 8
    assert all(x.effect and x.effect.uses + x.effect.unused == 600 for x in library.lessons)


def test_a_lesson_that_was_not_measured_keeps_what_it_had():
    old = measured(-0.1, 0.3)
    library = Library((replace(TEN.lessons[0], effect=old), TEN.lessons[1]))
    after = attach_effects(library, pairs(KEYS[1], [1, 0] * 10))
    assert after.lessons[0].effect == old
    assert after.lessons[1].effect and after.lessons[1].effect.estimate == pytest.approx(0.5)


def test_harmful_lessons_go_with_a_reason_and_locked_ones_are_only_reported():
    bad = replace(TEN.lessons[0], effect=measured(-0.20, -0.04))
    locked = replace(TEN.lessons[1], effect=measured(-0.3, -0.1), locked=True)
    rest = replace(TEN.lessons[2], effect=measured(-0.2, 0.0)), TEN.lessons[3]
    library, dropped = prune(Library((bad, locked, *rest), place="after"))
    assert library == Library((locked, *rest), place="after")
    assert dropped == (
        PrunedLesson(bad, "lowers the reward by 0.12 [-0.20, -0.04] over 412 rollouts"),
        PrunedLesson(locked, "lowers the reward by 0.20 [-0.30, -0.10] over 412 rollouts", kept=True),
    )


@pytest.mark.parametrize(("sure", "goes"), [(0.975, False), (0.85, False), (0.8, True), (0.5, True)])
def test_less_confidence_drops_more(sure, goes):
    """An estimate one standard error below zero: harmful with a confidence of 0.84."""
    library = Library((replace(TEN.lessons[0], effect=measured(-0.0295996, 0.0095996)),))
    assert (len(prune(library, sure)[1]) == 1) == goes


@pytest.mark.parametrize("sure", [0.4, 1.0, math.nan])
def test_a_confidence_that_is_none_is_refused(sure):
    measured = Library((replace(make_lesson("x"), effect=Effect(0.1, 0.0, 0.2, 50, 50)),))
    with pytest.raises(ValueError, match="confidence"):
        prune(measured, sure)


def test_the_confidence_may_depend_on_the_lesson():
    harmful = Effect(-0.1, -0.19, -0.01, 500, 500)
    both = Library(tuple(replace(make_lesson(text), effect=harmful) for text in ("given", "new")))
    kept, dropped = prune(both, lambda x: 0.999 if x.text == "given" else 0.975)
    assert [x.text for x in kept.lessons] == ["given"]
    assert [x.lesson.text for x in dropped] == ["new"]


def test_two_measurements_together_are_nearer_to_the_surer_one_and_surer_than_both():
    wide, narrow = Effect(0.4, 0.0, 0.8, 10, 20), Effect(0.0, -0.1, 0.1, 100, 200)
    found = pool_effects(wide, narrow)
    assert 0 < found.estimate < 0.1
    assert found.high - found.low < narrow.high - narrow.low
    assert (found.uses, found.unused) == (110, 220)
    assert pool_effects(None, narrow) is narrow


def test_undecided_lessons_come_worst_first_then_the_unmeasured():
    effects = [(-0.1, 0.05), (-0.3, -0.1), (-0.4, 0.1), (-0.05, 0.1), None]
    given_ = [replace(x, effect=e and measured(*e)) for x, e in zip(TEN.lessons, effects, strict=False)]
    locked = replace(TEN.lessons[9], locked=True)
    library = Library((locked, *given_))
    assert select_undecided(library, 9) == (given_[2], given_[0], given_[4])
    assert select_undecided(library, 1) == (given_[2],)
    assert select_undecided(library, 0) == ()


def test_leave_one_out_is_paired_by_row():
    with_it, without = [[1, 1], [0, 0], [1, 0], [1, 1]] * 5, [[1, 0], [0, 0], [1, 0], [1, 1]] * 5
    found = estimate_ablation(with_it, without)
    assert found.estimate == pytest.approx(0.125)
    assert (found.uses, found.unused) == (40, 40)
    assert found.low < 0.125 < found.high
    assert estimate_ablation(without, with_it).estimate == pytest.approx(-0.125)


def test_leave_one_out_without_any_difference_is_not_certainty():
    assert estimate_ablation([[1.0]] * 20, [[1.0]] * 20) == Effect(0.0, -MISS_BOUND / 20, MISS_BOUND / 20, 20, 20)


def test_leave_one_out_needs_two_rows_and_the_same_ones():
    with pytest.raises(ValueError, match="at least two rows"):
        estimate_ablation([[1, 0]], [[0, 0]])
    with pytest.raises(ValueError, match="must be the same"):
        estimate_ablation([[1, 0]] * 2, [[0, 0]] * 3)
