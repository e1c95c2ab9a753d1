import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import stdtrit

from edgewise.experience.effects.estimate import MIN_ROWS, MISS_BOUND, attach_effects, estimate_effects
from edgewise.experience.effects.exposure import Exposure, measurement_key, record_exposure, sample_subset
from edgewise.experience.effects.pruning import PrunedLesson, estimate_ablation, pool_effects, prune, select_undecided
from edgewise.experience.library.library import Effect, Library, make_lesson

TEN = Library(tuple(make_lesson(f"lesson {number}") for number in range(10)))
KEYS = [measurement_key(x) for x in TEN.lessons]
T7 = 2.364624251592785  # Student's t, 0.975, 7 degrees of freedom
seeds = st.integers(0, 10_000)
few_examples = settings(max_examples=10, deadline=None)


def simulate(seed: int, lessons: int, groups: int, size: int = 4, share: float = 0.6, effects=()) -> list[Exposure]:
    """Rewards of 0 or 1 with a chance of each group's own, moved by the effects of what was shown."""
    rng = np.random.default_rng(seed)
    names = KEYS[:lessons]
    worth = np.array([*effects, *[0.0] * (lessons - len(effects))])
    exposures = []
    for group in range(groups):
        level = rng.uniform(0.25, 0.75)
        for _ in range(size):
            included = rng.random(lessons) < share
            shown = frozenset(name for name, keep in zip(names, included, strict=True) if keep)
            reward = float(rng.random() < level + worth @ (included - share))
            exposures.append(Exposure(f"group {group}", reward, frozenset(names), shown))
    return exposures


def make_pairs(name: str, differences, group: str = "row") -> list[Exposure]:
    """Groups of two, one shown the lesson and one not, with rewards so far apart."""
    one = frozenset({name})
    return [
        exposure
        for number, gap in enumerate(differences)
        for exposure in (
            Exposure(f"{group} {number}", max(gap, 0), one, one),
            Exposure(f"{group} {number}", max(-gap, 0), one, frozenset()),
        )
    ]


def is_close(effect: Effect, to: Effect) -> bool:
    numbers = [(x.estimate, x.low, x.high, x.uses, x.unused) for x in (effect, to)]
    return numbers[0] == pytest.approx(numbers[1])


def make_effect(low: float, high: float, uses: int = 300, unused: int = 112) -> Effect:
    return Effect((low + high) / 2, low, high, uses, unused)


# Inclusion


@given(seeds, st.floats(0.05, 0.95), st.lists(st.integers(0, 9), unique=True))
def test_draw_of_a_lesson_does_not_depend_on_the_others(seed, share, picked):
    some = TEN.with_lessons(TEN.lessons[n] for n in picked)
    whole = sample_subset(TEN, share, seed)
    assert sample_subset(some, share, seed).lessons == tuple(x for x in some.lessons if x in whole.lessons)


def test_lessons_are_sampled_at_their_share_independently():
    shown = np.array([[x in sample_subset(TEN, 0.8, n).lessons for x in TEN.lessons] for n in range(2_000)])
    assert shown.mean(axis=0) == pytest.approx(0.8, abs=0.04)
    assert np.abs(np.corrcoef(shown.T) - np.eye(10)).max() < 0.09


def test_reworded_lesson_is_sampled_and_measured_anew():
    old = TEN.lessons[0]
    new = replace(old, text="another wording")
    assert measurement_key(old) != measurement_key(new)
    draws = [[bool(sample_subset(Library((x,)), 0.5, n).lessons) for n in range(64)] for x in (old, new)]
    assert draws[0] != draws[1]


def test_always_on_lessons_are_not_measured_and_locked_are():
    always, locked = replace(TEN.lessons[0], always=True), replace(TEN.lessons[1], locked=True)
    library = Library((always, locked))
    subsets = [sample_subset(library, 0.5, n) for n in range(50)]
    assert all(always in subset.lessons for subset in subsets)
    assert 0 < sum(locked in subset.lessons for subset in subsets) < 50
    assert record_exposure("g", library, library, 1.0).candidates == {measurement_key(locked)}


def test_share_of_one_returns_the_library_itself():
    assert sample_subset(TEN, 1, 3) is TEN


@pytest.mark.parametrize("share", [0, -0.1, 1.1, math.nan])
def test_share_outside_its_range_raises(share):
    with pytest.raises(ValueError, match="share of lessons"):
        sample_subset(TEN, share, 0)


def test_exposure_to_an_unknown_lesson_raises():
    with pytest.raises(ValueError, match="not in the library"):
        record_exposure("g", TEN, Library((make_lesson("strange"),)), 1.0)


# The estimate


def test_pairs_give_the_paired_t_interval():
    """Differences of mean 0.25 and variance 0.5 on 8 rows: a standard error of sqrt(0.5 / 8)."""
    effects = estimate_effects(make_pairs("a", [1, 1, 1, 0, 0, 0, 0, -1]))
    assert is_close(effects["a"], Effect(0.25, 0.25 - T7 * 0.25, 0.25 + T7 * 0.25, 8, 8))


@few_examples
@given(seeds)
def test_estimate_equals_ols_with_a_dummy_for_each_group(seed):
    import pandas as pd
    import statsmodels.formula.api as smf

    exposures = simulate(seed, lessons=3, groups=40, effects=(0.2, -0.2))
    columns = [{f"x{k}": float(KEYS[k] in x.treatment) for k in range(3)} for x in exposures]
    groups = [int(x.group[6:]) for x in exposures]
    frame = pd.DataFrame(columns).assign(y=[x.reward for x in exposures], group=groups)
    plain = smf.ols("y ~ x0 + x1 + x2 + C(group)", frame)
    fit = plain.fit(cov_type="cluster", cov_kwds={"groups": frame.group})
    estimates = [estimate_effects(exposures)[name] for name in KEYS[:3]]
    assert [e.estimate for e in estimates] == pytest.approx(list(fit.params[-3:]))
    # Dummies are nested in the clusters and don't count; t has a degree of freedom for each row but one.
    errors = fit.bse[-3:] * math.sqrt((160 - 43) / (160 - 3))
    ratios = [(e.high - e.estimate) / error for e, error in zip(estimates, errors, strict=True)]
    assert all(stdtrit(39, 0.975) - 1e-6 <= ratio < 2.2 for ratio in ratios)


@few_examples
@given(seeds, st.sampled_from([12, 40]), st.randoms())
def test_order_of_rollouts_does_not_matter(seed, groups, random):
    exposures = simulate(seed, lessons=5, groups=groups)
    shuffled = random.sample(exposures, len(exposures))
    assert estimate_effects(shuffled) == estimate_effects(exposures)


@few_examples
@given(seeds, st.sampled_from([12, 40]))
def test_difficulty_of_a_question_does_not_matter(seed, groups):
    exposures = simulate(seed, lessons=5, groups=groups)
    shifted = [replace(exposure, reward=exposure.reward + 0.5 * int(exposure.group[6:])) for exposure in exposures]
    effects, again = estimate_effects(exposures), estimate_effects(shifted)
    assert effects.keys() == again.keys()
    assert all(is_close(effects[name], again[name]) for name in effects)


@few_examples
@given(seeds)
def test_duplicate_rollouts_do_not_narrow_an_interval(seed):
    exposures = simulate(seed, lessons=3, groups=40)
    once, twice = estimate_effects(exposures), estimate_effects(exposures * 2)
    for name, effect in once.items():
        assert twice[name].estimate == pytest.approx(effect.estimate)
        assert twice[name].high - twice[name].low == pytest.approx(effect.high - effect.low, rel=0.02)


@pytest.mark.parametrize(
    ("groups", "share"), [(20, 0.8), (60, 0.8), (60, 0.5)], ids=["each lesson alone", "together", "half shown"]
)
def test_coverage_of_the_intervals_is_about_95_percent(groups, share):
    truth = dict(zip(KEYS, [0.1, -0.1, 0.05, 0.0, *[0.0] * 6], strict=True))
    estimates = [estimate_effects(simulate(n, 10, groups, 4, share, tuple(truth.values()))) for n in range(60)]
    covers = [e.low <= truth[name] <= e.high for estimate in estimates for name, e in estimate.items()]
    assert len(covers) > 500
    assert 0.92 <= np.mean(covers) <= 0.98


@few_examples
@given(seeds)
def test_few_rollouts_fit_each_lesson_alone(seed):
    exposures = simulate(seed, lessons=10, groups=13)
    effects = estimate_effects(exposures)
    assume(len(effects) == 10)
    for name, effect in effects.items():
        one = frozenset({name})
        alone = [replace(x, candidates=one, treatment=x.treatment & one) for x in exposures]
        assert is_close(effect, estimate_effects(alone)[name])


def test_repeated_rows_are_one_cluster():
    """The same 10 rows in 8 epochs, the lesson helping on some rows and hurting on others."""
    gaps = [1, 1, 1, 0, 0, 0, 0, 0, -1, -1]
    exposures = [replace(x, row=x.group) for x in make_pairs("a", gaps)]
    epochs = [replace(x, group=f"step {n}/{x.row}") for n in range(8) for x in exposures]
    apart = [replace(x, row="") for x in epochs]
    assert estimate_effects(epochs)["a"].high > 2 * estimate_effects(apart)["a"].high
    assert estimate_effects(epochs)["a"].estimate == pytest.approx(estimate_effects(apart)["a"].estimate)


def test_equal_rewards_give_zero_within_the_miss_bound():
    exposures = make_pairs("a", [0] * 50)
    assert estimate_effects(exposures) == {"a": Effect(0.0, -MISS_BOUND / 50, MISS_BOUND / 50, 50, 50)}


def test_missing_rewards_are_ignored():
    exposures = make_pairs("a", [1, 0, 1, 0, 1, 0, 0, 0, -1])
    missing = record_exposure("row 0", Library(), Library(), None)
    assert math.isnan(missing.reward)
    missing = replace(missing, candidates=frozenset("a"), treatment=frozenset("a"))
    assert estimate_effects([*exposures, missing]) == estimate_effects(exposures)
    assert estimate_effects([missing]) == estimate_effects([]) == {}


@pytest.mark.parametrize("rows", [MIN_ROWS - 1, MIN_ROWS])
def test_lesson_that_varied_on_too_few_rows_is_undecided(rows):
    always = [replace(x, treatment=x.candidates, group=f"other {x.group}") for x in make_pairs("a", [1] * 30)]
    exposures = make_pairs("a", [1, 0] * (rows // 2) + [0] * (rows % 2))
    assert ("a" in estimate_effects([*exposures, *always])) == (rows == MIN_ROWS)


@pytest.mark.parametrize("groups", [12, 60], ids=["each lesson alone", "together"])
def test_collinear_lessons_are_undecided(groups):
    bound = {KEYS[0]: "twin", KEYS[1]: "opposite"}
    exposures = []
    for exposure in simulate(1, 8, groups):
        twins = {"twin"} & {bound.get(name) for name in exposure.treatment}
        twins |= {"opposite"} - {bound.get(name) for name in exposure.treatment}
        candidates = exposure.candidates | {*bound.values()}
        exposures.append(replace(exposure, candidates=candidates, treatment=exposure.treatment | twins))
    assert estimate_effects(exposures).keys() == set(KEYS[2:8])


def test_lone_rollouts_compare_under_the_same_candidates():
    lone = [replace(x, group=f"lone {n}") for n, x in enumerate(make_pairs("a", [1, 1, 1, 0, 0, 0, 0, -1]))]
    assert estimate_effects(lone)["a"].estimate == pytest.approx(0.25)
    # Under an offer of its own, each is compared with nobody.
    assert estimate_effects([replace(x, candidates=frozenset({"a", x.group})) for x in lone]) == {}


def test_each_step_measures_the_lessons_of_its_own_library():
    first, second = (make_pairs("a", [1, 0] * 20, "step 1/row"), make_pairs("b", [-1, 0, 0, 0] * 10, "step 2/row"))
    effects = estimate_effects([*first, *second])
    assert effects["a"].estimate == pytest.approx(0.5)
    assert effects["a"].high == pytest.approx(estimate_effects(first)["a"].high, rel=0.02)
    assert effects["b"].estimate == pytest.approx(-0.25)
    assert (effects["a"].uses, effects["b"].unused) == (40, 40)


# What becomes of it


def test_random_subsets_expose_a_harmful_lesson():
    bad = TEN.lessons[3]
    exposures = []
    rng = np.random.default_rng(5)
    for n in range(600):
        shown = sample_subset(TEN, 0.8, n)
        reward = float(rng.random() < 0.7 - 0.4 * (bad in shown.lessons))
        exposures.append(record_exposure(f"group {n // 5}", TEN, shown, reward))
    library, dropped = prune(attach_effects(TEN, exposures))
    assert bad.id in [pruned.lesson.id for pruned in dropped]
    assert len(library) >= 8
    assert all(x.effect and x.effect.uses + x.effect.unused == 600 for x in library.lessons)


def test_unmeasured_lesson_keeps_its_old_effect():
    old = make_effect(-0.1, 0.3)
    library = Library((replace(TEN.lessons[0], effect=old), TEN.lessons[1]))
    after = attach_effects(library, make_pairs(KEYS[1], [1, 0] * 10))
    assert after.lessons[0].effect == old
    assert after.lessons[1].effect and after.lessons[1].effect.estimate == pytest.approx(0.5)


def test_prune_gives_reasons_and_only_reports_locked_lessons():
    bad = replace(TEN.lessons[0], effect=make_effect(-0.20, -0.04))
    locked = replace(TEN.lessons[1], effect=make_effect(-0.3, -0.1), locked=True)
    rest = replace(TEN.lessons[2], effect=make_effect(-0.2, 0.0)), TEN.lessons[3]
    library, dropped = prune(Library((bad, locked, *rest), place="after"))
    assert library == Library((locked, *rest), place="after")
    assert dropped == (
        PrunedLesson(bad, "lowers the reward by 0.12 [-0.20, -0.04] over 412 rollouts"),
        PrunedLesson(locked, "lowers the reward by 0.20 [-0.30, -0.10] over 412 rollouts", kept=True),
    )


@pytest.mark.parametrize(("sure", "goes"), [(0.975, False), (0.85, False), (0.8, True), (0.5, True)])
def test_lower_confidence_prunes_more(sure, goes):
    """An estimate one standard error below zero: harmful with a confidence of 0.84."""
    library = Library((replace(TEN.lessons[0], effect=make_effect(-0.0295996, 0.0095996)),))
    assert (len(prune(library, sure)[1]) == 1) == goes


@pytest.mark.parametrize("sure", [0.4, 1.0, math.nan])
def test_confidence_outside_its_range_raises(sure):
    library = Library((replace(make_lesson("x"), effect=Effect(0.1, 0.0, 0.2, 50, 50)),))
    with pytest.raises(ValueError, match="confidence"):
        prune(library, sure)


def test_confidence_may_depend_on_the_lesson():
    harmful = Effect(-0.1, -0.19, -0.01, 500, 500)
    both = Library(tuple(replace(make_lesson(text), effect=harmful) for text in ("given", "new")))
    library, pruned = prune(both, lambda x: 0.999 if x.text == "given" else 0.975)
    assert [x.text for x in library.lessons] == ["given"]
    assert [x.lesson.text for x in pruned] == ["new"]


def test_pooling_weighs_by_inverse_variance():
    wide, narrow = Effect(0.4, 0.0, 0.8, 10, 20), Effect(0.0, -0.1, 0.1, 100, 200)
    pooled = pool_effects(wide, narrow)
    assert 0 < pooled.estimate < 0.1
    assert pooled.high - pooled.low < narrow.high - narrow.low
    assert (pooled.uses, pooled.unused) == (110, 220)
    assert pool_effects(None, narrow) is narrow


def test_undecided_come_worst_first_then_unmeasured():
    effects = [(-0.1, 0.05), (-0.3, -0.1), (-0.4, 0.1), (-0.05, 0.1), None]
    lessons = [replace(x, effect=e and make_effect(*e)) for x, e in zip(TEN.lessons, effects, strict=False)]
    locked = replace(TEN.lessons[9], locked=True)
    library = Library((locked, *lessons))
    assert select_undecided(library, 9) == (lessons[2], lessons[0], lessons[4])
    assert select_undecided(library, 1) == (lessons[2],)
    assert select_undecided(library, 0) == ()


def test_ablation_is_paired_by_row():
    with_it, without = [[1, 1], [0, 0], [1, 0], [1, 1]] * 5, [[1, 0], [0, 0], [1, 0], [1, 1]] * 5
    effect = estimate_ablation(with_it, without)
    assert effect.estimate == pytest.approx(0.125)
    assert (effect.uses, effect.unused) == (40, 40)
    assert effect.low < 0.125 < effect.high
    assert estimate_ablation(without, with_it).estimate == pytest.approx(-0.125)


def test_ablation_without_difference_keeps_the_miss_bound():
    assert estimate_ablation([[1.0]] * 20, [[1.0]] * 20) == Effect(0.0, -MISS_BOUND / 20, MISS_BOUND / 20, 20, 20)


def test_ablation_needs_the_same_two_rows_or_more():
    with pytest.raises(ValueError, match="at least two rows"):
        estimate_ablation([[1, 0]], [[0, 0]])
    with pytest.raises(ValueError, match="must be the same"):
        estimate_ablation([[1, 0]] * 2, [[0, 0]] * 3)
