"""
Rewards: what grades a rollout, and how one is named.

`resolve` makes a `Reward` of whatever a task calls its reward: the name of a built-in (`toolkit.reward.graders`), a
table of its options, a function in any style that `toolkit.reward.adapters` recognises, or a weighted list.
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
from edgewise.toolkit.reward.adapters import adapt_function, as_reward_error, accepts_any_keyword
from edgewise.toolkit.reward.graders import Grade
from edgewise.toolkit.reward.judge import judge, rank, relative
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
    "relative": relative,
}

GradeGroup = Callable[[Example, Sequence[Rollout], str], Plan[list[Score]]]
IN_GROUPS: Mapping[str, Callable[..., GradeGroup]] = {"relative": rank}
"""Built-in rewards that compare the runs of a group; the options are those of their `BUILT_IN` grader."""
ASKING = frozenset({"judge", "relative"})
"""Built-in rewards that ask a model."""


@dataclass(frozen=True, slots=True)
class Reward:
    """
    A name, the style it was recognised in, and the plan that grades one rollout of an example.

    `grade(example, rollout, judge_model)` never hands a failed rollout to the grader: its score is invalid,
    with the stop reason as feedback. It raises a RewardError if the grader raises or gives no finite number.

    A reward that compares the runs of a group has `grade_group(example, rollouts, judge_model)` too, with a
    score for each: learning uses that one. Its numbers mean nothing outside the group, so measuring uses
    `grade`. `asks` says whether grading asks a model.
    """

    name: str
    style: str
    grade: Grade
    grade_group: GradeGroup | None = None
    asks: bool = False

    @property
    def relative(self) -> bool:
        """Whether the runs of a group are graded together while learning."""
        return self.grade_group is not None


RewardSpec = str | Mapping[str, Any] | Sequence[Any] | Callable[..., Any] | Reward


def resolve_reward(spec: RewardSpec, base: Path | None = None) -> Reward:
    """
    Make a `Reward` of `spec`:

    - "exact": a built-in by name. {"kind": "number", "tolerance": 0.01}: with options
    - "module:function", looked up beside the task file `base` first; options become keyword arguments
    - a function, in any of the styles of `toolkit.reward.adapters`
    - a list of these, each possibly a table with a `weight`: the weighted sum, with each one in `parts`

    Raises RewardError, and TaskError where a module cannot be loaded.
    """
    match spec:
        case Reward():
            return spec
        case str():
            return _named(spec, {}, base)
        case Mapping():
            options = dict(spec)
            options.pop("weight", None)
            kind = options.pop("kind", None)
            if kind is None:
                raise RewardError('a table for a reward needs a kind, such as kind = "number"')
            return _named(kind, options, base) if isinstance(kind, str) else _function(kind, options)
        case Sequence():
            return _weighted([(resolve_reward(one, base), _weight(one)) for one in spec])
    return _function(spec, {})


def _named(name: str, options: Mapping[str, Any], base: Path | None) -> Reward:
    if name in BUILT_IN:
        return _built_in(name, options)
    if ":" not in name:
        raise RewardError(
            f"there is no reward {name!r}{did_you_mean(name, list(BUILT_IN))}; your own is module:function"
        )
    try:
        return _function(load_object(name, base), options)
    except TaskError as error:
        raise RewardError(f"the reward can't be loaded: {error}") from error


def _built_in(name: str, options: Mapping[str, Any]) -> Reward:
    from pydantic import ValidationError, validate_call

    maker = BUILT_IN[name]
    existing = list(inspect.signature(maker).parameters)
    for option in options:
        if option not in existing:
            raise RewardError(f"the reward {name!r} has no option {option!r}{did_you_mean(option, existing)}")
    together = IN_GROUPS.get(name)
    try:
        grade = _checked(name, validate_call(maker)(**options))
        grade_group = _checked_group(name, validate_call(together)(**options)) if together else None
    except ValidationError as error:
        wrong = error.errors()[0]
        option = wrong["loc"][0] if wrong["loc"] else ""
        raise RewardError(f"the option {option!r} of the reward {name!r} is wrong: {wrong['msg']}") from error
    return Reward(name, "built-in", grade, grade_group, asks=name in ASKING)


def _function(function: Any, options: Mapping[str, Any]) -> Reward:
    if isinstance(function, Reward):
        return function
    for name, maker in BUILT_IN.items():
        if function is maker:
            return _built_in(name, options)
    if not callable(function):
        raise RewardError(f"a reward must be a name, a table, a list or a function, not {function!r}")
    name = getattr(function, "__name__", type(function).__name__)
    if options:
        function = partial(function, **_known(name, function, options))
    style, grade = adapt_function(function, name)
    return Reward(name, style, _checked(name, grade))


def _known(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = inspect.signature(function).parameters
    for option in options:
        if option not in parameters and not accepts_any_keyword(parameters):
            raise RewardError(
                f"the reward {name} has no parameter {option!r}{did_you_mean(option, list(parameters))}"
            )
    return options


def _checked(name: str, grade: Grade) -> Grade:
    """`grade` with the promises of `Reward`."""

    def checked(example: Example, rollout: Rollout, judge_model: str) -> Plan[Score]:
        if rollout.failed:
            return _broken(rollout)
        with as_reward_error(name, example.id):
            score = yield from grade(example, rollout, judge_model)
        if not all(math.isfinite(value) for value in (score.value, *score.parts.values())):
            raise RewardError(
                f"the reward {name} gave {score.value} with parts {dict(score.parts)} on row {example.id!r}"
            )
        return _unmarked(name, score)

    return checked


def _checked_group(name: str, grade_group: GradeGroup) -> GradeGroup:
    """`grade_group` of the runs that did not fail; the others are invalid, as with `grade`."""

    def checked(example: Example, rollouts: Sequence[Rollout], judge_model: str) -> Plan[list[Score]]:
        with as_reward_error(name, example.id):
            found = yield from grade_group(example, [run for run in rollouts if not run.failed], judge_model)
        scores = iter(found)
        return [_broken(run) if run.failed else _unmarked(name, next(scores)) for run in rollouts]

    return checked


def _unmarked(name: str, score: Score) -> Score:
    """The score. Raises RewardError where it names a part as only methods of learning may."""
    if marks := [part for part in score.parts if part.startswith(RESERVED_PREFIX)]:
        raise RewardError(
            f"the reward {name} names a part {marks[0]!r}: names that begin with {RESERVED_PREFIX} are reserved, choose another"
        )
    return score


def _broken(rollout: Rollout) -> Score:
    why = f"{rollout.stop}: {rollout.error}" if rollout.error else rollout.stop
    return Score(0.0, valid=False, feedback=f"the run broke ({why})")


def _weight(spec: Any) -> float:
    weight = spec.get("weight", 1.0) if isinstance(spec, Mapping) else 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise RewardError(f"the weight of a reward must be a number, not {weight!r}")
    return float(weight)


def _weighted(terms: Sequence[tuple[Reward, float]]) -> Reward:
    if not terms:
        raise RewardError("the list of rewards is empty; name at least one")
    names, weights = _unique([reward.name for reward, _ in terms]), [weight for _, weight in terms]

    def grade(example: Example, rollout: Rollout, judge_model: str) -> Plan[Score]:
        scores = yield [reward.grade(example, rollout, judge_model) for reward, _ in terms]
        return _sum(names, weights, scores)

    def grade_group(example: Example, rollouts: Sequence[Rollout], judge_model: str) -> Plan[list[Score]]:
        by_term = yield [_each(reward, example, rollouts, judge_model) for reward, _ in terms]
        return [_sum(names, weights, scores) for scores in zip(*by_term, strict=True)]

    name = " + ".join(names)
    together = _checked_group(name, grade_group) if any(reward.relative for reward, _ in terms) else None
    asks = any(reward.asks for reward, _ in terms)
    return Reward(name, "weighted sum", _checked(name, grade), together, asks)


def _each(
    reward: Reward, example: Example, rollouts: Sequence[Rollout], judge_model: str
) -> Plan[list[Score]]:
    """The scores of one group by one reward, compared with each other where the reward does that."""
    if reward.grade_group:
        return (yield from reward.grade_group(example, rollouts, judge_model))
    return (yield [reward.grade(example, run, judge_model) for run in rollouts])


def _sum(names: Sequence[str], weights: Sequence[float], scores: Sequence[Score]) -> Score:
    """
    Sum of weight times value over the rewards that apply.

    One that does not apply (invalid, without a word) counts nothing, as in TRL. One that should have been
    graded and was not (invalid, and says why) makes the sum invalid: a zero would look like a bad answer.
    """
    parts: dict[str, float] = {}
    for name, score in zip(names, scores, strict=True):
        if score.valid:
            parts[name] = score.value
            parts |= {f"{name}.{part}": value for part, value in score.parts.items()}
    value = sum(weight * score.value for weight, score in zip(weights, scores, strict=True) if score.valid)
    feedback = "\n".join(f"{name}: {s.feedback}" for name, s in zip(names, scores, strict=True) if s.feedback)
    valid = any(s.valid for s in scores) and not any(s.feedback for s in scores if not s.valid)
    return Score(value if valid else 0.0, parts, valid, feedback)


def _unique(names: Sequence[str]) -> list[str]:
    return [
        name if names.count(name) == 1 else f"{name} {names[:n].count(name) + 1}"
        for n, name in enumerate(names)
    ]
