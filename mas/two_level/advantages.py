"""
Rewards and advantages at two levels: a planner's rollouts ("main") and its sub-agents' rollouts ("sub").

M-GRPO (arXiv 2511.13288), equations of its method section:

    R_M = 0.1 format + 0.9 correct                           if the output is valid, else 0
    R_S = 0.1 format + 0.4 correct of main + 0.5 expert      if the output is valid, else 0
    A = (R - mean) / std, over the K main rollouts of a query, and over all its sub rollouts after alignment

An output that is not valid (no answer, out of turns) has reward 0 and counts. A rollout that failed, or that its
grader could not grade, has no reward: it counts nowhere, and its advantage is 0. Without a reward of the main
rollout, its sub rollouts have none either.

A planner calls sub-agents d_k times in rollout k, so rollouts with many calls would weigh more. Alignment gives each
sub rollout a weight in the mean and the standard deviation, after which every main rollout that has any counts the
same:

    inverse    1 / d_k, without noise
    copies     the paper's: up to D at random copies, or all but D dropped at random; the weight is the number of copies
    equal      none (the ablation): every sub rollout counts 1

K main rollouts of a query, S sub rollouts of all of them, d_k sub rollouts of main rollout k.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgewise.mas.two_level.delegation import SUB, DelegationSpec, Subtask, read_subtasks, sub_rollouts, subtask_example
from edgewise.toolkit.reward.reward import Reward
from edgewise.toolkit.rollout.tool_calls import UNREADABLE
from edgewise.toolkit.types import Example, Group, Plan, Rollout, Score

MAIN = "main"
DEPTH_QUANTILE = 0.99

Array = NDArray[np.float64]
Parents = NDArray[np.int64]
Align = Callable[[Parents, int], Array]
"""(S,) index of each sub rollout's main rollout, and a seed -> (S,) weights."""
SkipReason = Literal["", "no calls", "no rewards", "invalid", "equal"]
"""
Why a group has no advantages: nobody was called; no rollout has a reward; no output is valid; all rewards are equal.
"""


# ---- rewards ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LevelWeights:
    """
    Weights of the parts of a reward, as in the paper.

    `main`: format, correctness. `sub`: format, correctness of the main rollout, expert.
    """

    main: tuple[float, float] = (0.1, 0.9)
    sub: tuple[float, float, float] = (0.1, 0.4, 0.5)


PAPER_WEIGHTS = LevelWeights()


def main_score(
    correct: float, format_value: float, *, valid: bool = True, weights: LevelWeights = PAPER_WEIGHTS
) -> Score:
    """Return R_M with its parts, all in [0, 1]."""
    return _weigh_parts(weights.main, {"format": format_value, "correct": correct}, valid)


def sub_score(
    main_correct: float,
    expert: float,
    format_value: float,
    *,
    valid: bool = True,
    weights: LevelWeights = PAPER_WEIGHTS,
) -> Score:
    """Return R_S with its parts, all in [0, 1]."""
    parts = {"format": format_value, "main_correct": main_correct, "expert": expert}
    return _weigh_parts(weights.sub, parts, valid)


def _weigh_parts(weights: Sequence[float], parts: dict[str, float], valid: bool) -> Score:
    value = math.fsum(w * part for w, part in zip(weights, parts.values(), strict=True)) if valid else 0.0
    return Score(value, {**parts, "valid": float(valid)})


def has_answer(rollout: Rollout) -> bool:
    """Return whether the rollout ended with an answer: the paper's validity gate."""
    return not rollout.failed and rollout.stop != "turns" and bool(rollout.answer.strip())


def format_reward(rollout: Rollout) -> float:
    """Return 1.0 if the rollout ended by itself, not by a length limit, and each call written as text was readable."""
    calls = [call.name for step in rollout.steps for call in step.completion.tool_calls]
    return float(rollout.stop == "stop" and UNREADABLE not in calls)


@dataclass(frozen=True, slots=True)
class Grading:
    """
    How rollouts are graded: the task's reward for the main rollout, and an expert for each sub rollout.

    `expert` receives the sub-task as the question; its value should lie in [0, 1]. Without one, sub rollouts are not
    graded. `judge` is the model that either may ask. `format_part` gives the format part of a rollout.
    """

    correct: Reward
    expert: Reward | None
    judge: str
    delegation: DelegationSpec
    weights: LevelWeights = PAPER_WEIGHTS
    format_part: Callable[[Rollout], float] = format_reward


def grade_rollout(grading: Grading, example: Example, rollout: Rollout) -> Plan[Rollout]:
    """Return the rollout with R_M as its score, and each of its sub rollouts with R_S as theirs."""
    # The main rollout: no answer is reward 0, no grade is no reward.
    if not rollout.failed and not has_answer(rollout):
        score = main_score(0.0, 0.0, valid=False, weights=grading.weights)
        score = replace(score, feedback=f"no answer ({rollout.stop})")
    else:
        grade = yield from grading.correct.grade(example, rollout, grading.judge)
        if not grade.valid:
            return replace(rollout, score=grade)
        score = main_score(grade.value, grading.format_part(rollout), weights=grading.weights)
        score = replace(score, feedback=_explain("correct", grade))
    if grading.expert is None:
        return replace(rollout, score=score)

    # Its sub rollouts, which share its correctness.
    subtasks = read_subtasks(rollout, grading.delegation)
    correct = score.parts["correct"]
    pairs = zip(sub_rollouts(rollout), subtasks, strict=True)
    scores = iter((yield [_grade_sub(grading, grading.expert, example, *pair, correct) for pair in pairs]))
    steps = tuple(
        replace(step, subrollouts=tuple(replace(sub, score=next(scores)) for sub in step.subrollouts))
        for step in rollout.steps
    )
    return replace(rollout, steps=steps, score=score)


def _grade_sub(
    grading: Grading, expert: Reward, example: Example, sub: Rollout, subtask: Subtask, main_correct: float
) -> Plan[Score]:
    if not sub.failed and not has_answer(sub):
        score = sub_score(main_correct, 0.0, 0.0, valid=False, weights=grading.weights)
        return replace(score, feedback=f"no answer ({sub.stop})")
    grade = yield from expert.grade(subtask_example(example, subtask.task), sub, grading.judge)
    if not grade.valid:
        return grade
    score = sub_score(main_correct, grade.value, grading.format_part(sub), weights=grading.weights)
    return replace(score, feedback=_explain("by itself", grade))


def _explain(name: str, grade: Score) -> str:
    return f"{name} {grade.value:g}" + (f": {grade.feedback}" if grade.feedback else "")


# ---- alignment -------------------------------------------------------------------------------------


def alignment_depth(call_counts: ArrayLike, share: float = DEPTH_QUANTILE) -> int:
    """Return D >= 1: the smallest number that at least `share` of the main rollouts' d_k (K,) do not exceed."""
    ordered = np.sort(np.asarray(call_counts, np.int64))
    if not len(ordered):
        return 1
    # Rounded first: 0.99 * 100 must be 99, whatever floating point makes of it.
    return max(1, int(ordered[math.ceil(round(share * len(ordered), 9)) - 1]))


def inverse_weights(parents: Parents, seed: int = 0) -> Array:
    """Return (S,) weights 1 / d_k: the mass of each main rollout is 1."""
    return 1.0 / np.bincount(parents)[parents] if len(parents) else np.zeros(0)


def equal_weights(parents: Parents, seed: int = 0) -> Array:
    """Return (S,) ones: a main rollout counts as often as it called."""
    return np.ones(len(parents))


def copy_weights(parents: Parents, seed: int, depth: int) -> Array:
    """
    Return (S,) copies of each sub rollout after alignment to `depth`: whole numbers with sum D per main rollout.

    Where d_k < D, D - d_k of its sub rollouts, drawn with replacement, are copied; where d_k > D, d_k - D of them,
    drawn without, are dropped (weight 0). The expected weight of each is D / d_k.
    """
    rng = np.random.default_rng(seed)
    copies = np.zeros(len(parents))
    for parent in np.unique(parents):
        members = np.flatnonzero(parents == parent)
        if len(members) > depth:
            copies[rng.choice(members, depth, replace=False)] = 1
        else:
            copies[members] = 1
            np.add.at(copies, rng.choice(members, depth - len(members)), 1)
    return copies


# ---- advantages ------------------------------------------------------------------------------------


def standardise(rewards: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """
    Return (N,) advantages (R - mean) / std with a weighted mean and (population) standard deviation.

    Rewards that are NaN and rewards of weight 0 take no part and have advantage 0. Where those that take part are all
    equal, every advantage is exactly 0. Sums are exact (`math.fsum`), so the order of the members changes nothing.
    """
    r = np.asarray(rewards, np.float64)
    w = np.ones(len(r)) if weights is None else np.asarray(weights, np.float64)
    counts = np.isfinite(r) & (w > 0)
    advantages = np.zeros(len(r))
    if not counts.any() or np.ptp(r[counts]) == 0:
        return advantages

    # Scaled to [0, 1] first, so that differences too small to be squared still count.
    scaled, mass = (r[counts] - r[counts].min()) / np.ptp(r[counts]), math.fsum(w[counts])
    centred = scaled - math.fsum(w[counts] * scaled) / mass
    advantages[counts] = centred / math.sqrt(math.fsum(w[counts] * centred**2) / mass)
    return advantages


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """
    The rollouts of one query at one level, and their advantages.

    `group` has the role "main" or "sub", whatever the roles of its rollouts are named. `advantages` (N,) and
    `parents` (N,), the index of the main rollout that each belongs to, are in the order of its rollouts. `skipped`
    says why there is nothing to learn; all advantages are 0 then.
    """

    group: Group
    parents: Parents
    advantages: Array
    skipped: SkipReason

    @property
    def rewards(self) -> Array:
        """(N,) rewards, NaN where there is none."""
        return _rewards(self.group.rollouts)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; a reward that is not there is None."""
        return {
            "rewards": [None if math.isnan(reward) else reward for reward in self.rewards.tolist()],
            "advantages": self.advantages.tolist(),
            "parents": self.parents.tolist(),
            "skipped": self.skipped,
        }


def build_levels(example: Example, rollouts: Sequence[Rollout], align: Align, seed: int) -> tuple[Level, Level]:
    """Return the main level and the sub level of a query's K graded rollouts."""
    pairs = [(parent, sub) for parent, main in enumerate(rollouts) for sub in sub_rollouts(main)]
    parents = np.array([parent for parent, _ in pairs], np.int64)
    subs = [sub for _, sub in pairs]

    # Alignment is over sub rollouts with a reward: others count nowhere.
    rewarded = np.isfinite(_rewards(subs))
    weights = np.zeros(len(subs))
    weights[rewarded] = align(parents[rewarded], seed)
    main = _level(Group(example, MAIN, tuple(rollouts)), np.arange(len(rollouts)), np.ones(len(rollouts)))
    return main, _level(Group(example, SUB, tuple(subs)), parents, weights)


def _level(group: Group, parents: Parents, weights: Array) -> Level:
    advantages = standardise(_rewards(group.rollouts), weights)
    if advantages.any():
        return Level(group, parents, advantages, "")

    scores = [rollout.score for rollout in group.rollouts if rollout.score and rollout.score.valid]
    if not group.rollouts:
        reason: SkipReason = "no calls"
    elif not scores:
        reason = "no rewards"
    else:
        reason = "equal" if any(score.parts.get("valid", 1.0) for score in scores) else "invalid"
    return Level(group, parents, advantages, reason)


def _rewards(rollouts: Sequence[Rollout]) -> Array:
    scores = [rollout.score for rollout in rollouts]
    return np.array([score.value if score and score.valid else np.nan for score in scores])
