"""
Rewards: graders of rollouts, and how a task names one.

`resolve_reward` makes a `Reward` of a task's setting: the name of a built-in (`toolkit.reward.graders`), a table of its
options, a function in any style that `toolkit.reward.adapters` recognises, or a weighted list.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgewise.toolkit.errors import RewardError, TaskError
from edgewise.toolkit.reward import graders
from edgewise.toolkit.reward.adapters import accepts_any_keyword, adapt_function, as_reward_error
from edgewise.toolkit.reward.graders import Grade
from edgewise.toolkit.reward.judge import judge, rank
from edgewise.toolkit.types import RESERVED_PREFIX, Example, Plan, Rollout, Score
from edgewise.toolkit.util.import_by_name import did_you_mean, load_object

BUILT_IN: Mapping[str, Callable[..., Grade]] = {
    "exact": graders.exact,
    "contains": graders.contains,
    "regex": graders.regex,
    "number": graders.number,
    "math": graders.mathematics,
    "json": graders.fields,
    "choice": graders.choice,
    "python": graders.unit_tests,
    "environment": graders.environment,
    "judge": judge,
    # Evaluation grades rollouts one by one, since a rank among other answers can't compare two prompts.
    "relative": partial(judge, max_tokens=4096),
}

GradeGroup = Callable[[Example, Sequence[Rollout], str], Plan[list[Score]]]
IN_GROUPS: Mapping[str, Callable[..., GradeGroup]] = {"relative": rank}
"""Built-in rewards that compare the rollouts of a group; the options are those of their `BUILT_IN` grader."""
CALLS_MODEL = frozenset({"judge", "relative"})
"""Built-in rewards that call a model."""


@dataclass(frozen=True, slots=True)
class Reward:
    """
    A name, the style it was recognised in, and the plan that grades one rollout of an example.

    `grade(example, rollout, judge_model)` never hands a failed rollout to the grader: its score is invalid, with the
    stop reason as feedback. It raises a RewardError if the grader raises or returns no finite number.

    A reward that compares the rollouts of a group also has `grade_group(example, rollouts, judge_model)`, with a score
    for each: learning uses that one. Its numbers mean nothing outside the group, so evaluation uses `grade`. `asks`
    is true where grading calls a model.
    """

    name: str
    style: str
    grade: Grade
    grade_group: GradeGroup | None = None
    asks: bool = False

    @property
    def relative(self) -> bool:
        """Whether the rollouts of a group are graded together while learning."""
        return self.grade_group is not None


RewardSpec = str | Mapping[str, Any] | Sequence[Any] | Callable[..., Any] | Reward


def resolve_reward(spec: RewardSpec, base: Path | None = None) -> Reward:
    """
    Make a `Reward` of `spec`:

    - "exact": a built-in by name. {"kind": "number", "tolerance": 0.01}: with options
    - "module:function", looked up beside the task file `base` first; options become keyword arguments
    - a function, in any of the styles of `toolkit.reward.adapters`
    - a list of these, each possibly a table with a `weight`: the weighted sum, with each one in `parts`

    Raises RewardError, and TaskError where a module can't be loaded.
    """
    # Reduce the spec to a kind, a name or a function, with options.
    kind: Any = spec
    options: dict[str, Any] = {}
    match spec:
        case Reward():
            return spec
        case Mapping():
            options = {key: value for key, value in spec.items() if key not in ("kind", "weight")}
            kind = spec.get("kind")
            if kind is None:
                raise RewardError('a table for a reward needs a kind, such as kind = "number"')
        case Sequence() if not isinstance(spec, str):
            return _weighted_sum(spec, base)

    # A name is that of a built-in, or the address of a function.
    if not isinstance(kind, str):
        return _from_function(kind, options)
    if kind in BUILT_IN:
        return _from_built_in(kind, options)
    if ":" not in kind:
        raise RewardError(
            f"there is no reward {kind!r}{did_you_mean(kind, list(BUILT_IN))}; your own is module:function"
        )
    try:
        return _from_function(load_object(kind, base), options)
    except TaskError as error:
        raise RewardError(f"the reward can't be loaded: {error}") from error


def _from_built_in(name: str, options: Mapping[str, Any]) -> Reward:
    from pydantic import ValidationError, validate_call

    maker, group_maker = BUILT_IN[name], IN_GROUPS.get(name)
    existing = list(inspect.signature(group_maker or maker).parameters)
    # Pydantic would name an unknown option too, but not the nearest one.
    for option in options:
        if option not in existing:
            raise RewardError(f"the reward {name!r} has no option {option!r}{did_you_mean(option, existing)}")
    try:
        grade = _check_scores(name, validate_call(maker)(**options))
        grade_group = _check_group_scores(name, validate_call(group_maker)(**options)) if group_maker else None
    except ValidationError as error:
        problem = error.errors()[0]
        option = problem["loc"][0] if problem["loc"] else ""
        raise RewardError(f"the option {option!r} of the reward {name!r} is wrong: {problem['msg']}") from error
    return Reward(name, "built-in", grade, grade_group, asks=name in CALLS_MODEL)


def _from_function(function: Any, options: Mapping[str, Any]) -> Reward:
    # An address may also lead to a Reward or to a maker of this package.
    if isinstance(function, Reward):
        return function
    for name, maker in BUILT_IN.items():
        if function is maker:
            return _from_built_in(name, options)
    if not callable(function):
        raise RewardError(f"a reward must be a name, a table, a list or a function, not {function!r}")

    # Options become keyword arguments, so the function must have such parameters.
    name = getattr(function, "__name__", type(function).__name__)
    if options:
        parameters = inspect.signature(function).parameters
        for option in options:
            if option not in parameters and not accepts_any_keyword(parameters):
                raise RewardError(
                    f"the reward {name} has no parameter {option!r}{did_you_mean(option, list(parameters))}"
                )
        function = partial(function, **options)
    style, grade = adapt_function(function, name)
    return Reward(name, style, _check_scores(name, grade))


def _check_scores(name: str, grade: Grade) -> Grade:
    """Wrap `grade` so that it keeps the promises of `Reward`."""

    def checked(example: Example, rollout: Rollout, judge_model: str) -> Plan[Score]:
        if rollout.failed:
            return _failed_score(rollout)
        with as_reward_error(name, example.id):
            score = yield from grade(example, rollout, judge_model)
        # One NaN would spread to the mean of its group and to every advantage in it.
        if not all(math.isfinite(value) for value in (score.value, *score.parts.values())):
            raise RewardError(
                f"the reward {name} gave {score.value} with parts {dict(score.parts)} on row {example.id!r}"
            )
        _check_part_names(name, score)
        return score

    return checked


def _check_group_scores(name: str, grade_group: GradeGroup) -> GradeGroup:
    """Wrap `grade_group` so that only rollouts that did not fail reach it; the others are invalid."""

    def checked(example: Example, rollouts: Sequence[Rollout], judge_model: str) -> Plan[list[Score]]:
        # The context manager spans the yields of the plan: errors of model calls are named too.
        with as_reward_error(name, example.id):
            group_scores = yield from grade_group(example, [run for run in rollouts if not run.failed], judge_model)
        for score in group_scores:
            _check_part_names(name, score)
        scores = iter(group_scores)
        return [_failed_score(run) if run.failed else next(scores) for run in rollouts]

    return checked


def _check_part_names(name: str, score: Score) -> None:
    if reserved := [part for part in score.parts if part.startswith(RESERVED_PREFIX)]:
        raise RewardError(
            f"the reward {name} names a part {reserved[0]!r}: names that begin with {RESERVED_PREFIX} are reserved, "
            "choose another"
        )


def _failed_score(rollout: Rollout) -> Score:
    reason = f"{rollout.stop}: {rollout.error}" if rollout.error else rollout.stop
    return Score(0.0, valid=False, feedback=f"the run broke ({reason})")


def _weighted_sum(specs: Sequence[Any], base: Path | None) -> Reward:
    if not specs:
        raise RewardError("the list of rewards is empty; name at least one")
    rewards, weights = [], []
    for spec in specs:
        rewards.append(resolve_reward(spec, base))
        weight = spec.get("weight", 1.0) if isinstance(spec, Mapping) else 1.0
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise RewardError(f"the weight of a reward must be a number, not {weight!r}")
        weights.append(float(weight))

    # Two rewards of one kind are numbered, so that both have parts of their own.
    names = [reward.name for reward in rewards]
    names = [name if names.count(name) == 1 else f"{name} {names[:n].count(name) + 1}" for n, name in enumerate(names)]

    def grade(example: Example, rollout: Rollout, judge_model: str) -> Plan[Score]:
        scores = yield [reward.grade(example, rollout, judge_model) for reward in rewards]
        return _sum_scores(names, weights, scores)

    def grade_group(example: Example, rollouts: Sequence[Rollout], judge_model: str) -> Plan[list[Score]]:
        def grade_all(reward: Reward) -> Plan[list[Score]]:
            if reward.grade_group:
                return (yield from reward.grade_group(example, rollouts, judge_model))
            return (yield [reward.grade(example, run, judge_model) for run in rollouts])

        by_reward = yield [grade_all(reward) for reward in rewards]
        return [_sum_scores(names, weights, scores) for scores in zip(*by_reward, strict=True)]

    # One relative term makes the whole sum relative: its values are comparable within a group only.
    name = " + ".join(names)
    is_relative = any(reward.relative for reward in rewards)
    together = _check_group_scores(name, grade_group) if is_relative else None
    asks = any(reward.asks for reward in rewards)
    return Reward(name, "weighted sum", _check_scores(name, grade), together, asks)


def _sum_scores(names: Sequence[str], weights: Sequence[float], scores: Sequence[Score]) -> Score:
    """
    Return the sum of weight times value over the rewards that apply.

    One that does not apply (invalid without feedback) counts nothing, as in TRL. One that could not be graded (invalid
    with feedback) makes the sum invalid: a zero would look like a bad answer.
    """
    # Parts keep both the terms and their own parts, as "term" and "term.part".
    parts: dict[str, float] = {}
    for name, score in zip(names, scores, strict=True):
        if score.valid:
            parts[name] = score.value
            parts |= {f"{name}.{part}": value for part, value in score.parts.items()}
    value = sum(weight * score.value for weight, score in zip(weights, scores, strict=True) if score.valid)
    feedback = "\n".join(f"{name}: {s.feedback}" for name, s in zip(names, scores, strict=True) if s.feedback)
    valid = any(s.valid for s in scores) and not any(s.feedback for s in scores if not s.valid)
    return Score(value if valid else 0.0, parts, valid, feedback)
