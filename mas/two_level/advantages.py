"""
Rewards and advantages at two levels: a planner's runs ("main") and its sub-agents' runs ("sub").

M-GRPO (arXiv 2511.13288), equations of its method section:

    R_M = 0.1 format + 0.9 correct                           if the output is valid, else 0
    R_S = 0.1 format + 0.4 correct of main + 0.5 expert      if the output is valid, else 0
    advantage = (R - mean) / std, over the K main runs of a query, and over all its sub runs after alignment

An output that is not valid (no answer, out of turns) has reward 0 and counts. A run that broke, or that its grader
could not grade, has no reward: it counts nowhere, and its advantage is 0. Without a reward of the main run, its
sub runs have none either.

A planner calls sub-agents d_k times in run k, so runs with many calls would weigh more. Alignment gives each sub run a
weight in the mean and the standard deviation, after which every main run that has any counts the same:

    exact    1 / d_k, no noise
    copied   the paper's: up to D at random copies, or all but D dropped at random; the weight is the number of copies
    even     none (the ablation): every sub run counts 1

K main runs of a query, S sub runs of all of them, d_k sub runs of main run k.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgewise.mas.two_level.delegation import SUB, DelegationSpec, Order, orders, part, sub_runs
from edgewise.toolkit.reward.reward import Reward
from edgewise.toolkit.rollout.tool_calls import UNREADABLE
from edgewise.toolkit.types import Example, Group, Plan, Rollout, Score

MAIN = "main"
SHARE = 0.99

Array = NDArray[np.float64]
Parents = NDArray[np.int64]
Align = Callable[[Parents, int], Array]
"""(S,) index of each sub run's main run, and a seed -> (S,) weights."""
Skipped = Literal["", "no calls", "no rewards", "invalid", "equal"]
"""
Why a group has no advantages: nobody was called; no run has a reward; no output is valid; all rewards are equal.
"""


# ---- rewards ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Balance:
    """
    Weights of the parts of a reward, as in the paper.

    `main`: format, correctness. `sub`: format, correctness of the main run, expert.
    """

    main: tuple[float, float] = (0.1, 0.9)
    sub: tuple[float, float, float] = (0.1, 0.4, 0.5)


def main_score(correct: float, form: float, *, valid: bool = True, balance: Balance | None = None) -> Score:
    """R_M, with its parts."""
    return _gated((balance or Balance()).main, {"format": form, "correct": correct}, valid)


def sub_score(
    main_correct: float, expert: float, form: float, *, valid: bool = True, balance: Balance | None = None
) -> Score:
    """R_S, with its parts."""
    parts = {"format": form, "main_correct": main_correct, "expert": expert}
    return _gated((balance or Balance()).sub, parts, valid)


def _gated(weights: Sequence[float], parts: dict[str, float], valid: bool) -> Score:
    value = math.fsum(w * x for w, x in zip(weights, parts.values(), strict=True)) if valid else 0.0
    return Score(value, {**parts, "valid": float(valid)})


def answered(run: Rollout) -> bool:
    """The validity gate: the run ended with an answer."""
    return not run.failed and run.stop != "turns" and bool(run.answer.strip())


def well_formed(run: Rollout) -> float:
    """The format reward: 1 if the run ended by itself, not by a length limit, and each call in words was readable."""
    calls = [call.name for step in run.steps for call in step.completion.tool_calls]
    return float(run.stop == "stop" and UNREADABLE not in calls)


@dataclass(frozen=True, slots=True)
class Grading:
    """
    How runs are graded: the task's reward for the main run, and an expert for each sub run.

    `expert` sees the sub-task as the question (`mas.two_level.delegation.part`); its value should lie between 0 and 1. Without one,
    sub runs are not graded. `judge` is the model that either may ask. `form` gives the format part of a run.
    """

    correct: Reward
    expert: Reward | None
    judge: str
    terms: DelegationSpec
    balance: Balance = Balance()
    form: Callable[[Rollout], float] = well_formed


def graded(grading: Grading, example: Example, run: Rollout) -> Plan[Rollout]:
    """The run with R_M as its score, and each of its sub runs with R_S as theirs."""
    score = yield from _main(grading, example, run)
    if not score.valid or grading.expert is None:
        return replace(run, score=score)
    pairs = zip(sub_runs(run), orders(run, grading.terms), strict=True)
    correct = score.parts["correct"]
    found = iter((yield [_sub(grading, grading.expert, example, *pair, correct) for pair in pairs]))
    steps = tuple(replace(s, calls=tuple(replace(c, score=next(found)) for c in s.subrollouts)) for s in run.steps)
    return replace(run, steps=steps, score=score)


def _main(grading: Grading, example: Example, run: Rollout) -> Plan[Score]:
    if not run.failed and not answered(run):
        gated = main_score(0.0, 0.0, valid=False, balance=grading.balance)
        return replace(gated, feedback=f"no answer ({run.stop})")
    found = yield from grading.correct.grade(example, run, grading.judge)
    if not found.valid:
        return found
    score = main_score(found.value, grading.form(run), balance=grading.balance)
    return replace(score, feedback=_why("correct", found))


def _sub(
    grading: Grading, expert: Reward, example: Example, run: Rollout, order: Order, main_correct: float
) -> Plan[Score]:
    if not run.failed and not answered(run):
        gated = sub_score(main_correct, 0.0, 0.0, valid=False, balance=grading.balance)
        return replace(gated, feedback=f"no answer ({run.stop})")
    found = yield from expert.grade(part(example, order.task), run, grading.judge)
    if not found.valid:
        return found
    score = sub_score(main_correct, found.value, grading.form(run), balance=grading.balance)
    return replace(score, feedback=_why("by itself", found))


def _why(name: str, score: Score) -> str:
    return f"{name} {score.value:g}" + (f": {score.feedback}" if score.feedback else "")


# ---- alignment -------------------------------------------------------------------------------------


def depth(sizes: ArrayLike, share: float = SHARE) -> int:
    """D: the smallest number that at least `share` of the main runs with sizes d_k (K,) do not exceed; at least 1."""
    ordered = np.sort(np.asarray(sizes, np.int64))
    if not len(ordered):
        return 1
    # 0.99 * 100 must be 99, whatever rounding makes of it.
    return max(1, int(ordered[math.ceil(round(share * len(ordered), 9)) - 1]))


def exact(parents: Parents, seed: int = 0) -> Array:
    """(S,) weights 1 / d_k: the mass of each main run is 1."""
    return 1.0 / np.bincount(parents)[parents] if len(parents) else np.zeros(0)


def even(parents: Parents, seed: int = 0) -> Array:
    """(S,) ones: a main run counts as often as it called."""
    return np.ones(len(parents))


def copied(parents: Parents, seed: int, depth: int) -> Array:
    """
    (S,) how often each sub run is there after alignment to `depth`: whole numbers that add up to D for each main run.

    Where d_k < D, D - d_k of its sub runs, drawn with replacement, are copied; where d_k > D, d_k - D of them, drawn
    without, are dropped (weight 0). On average that is D / d_k for each.
    """
    rng = np.random.default_rng(seed)
    copies = np.zeros(len(parents))
    for parent in np.unique(parents):
        mine = np.flatnonzero(parents == parent)
        if len(mine) > depth:
            copies[rng.choice(mine, depth, replace=False)] = 1
        else:
            copies[mine] = 1
            np.add.at(copies, rng.choice(mine, depth - len(mine)), 1)
    return copies


# ---- advantages ------------------------------------------------------------------------------------


def standardised(rewards: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """
    (N,) advantages (R - mean) / std with a weighted mean and (population) standard deviation.

    Rewards that are NaN and rewards of weight 0 take no part and have advantage 0. Where those that take part are
    all equal, every advantage is exactly 0. Sums are exact, so the order of the members changes nothing.
    """
    r = np.asarray(rewards, np.float64)
    w = np.ones(len(r)) if weights is None else np.asarray(weights, np.float64)
    part = np.isfinite(r) & (w > 0)
    result = np.zeros(len(r))
    if not part.any() or np.ptp(r[part]) == 0:
        return result
    # From 0 to 1, so that differences too small to be squared still count.
    scaled, mass = (r[part] - r[part].min()) / np.ptp(r[part]), math.fsum(w[part])
    centred = scaled - math.fsum(w[part] * scaled) / mass
    result[part] = centred / math.sqrt(math.fsum(w[part] * centred**2) / mass)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """
    The runs of one query at one level, and what they are worth against each other.

    `group` has the role "main" or "sub", whatever the roles of its members are named. `advantages` (N,) and `parents`
    (N,), the index of the main run that each belongs to, are in the order of its members. `skipped` says why
    there is nothing to learn; all advantages are 0 then.
    """

    group: Group
    parents: Parents
    advantages: Array
    skipped: Skipped

    @property
    def rewards(self) -> Array:
        """(N,) rewards, NaN where there is none."""
        return _rewards(self.group.rollouts)

    def to_json(self) -> dict[str, Any]:
        """Plain data; a reward that is not there is None."""
        return {
            "rewards": [None if math.isnan(reward) else reward for reward in self.rewards.tolist()],
            "advantages": self.advantages.tolist(),
            "parents": self.parents.tolist(),
            "skipped": self.skipped,
        }


def two_levels(example: Example, runs: Sequence[Rollout], align: Align, seed: int) -> tuple[Level, Level]:
    """The main level and the sub level of a query's K graded runs."""
    subs = [(parent, each) for parent, run in enumerate(runs) for each in sub_runs(run)]
    parents = np.array([parent for parent, _ in subs], np.int64)
    below = [each for _, each in subs]
    rewarded = np.isfinite(_rewards(below))
    weights = np.zeros(len(below))
    weights[rewarded] = align(parents[rewarded], seed)
    main = _level(Group(example, MAIN, tuple(runs)), np.arange(len(runs)), np.ones(len(runs)))
    return main, _level(Group(example, SUB, tuple(below)), parents, weights)


def _level(group: Group, parents: Parents, weights: Array) -> Level:
    found = standardised(_rewards(group.rollouts), weights)
    return Level(group, parents, found, "" if found.any() else _reason(group))


def _reason(group: Group) -> Skipped:
    if not group.rollouts:
        return "no calls"
    if not group.rewards:
        return "no rewards"
    scores = [run.score for run in group.rollouts if run.score and run.score.valid]
    return "equal" if any(score.parts.get("valid", 1.0) for score in scores) else "invalid"


def _rewards(runs: Sequence[Rollout]) -> Array:
    return np.array([run.score.value if run.score and run.score.valid else np.nan for run in runs])
