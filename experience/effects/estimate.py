"""
Effect of each lesson on the reward, estimated from rollouts that training pays for anyway.

Each rollout's prompt holds a random subset of the lessons (`sample_subset`), so that the rollouts of one group differ
in their lessons and in nothing else. `estimate_effects` compares them within their group: question, step and the rest
of the library drop out. The effect of a lesson is the mean change in reward that showing it makes on the rows where
it was a candidate, while the other lessons come and go as they did.

A lesson that costs reward is dropped by its own 95 % interval (`prune`), without a correction for the number of
lessons. Such a correction guards against dropping one useless lesson too many, which costs nothing, and keeps harmful
ones; a useful lesson would have to look harmful against its own true effect, which next to never happens
(bench/effect.py prints this rule beside Holm's and Benjamini and Hochberg's).

Model: y_i = a_b(i) + sum_k beta_k t_ik + e_i, with the reward y of rollout i, its block b, and t_ik = 1 where the
prompt held lesson k. As t is drawn at random, beta_k is the difference of the mean rewards with and without the
lesson. Rewards and treatments are centred within blocks and fitted by least squares: the same as a dummy for
each block (Frisch and Waugh 1933). Inverse-probability weighting is unbiased too, but lets the difficulty of the
questions into the interval.

Standard errors are clustered by row, since a result must carry over to new rows; t has as many degrees of freedom
as there are rows in which the lesson varied, less one.

All lessons are fitted together where there are at least `MIN_SPARE` rollouts beyond the blocks' means for each.
With fewer, a joint fit spends them on telling lessons apart, and each is fitted alone: the others were drawn
independently of it, so that they add noise and no bias. Coverage at 100 rollouts of 30 lessons: 0.96 against
0.92 for the joint fit. Where rollouts share their subsets, lessons go together by chance, and only the joint fit
can tell.

A lesson is left out (undecided) where it was now shown and now hidden on fewer than `MIN_ROWS` rows, or always
went together with others, so that no data can tell them apart.

No interval is narrower than what may have gone unseen: a change that never happened in n draws can have a chance
of `MISS_BOUND` / n. Its size is taken as the largest difference within a block, or 1. So equal rewards give an
effect of exactly 0 within plus or minus 3.7 / n, where n is the smaller of the rollouts with and without the
lesson.

N rollouts, K lessons.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgewise.experience.effects.exposure import Exposure, measurement_key
from edgewise.experience.library.library import Effect, Library

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]

MIN_ROWS = 8
"""Rows on which a lesson must have been both shown and hidden."""
MIN_SPARE = 4
"""Rollouts beyond one for each block that a joint fit needs for each lesson."""
MISS_BOUND = -math.log(0.025)
"""
An event of probability p is missed in n draws with probability (1 - p)^n < exp(-p n), which is 0.025 at p = 3.69 / n.
"""


def estimate_effects(exposures: Sequence[Exposure]) -> dict[str, Effect]:
    """
    Estimate the effect of each candidate lesson, by measurement key; the order of the exposures does not matter.

    Effects are in units of the reward. Lessons that stay undecided are left out.
    """
    import pandas as pd
    from scipy.special import stdtrit

    # One order, since the last digits of a sum depend on it: which rollout ended first must not matter.
    rollouts = sorted(
        (rollout for rollout in exposures if math.isfinite(rollout.reward)),
        key=lambda rollout: (
            rollout.group,
            rollout.row,
            rollout.reward,
            sorted(rollout.treatment),
            sorted(rollout.candidates),
        ),
    )
    keys = sorted(set().union(*(rollout.candidates for rollout in rollouts)))
    if not keys:
        return {}
    rewards = np.array([rollout.reward for rollout in rollouts])  # [N]
    treatment = np.array([[key in rollout.treatment for key in keys] for rollout in rollouts])  # [N, K]
    control = np.array([[key in rollout.candidates for key in keys] for rollout in rollouts]) & ~treatment

    # Blocks are groups; rollouts alone in their group are compared with others alone under the same candidates.
    groups = [(rollout.group, rollout.candidates) for rollout in rollouts]
    sizes = Counter(groups)
    blocks = _number([group if sizes[group] > 1 else group[1] for group in groups])
    rows = _number([rollout.row or rollout.group for rollout in rollouts])

    # Centring; exactly zero where a block's values are all equal, so that rounding is not taken for variation.
    frame = pd.DataFrame(treatment.astype(float)).assign(reward=rewards)
    by_block = frame.groupby(blocks)
    highest, lowest = (by_block.transform(name).to_numpy() for name in ("max", "min"))
    ranges = highest - lowest  # [N, K + 1], the reward last
    centred = (frame - by_block.transform("mean")).mask(ranges == 0, 0.0).to_numpy()
    x, y = centred[:, :-1], centred[:, -1]

    # Rows on which each lesson varied within a block, and rollouts beyond the blocks' means.
    varied_rows = np.array([len(np.unique(rows[column != 0])) for column in x.T])
    columns = np.flatnonzero(varied_rows >= MIN_ROWS)
    spare = len(rollouts) - len(np.unique(blocks))
    share_subsets = 2 * len({rollout.treatment for rollout in rollouts}) < len(rollouts)
    fits = _fit(x[:, columns], y, rows, is_joint=share_subsets or spare >= MIN_SPARE * len(columns))

    # Half the interval: t times the standard error, or what may have gone unseen.
    largest = float(ranges[:, -1].max()) or 1.0
    effects = {}
    for position, (effect, error) in fits.items():
        k = columns[position]
        uses, unused = int(treatment[:, k].sum()), int(control[:, k].sum())
        t = float(stdtrit(int(varied_rows[k]) - 1, 0.975))
        half = max(t * error, MISS_BOUND * largest / min(uses, unused))
        effects[keys[k]] = Effect(effect, effect - half, effect + half, uses, unused)
    return effects


def attach_effects(library: Library, exposures: Sequence[Exposure]) -> Library:
    """Return the library with the effects that the exposures measure; other lessons stay as they are."""
    effects = estimate_effects(exposures)
    return library.with_lessons(replace(x, effect=effects.get(measurement_key(x), x.effect)) for x in library.lessons)


def _number(names: Sequence[Hashable]) -> Integers:
    """Return each name as a number, in order of first appearance: [N]."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def _fit(x: Floats, y: Floats, rows: Integers, *, is_joint: bool) -> dict[int, tuple[float, float]]:
    """
    Regress y [N] on the columns of x [N, K]: coefficient and clustered standard error by column.

    Columns that can't be told from others have no coefficient and are left out.
    """
    from scipy.linalg import orth
    from statsmodels.regression.linear_model import OLS

    if x.shape[1] == 0:
        return {}
    if is_joint:
        # A column that is a sum of others has a part in the null space of x'x.
        eigenvalues, eigenvectors = np.linalg.eigh(x.T @ x)
        null_space = eigenvectors[:, eigenvalues < 1e-9 * eigenvalues.max()]
        is_tangled = np.abs(null_space).max(axis=1, initial=0.0) > 1e-6  # [K]
        columns = np.flatnonzero(~is_tangled)
        # Tangled columns stay in the fit by what they span, whichever of them the change belongs to.
        span = [orth(x[:, is_tangled])] if is_tangled.any() else []
        designs = [np.hstack([x[:, columns], *span])]
    else:
        # By itself a column is mistaken only for one that is equal, or its opposite: a correlation of 1 or -1.
        unit = x / np.linalg.norm(x, axis=0)
        is_twin = (np.abs(unit.T @ unit) > 1 - 1e-9).sum(axis=0) > 1
        columns = np.flatnonzero(~is_twin)
        designs = [x[:, [k]] for k in columns]

    # V = (x'x)^-1 (sum_g x_g' e_g e_g' x_g) (x'x)^-1 over rows g, with the usual correction for few rows.
    fits = [OLS(y, design).fit(cov_type="cluster", cov_kwds={"groups": rows}) for design in designs]
    pairs = [(float(b), float(se)) for fit in fits for b, se in zip(fit.params, fit.bse, strict=True)]
    return dict(zip(map(int, columns), pairs, strict=False))  # without those of the span, which come last
