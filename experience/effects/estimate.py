"""
What a single lesson is worth, measured on rollouts that are being paid for anyway.

Each rollout is shown a random subset of the lessons (`subset`), so that the rollouts of one group differ in what they
were shown and in nothing else. `estimate` compares them within their group: question, step and the rest of the library
drop out. The effect of a lesson is the mean change in reward that showing it makes on the rows where it was
offered, while the other lessons come and go as they did.

A lesson that costs reward is dropped by its own 95 % interval (`prune`), without a correction for the number of
lessons. Such a correction guards against dropping one useless lesson too many, which costs nothing, and keeps harmful
ones; a useful lesson would have to look harmful against its own true effect, which next to never happens
(bench/effect.py prints this rule beside Holm's and Benjamini and Hochberg's).

N rollouts, K lessons.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.experience.library.library import Effect, Lesson, Library
from edgewise.toolkit.evaluation.statistics import Samples, paired_difference
from edgewise.toolkit.util.seeds import seed as seed_of

Array = NDArray[np.float64]
FEWEST = 8
JOINT = 4
UNSEEN = -math.log(0.025)


@dataclass(frozen=True, slots=True)
class Seen:
    """
    One graded rollout: what it could have been shown, what it was shown, and its reward.

    Rollouts of one `group` ("step 3/row 17") answer the same question under the same candidate lessons. `offered` and
    `shown` are keys of lessons that were included at random. `row` is the question itself, whatever the step;
    "" stands for the group. A `reward` that is not finite is missing.
    """

    group: str
    reward: float
    offered: frozenset[str]
    shown: frozenset[str]
    row: str = ""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A lesson that `prune` found harmful and why; `kept` where it stays because it is locked."""

    lesson: Lesson
    reason: str
    kept: bool = False


def key(lesson: Lesson) -> str:
    """What a measurement belongs to, id and wording: a reworded lesson is a new thing to measure."""
    return f"{lesson.id}@{hashlib.sha256(lesson.text.encode()).hexdigest()[:8]}"


def subset(library: Library, share: float, seed: int) -> Library:
    """
    The library with each lesson kept with probability `share`; lessons that are always on all stay.

    Each lesson has a draw of its own from `seed` and its key: other lessons do not change it. `share` 1 returns
    the library itself. ValueError unless 0 < share <= 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of lessons to show is {share}; it must be above 0 and at most 1")
    if share == 1:
        return library
    most = share * 2**31
    return library.with_lessons(x for x in library.lessons if x.always or seed_of(seed, key(x)) < most)


def observe(group: str, library: Library, shown: Library, reward: float | None, row: str = "") -> Seen:
    """
    A rollout that was shown `shown`, a `subset` of `library`; `reward` is None where it has no valid score.

    A missing reward says nothing. Where a lesson may itself break a rollout, pass the reward of a failure. ValueError
    for a lesson that is not in the library.
    """
    strange = {x.id for x in shown.lessons} - {x.id for x in library.lessons}
    if strange:
        raise ValueError(f"lessons {sorted(strange)} were shown, but are not in the library they come from")
    offered = frozenset(key(x) for x in library.lessons if not x.always)
    value = math.nan if reward is None else float(reward)
    return Seen(group, value, offered, offered & {key(x) for x in shown.lessons}, row)


def estimate(seen: Sequence[Seen]) -> dict[str, Effect]:
    """
    The effect of each lesson that was offered, by key, in whatever order the rollouts come.

    Rewards and inclusion are centred within groups; the effects are the coefficients of a least-squares fit of one on
    the other. That is a regression with a dummy for each group (Frisch and Waugh 1933). Standard errors are clustered
    by row, since a result must carry over to new rows; t has as many degrees of freedom as there are rows in
    which the lesson varied, less one. Inverse-probability weighting is unbiased too, but lets the difficulty of
    the questions into the interval.

    All lessons are fitted together where there are at least `JOINT` rollouts beyond the groups' means for each. With
    fewer, a joint fit spends them on telling lessons apart, and each is fitted alone: the others were drawn
    independently of it, so that they add noise and no bias. Coverage at 100 rollouts of 30 lessons: 0.96 against
    0.92 for the joint fit. Where rollouts share their subsets, lessons go together by chance, and only the joint fit
    can tell.

    A rollout alone in its group is compared with others alone in theirs that were offered the same lessons. A
    lesson is left out (undecided) where it was now shown and now hidden on fewer than `FEWEST` rows, or always
    went together with others, so that no data can tell them apart.

    No interval is narrower than what may have gone unseen: a change that never happened in n draws can have a chance
    of 3.7 / n. Its size is taken as the largest difference within a group, or 1. So equal rewards give an effect
    of exactly 0 within plus or minus 3.7 / n, where n is the smaller of the rollouts with and without the lesson.
    """
    kept = sorted((each for each in seen if math.isfinite(each.reward)), key=_order)
    keys = sorted(set().union(*(each.offered for each in kept)))
    if not keys:
        return {}
    blocks = _blocks(kept)
    rows = _numbered([each.row or each.group for each in kept])
    rewards = np.array([each.reward for each in kept])
    shown = np.array([[name in each.shown for name in keys] for each in kept])
    hidden = np.array([[name in each.offered for name in keys] for each in kept]) & ~shown
    x, y = _centred(shown, blocks), _centred(rewards[:, None], blocks)[:, 0]
    varied = np.array([len(np.unique(rows[column != 0])) for column in x.T])
    able = np.flatnonzero(varied >= FEWEST)
    spare = len(kept) - len(np.unique(blocks))
    shared = 2 * len({each.shown for each in kept}) < len(kept)
    found = _fit(x[:, able], y, rows, joint=shared or spare >= JOINT * len(able))
    uses, unused, scale = shown.sum(axis=0), hidden.sum(axis=0), _largest(_split(rewards, blocks))
    return {
        keys[k]: _effect(*found[i], int(varied[k]), int(uses[k]), int(unused[k]), scale)
        for i, k in enumerate(able)
        if i in found
    }


def attach(library: Library, seen: Sequence[Seen]) -> Library:
    """The library with the effects that `seen` measures; lessons it does not measure stay as they are."""
    found = estimate(seen)
    return library.with_lessons(replace(x, effect=found.get(key(x), x.effect)) for x in library.lessons)


def prune(
    library: Library, sure: float | Callable[[Lesson], float] = 0.975
) -> tuple[Library, tuple[Dropped, ...]]:
    """
    The library without its harmful lessons, and each harmful lesson with the reason.

    A lesson goes when it is harmful with (one-sided) confidence `sure`; by default when its whole 95 % interval lies
    below zero, which is safe to ask after every step. 0.8 needs a third of the rollouts and loses one useless lesson
    in five: for a single look at many rollouts, where the outcome is then tested as a whole. It may be a function of
    the lesson. Locked lessons are reported and kept. ValueError unless 0.5 <= sure < 1.
    """
    needed = sure if callable(sure) else lambda lesson: sure
    measured = [(x, x.effect, needed(x)) for x in library.lessons if x.effect]
    found = [
        Dropped(x, _reason(effect), x.locked) for x, effect, least in measured if _harmful(effect, least)
    ]
    gone = {each.lesson.id for each in found if not each.kept}
    return library.with_lessons(x for x in library.lessons if x.id not in gone), tuple(found)


def undecided(library: Library, most: int) -> tuple[Lesson, ...]:
    """
    At most `most` lessons where one more measurement decides something, the worst first.

    Those are lessons with an estimate below zero and an interval that reaches above it, then unmeasured ones. Locked
    lessons are none of them: no measurement removes them.
    """
    free = [x for x in library.lessons if not x.locked]
    doubtful = [x for x in free if x.effect and x.effect.estimate < 0 <= x.effect.high]
    doubtful.sort(key=lambda x: x.effect.estimate if x.effect else 0.0)
    return tuple([*doubtful, *(x for x in free if x.effect is None)][: max(most, 0)])


def left_out(with_it: Samples, without: Samples) -> Effect:
    """
    The effect of a lesson from rewards with the whole library and with all of it but this lesson.

    Both are (E, K): the same rows and seeds in both, so differences are paired by row (see
    `toolkit.evaluation.statistics.paired_difference`). ValueError for different rows or fewer than two of them.
    """
    if len(with_it) == 1:
        raise ValueError("one row says nothing of others: leave a lesson out on at least two rows")
    found = paired_difference(without, with_it)
    uses, unused = (sum(map(len, arm)) for arm in (with_it, without))
    scale = _largest([*a, *b] for a, b in zip(with_it, without, strict=True))
    least = UNSEEN * scale / min(uses, unused)
    low, high = min(found.low, found.estimate - least), max(found.high, found.estimate + least)
    return Effect(found.estimate, low, high, uses, unused)


def together(one: Effect | None, other: Effect) -> Effect:
    """Two measurements of one lesson as one, each weighted by the inverse of its interval's squared width."""
    if one is None:
        return other
    weights = [1 / (x.high - x.low) ** 2 for x in (one, other)]
    estimate = (weights[0] * one.estimate + weights[1] * other.estimate) / sum(weights)
    half = 0.5 / math.sqrt(sum(weights))
    return Effect(
        estimate, estimate - half, estimate + half, one.uses + other.uses, one.unused + other.unused
    )


def _order(each: Seen) -> tuple[object, ...]:
    """Floats are summed in one order, so that the result does not depend on which rollout was done first."""
    return each.group, each.row, each.reward, sorted(each.shown), sorted(each.offered)


def _blocks(seen: Sequence[Seen]) -> NDArray[np.intp]:
    """(N,) who is compared with whom: groups, and all rollouts alone in their group with the same offer."""
    groups = [(each.group, each.offered) for each in seen]
    sizes = Counter(groups)
    return _numbered([group if sizes[group] > 1 else group[1] for group in groups])


def _numbered(names: Sequence[Hashable]) -> NDArray[np.intp]:
    """(N,) each name as a number, in order of first appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def _split(values: Array, blocks: NDArray[np.intp]) -> list[Array]:
    """The values of each block."""
    order = np.argsort(blocks, kind="stable")
    return np.split(values[order], np.flatnonzero(np.diff(blocks[order])) + 1)


def _centred(values: NDArray[Any], blocks: NDArray[np.intp]) -> Array:
    """(N, K) less the means of each block; exactly zero where a block's values are all equal."""
    import pandas as pd

    frame = pd.DataFrame(values.astype(float))
    grouped = frame.groupby(blocks)
    same = grouped.transform("max") == grouped.transform("min")
    return (frame - grouped.transform("mean")).mask(same, 0.0).to_numpy()


def _fit(x: Array, y: Array, rows: NDArray[np.intp], *, joint: bool) -> dict[int, tuple[float, float]]:
    """Coefficient of y on each column of x and its standard error; none where columns can't be told apart."""
    from scipy.linalg import orth
    from statsmodels.regression.linear_model import OLS

    if x.shape[1] == 0:
        return {}
    tangled = _tangled(x) if joint else _twins(x)
    apart = np.flatnonzero(~tangled)
    # What tangled columns explain together is taken out, whichever of them it belongs to.
    rest = [orth(x[:, tangled])] if tangled.any() else []
    parts = [np.hstack([x[:, apart], *rest])] if joint else [x[:, [k]] for k in apart]
    fits = [OLS(y, part).fit(cov_type="cluster", cov_kwds={"groups": rows}) for part in parts]
    found = [pair for fit in fits for pair in zip(fit.params, fit.bse, strict=True)]
    return {int(k): (float(effect), float(error)) for k, (effect, error) in zip(apart, found, strict=False)}


def _tangled(x: Array) -> NDArray[np.bool_]:
    """(K,) whether a column is a sum of others: it then has a part in the null space."""
    sizes, vectors = np.linalg.eigh(x.T @ x)
    return np.abs(vectors[:, sizes < 1e-9 * sizes.max()]).max(axis=1, initial=0.0) > 1e-6


def _twins(x: Array) -> NDArray[np.bool_]:
    """(K,) whether a column is the same as another one, or its opposite."""
    unit = x / np.linalg.norm(x, axis=0)
    return (np.abs(unit.T @ unit) > 1 - 1e-9).sum(axis=0) > 1


def _effect(effect: float, error: float, rows: int, uses: int, unused: int, scale: float) -> Effect:
    from scipy.special import stdtrit

    half = max(float(stdtrit(rows - 1, 0.975)) * error, UNSEEN * scale / min(uses, unused))
    return Effect(effect, effect - half, effect + half, uses, unused)


def _largest(groups: Iterable[Sequence[float] | Array]) -> float:
    """The largest change of reward within a group; 1 where there is none."""
    return max(float(np.ptp(rewards)) for rewards in groups) or 1.0


def _harmful(effect: Effect, sure: float) -> bool:
    """Whether the one-sided bound at confidence `sure`, scaled from that of the 95 % interval, is below 0."""
    if not 0.5 <= sure < 1:
        raise ValueError(f"the confidence that a lesson is harmful is {sure}; it must be from 0.5 to below 1")
    narrowed = NormalDist().inv_cdf(sure) / NormalDist().inv_cdf(0.975)
    return effect.estimate + narrowed * (effect.high - effect.estimate) < 0


def _reason(effect: Effect) -> str:
    return (
        f"lowers the reward by {-effect.estimate:.2f} [{effect.low:+.2f}, {effect.high:+.2f}] "
        f"over {effect.uses + effect.unused:,} rollouts"
    )
