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

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.experience.effects.exposure import Exposure, measurement_key
from edgewise.experience.library.library import Effect, Library

Array = NDArray[np.float64]
FEWEST = 8
JOINT = 4
UNSEEN = -math.log(0.025)


def estimate_effects(seen: Sequence[Exposure]) -> dict[str, Effect]:
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
    keys = sorted(set().union(*(each.candidates for each in kept)))
    if not keys:
        return {}
    blocks = _blocks(kept)
    rows = _numbered([each.row or each.group for each in kept])
    rewards = np.array([each.reward for each in kept])
    shown = np.array([[name in each.treatment for name in keys] for each in kept])
    hidden = np.array([[name in each.candidates for name in keys] for each in kept]) & ~shown
    x, y = _centred(shown, blocks), _centred(rewards[:, None], blocks)[:, 0]
    varied = np.array([len(np.unique(rows[column != 0])) for column in x.T])
    able = np.flatnonzero(varied >= FEWEST)
    spare = len(kept) - len(np.unique(blocks))
    shared = 2 * len({each.treatment for each in kept}) < len(kept)
    found = _fit(x[:, able], y, rows, joint=shared or spare >= JOINT * len(able))
    uses, unused, scale = shown.sum(axis=0), hidden.sum(axis=0), _largest(_split(rewards, blocks))
    return {
        keys[k]: _effect(*found[i], int(varied[k]), int(uses[k]), int(unused[k]), scale)
        for i, k in enumerate(able)
        if i in found
    }


def attach_effects(library: Library, seen: Sequence[Exposure]) -> Library:
    """The library with the effects that `seen` measures; lessons it does not measure stay as they are."""
    found = estimate_effects(seen)
    return library.with_lessons(replace(x, effect=found.get(measurement_key(x), x.effect)) for x in library.lessons)


def _order(each: Exposure) -> tuple[object, ...]:
    """Floats are summed in one order, so that the result does not depend on which rollout was done first."""
    return each.group, each.row, each.reward, sorted(each.treatment), sorted(each.candidates)


def _blocks(seen: Sequence[Exposure]) -> NDArray[np.intp]:
    """(N,) who is compared with whom: groups, and all rollouts alone in their group with the same offer."""
    groups = [(each.group, each.candidates) for each in seen]
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
