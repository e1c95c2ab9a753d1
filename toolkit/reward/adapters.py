"""
Reward functions of other libraries, recognised by their signature and called as they expect, unchanged.

    style        signature                                                         called
    trl          f(completions, prompts=..., <columns>, **kw) -> [float | None]    a batch of one
    verl         f(data_source, solution_str, ground_truth, extra_info=None)       per run; float or dict
    verifiers    f(self, trace) or f(trace); f(completion, answer, **kw)           per run; float or dict
    youtu-agent  f(sample, timeout_score=0, **kw) -> {"reward", "reasoning"}       per run
    dspy         f(gold, pred, trace=None, pred_name=None, pred_trace=None)        per run; GEPA's metrics too
    gepa         f(candidate, example) -> score or (score, side_info)              per run
    plain        f(answer), f(answer, target), f(answer, example, rollout), ...    per run; by name

Sync or async. A result may be a number, a bool, None ("does not apply"), a `Score`, (score, side
information), or a dict or an object with `score` or `reward`. Words about it (feedback, reasoning) become
`Score.feedback`; further numbers, and metrics that the function logs, `Score.parts`.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from edgewise.toolkit.errors import RewardError
from edgewise.toolkit.reward.adapter_views import (
    QUESTION,
    TARGET,
    View,
    row_columns,
    message_view,
    last_question,
    build_trace,
    transcript,
)
from edgewise.toolkit.reward.score_parsing import numeric_items, parse_score
from edgewise.toolkit.types import BlockingCall, Example, Plan, Rollout, Score

Parameters = Mapping[str, inspect.Parameter]
Metrics = dict[str, Any]
Blame = Callable[[], AbstractContextManager[None]]
Call = tuple[tuple[Any, ...], dict[str, Any]]

ANSWER = ("answer", "response", "output", "completion", "prediction", "pred", "predicted", "text", "result")
PLAIN = {
    "answer": ANSWER,
    "target": TARGET,
    "question": QUESTION,
    "example": ("example", "row"),
    "rollout": ("rollout",),
    "metadata": ("metadata",),
}
FOREIGN = ("trace", "runtime", "state", "task", "episode", "self", "sample")
WRONG_FORM = (TypeError, IndexError, AttributeError)
PREDICTED = ("pred", "prediction", "predicted")


@dataclass(frozen=True, slots=True)
class Style:
    """
    How a library calls its reward functions.

    `call` gives the arguments for one run, positional and by keyword; what the function logs while it runs is
    written into the metrics. With `batch` it takes and gives lists, here of one run.
    """

    name: str
    fits: Callable[[Parameters], bool]
    call: Callable[[Parameters, Example, Rollout, Metrics], Call]
    batch: bool = False


def adapt_function(
    function: Callable[..., Any], name: str
) -> tuple[str, Callable[[Example, Rollout, str], Plan[Score]]]:
    """
    The style of `function`, and a plan that grades with it; `name` is for messages.

    Raises RewardError if no style fits. The plan raises one, with the name and the row, if the function
    raises or its result says no score.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"the signature of the reward {name} can't be read; wrap it in a def of your own"
        ) from error
    style = next((style for style in STYLES if style.fits(parameters)), None)
    if style is None:
        raise RewardError(
            f"the reward {name}({', '.join(parameters)}) fits no known style; write f(answer, target), "
            f"f(answer, example), or one of {', '.join(dict.fromkeys(s.name for s in STYLES[:-1]))}"
        )

    def grade(example: Example, rollout: Rollout, judge: str) -> Plan[Score]:
        metrics: Metrics = {}
        arguments, keywords = style.call(parameters, example, rollout, metrics)
        _complete(name, parameters, arguments, keywords, example)
        result = yield BlockingCall(
            _call, (function, arguments, keywords, partial(as_reward_error, name, example.id))
        )
        return _scored(_single(result, name) if style.batch else result, metrics, name, example)

    return style.name, grade


@contextmanager
def as_reward_error(name: str, row: str) -> Iterator[None]:
    """Turns whatever a reward raises into a RewardError that names it and the row."""
    try:
        yield
    except RewardError:
        raise
    except Exception as error:
        raise RewardError(
            f"the reward {name} raised on row {row!r}: {type(error).__name__}: {error}"
        ) from error


def _call(
    function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any], blame: Blame
) -> Any:
    """
    Call with the answer as text; where the function takes it for a list of messages, as that.

    TRL and verifiers hand over either, by the form of the row's prompt, and a function is written for one.
    """
    with blame():
        try:
            result = function(*arguments, **keywords)
        except WRONG_FORM as error:
            if not _wants_messages(error, keywords):
                raise
            keywords = _as_messages(keywords)
            result = function(*arguments, **keywords)
    return _awaited(result, function, arguments, keywords, blame) if inspect.isawaitable(result) else result


async def _awaited(
    result: Awaitable[Any],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    blame: Blame,
) -> Any:
    with blame():
        try:
            return await result
        except WRONG_FORM as error:
            if not _wants_messages(error, keywords):
                raise
        return await function(*arguments, **_as_messages(keywords))


def _wants_messages(error: Exception, keywords: Mapping[str, Any]) -> bool:
    """Whether the error is what Python says of text that was taken for a list of messages."""
    said = str(error)
    by_text = said.startswith(("string ind", "'str' object has no attribute"))
    return by_text and bool({"completions", "completion"} & set(keywords))


def _as_messages(keywords: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(keywords)
    if "completions" in changed:
        changed["completions"] = [_said(text) for text in changed["completions"]]
    if isinstance(changed.get("prompts"), list):
        changed["prompts"] = [[View(role="user", content=text)] for text in changed["prompts"]]
    if "completion" in changed:
        changed["completion"] = _said(changed["completion"])
    return changed


def _said(text: str) -> list[View]:
    return [View(role="assistant", content=text)]


def _trl(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Call:
    encoded = rollout.steps[-1].tokens if rollout.steps else None
    offered = {name: [value] for name, value in row_columns(example).items()}
    offered |= {"prompts": [last_question(example)], "completions": [rollout.answer]}
    offered |= {"completion_ids": [list(encoded.completion_ids if encoded else ())], "trainer_state": None}
    offered |= {"log_metric": metrics.__setitem__, "log_extra": lambda column, values: None}
    return (), _accepted(parameters, offered)


def _verl(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Call:
    row = example.metadata
    model = row.get("reward_model")
    truth = model.get("ground_truth", example.target) if isinstance(model, Mapping) else example.target
    offered = {
        "data_source": row.get("data_source", ""),
        "solution_str": rollout.answer,
        "ground_truth": row.get("ground_truth", truth),
        "extra_info": row.get("extra_info", dict(row)),
    }
    return (), offered if accepts_any_keyword(parameters) else _accepted(parameters, offered)


def _verifiers(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Call:
    task = View(data=View(row_columns(example), prompt=last_question(example), prompt_text=last_question(example)))
    return (), _accepted(parameters, {"self": task, "task": task, "trace": build_trace(task, rollout, metrics)})


def _verifiers_rubric(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Call:
    row = row_columns(example)
    offered = row | {
        "prompt": [View(role=m.role, content=m.content) for m in example.messages],
        "completion": rollout.answer,
        "state": View(row, prompt=last_question(example), completion=rollout.answer, turn=len(rollout.steps)),
        "info": row.get("info", row),
        "task": row.get("task", "default"),
    }
    return (), _accepted(parameters, offered)


def _youtu(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Call:
    row = row_columns(example)
    return (
        View(
            row,
            raw_question=row.get("question", last_question(example)),
            correct_answer=example.target,
            response=rollout.answer,
            meta=row.get("meta", dict(example.metadata)),
            trajectories=[message_view(message) for message in transcript(rollout)],
        ),
    ), {}


def _dspy(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Call:
    gold = View(row_columns(example))
    # The prediction has the field that is the target of the row, whatever its name is there.
    named = [name for name, value in gold.items() if value is example.target and value is not None]
    pred = View(dict.fromkeys((*ANSWER, *named), rollout.answer))
    left = [name for name in list(parameters)[2:] if _required(parameters[name])]
    return (gold, pred), dict.fromkeys(left)


def _gepa(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Call:
    offered = {"example": View(row_columns(example)), "opt_state": None}
    return (rollout.answer,), _accepted(parameters, offered)


def _plain(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Call:
    values = {"answer": rollout.answer, "target": example.target, "example": example, "rollout": rollout}
    values |= {"metadata": example.metadata, "question": last_question(example)}
    arguments, keywords = [], {}
    for name, meaning in _meanings(parameters).items():
        if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
            keywords[name] = values[meaning]
        else:
            arguments.append(values[meaning])
    return tuple(arguments), keywords


def _meanings(parameters: Parameters) -> dict[str, str]:
    """
    What each parameter of a plain function stands for: by its name, else the answer first, the target next.

    Empty if a required one has no meaning; optional ones end at the first without a meaning.
    """
    taken = {name: _meaning(name) for name, one in parameters.items() if _required(one) or _meaning(name)}
    if any(name in FOREIGN for name in taken):
        return {}
    _settle(taken)
    meanings: dict[str, str] = {}
    for name, parameter in parameters.items():
        meaning = taken.get(name)
        if meaning is None and _required(parameter):
            return {}
        if meaning is None:
            break
        meanings[name] = meaning
    return meanings if {"answer", "rollout"} & set(meanings.values()) else {}


def _meaning(name: str) -> str | None:
    return next((meaning for meaning, names in PLAIN.items() if name in names), None)


def _settle(taken: dict[str, str | None]) -> None:
    """Decide what names leave open: f(x, y) is answer and target; f(response, answer) has the target last."""
    if len([name for name in taken if taken[name] == "answer"]) > 1 and "answer" in taken:
        taken["answer"] = "target"
    unclear = [name for name in taken if taken[name] is None]
    targets = [name for name in taken if taken[name] == "target"]
    if "answer" not in taken.values():
        chosen = unclear[:1] or (targets[:1] if len(targets) > 1 or len(taken) == 1 else [])
        taken.update(dict.fromkeys(chosen, "answer"))
        unclear = unclear[1:]
    if "target" not in taken.values():
        taken.update(dict.fromkeys(unclear[:1], "target"))


def _accepted(parameters: Parameters, offered: dict[str, Any]) -> dict[str, Any]:
    if accepts_any_keyword(parameters):
        return offered
    return {name: value for name, value in offered.items() if name in parameters}


def accepts_any_keyword(parameters: Parameters) -> bool:
    """Whether a function takes keywords that it does not name."""
    return any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def _required(parameter: inspect.Parameter) -> bool:
    free = (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    return parameter.default is parameter.empty and parameter.kind not in free


def _complete(
    name: str, parameters: Parameters, arguments: Sequence[Any], keywords: Mapping[str, Any], example: Example
) -> None:
    filled = {*list(parameters)[: len(arguments)], *keywords}
    missing = [one for one, parameter in parameters.items() if _required(parameter) and one not in filled]
    if missing:
        raise RewardError(
            f"the reward {name} needs {', '.join(missing)}, and row {example.id!r} has no such column; "
            f"it has {', '.join(example.metadata) or 'none'}"
        )


def _single(result: Any, name: str) -> Any:
    try:
        (one,) = result
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"the reward {name} must return a list with one number per completion, not {result!r}"
        ) from error
    return one


def _scored(result: Any, metrics: Metrics, name: str, example: Example) -> Score:
    if result is None:
        return Score(0.0, numeric_items(metrics), valid=False)
    score = parse_score(result)
    if score is None:
        raise RewardError(f"the reward {name} returned {result!r} on row {example.id!r}, which says no score")
    return replace(score, parts={**numeric_items(metrics), **score.parts})


def _is_dspy(parameters: Parameters) -> bool:
    names = [*parameters, "", "", ""]
    return (
        "pred_name" in names
        or names[2] == "trace"
        or (names[0] in ("example", "ex") and names[1] in PREDICTED)
    )


def _is_verifiers(parameters: Parameters) -> bool:
    return "trace" in parameters and set(parameters) <= {"self", "task", "trace"}


def _is_rubric(parameters: Parameters) -> bool:
    names = set(parameters)
    return bool({"completion", "state"} & names) and not {"example", "row", "rollout"} & names


def _is_youtu(parameters: Parameters) -> bool:
    return next(iter(parameters), "") == "sample" or "timeout_score" in parameters


def _is_verl(parameters: Parameters) -> bool:
    return "solution_str" in parameters or {"data_source", "ground_truth"} <= set(parameters)


STYLES = (
    Style("trl", lambda parameters: "completions" in parameters, _trl, batch=True),
    Style("verl", _is_verl, _verl),
    Style("youtu-agent", _is_youtu, _youtu),
    Style("verifiers", _is_verifiers, _verifiers),
    Style("dspy", _is_dspy, _dspy),
    Style("verifiers", _is_rubric, _verifiers_rubric),
    Style("gepa", lambda parameters: next(iter(parameters), "") == "candidate", _gepa),
    Style("plain", lambda parameters: bool(_meanings(parameters)), _plain),
)
