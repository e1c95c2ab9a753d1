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

Sync or async. A result may be a number, a bool, None ("does not apply"), a `Score`, (score, side information), or a
dict or an object with `score` or `reward`. Its text (feedback, reasoning) becomes `Score.feedback`; further numbers,
and metrics that the function logs, become `Score.parts`.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from edgewise.toolkit.errors import RewardError
from edgewise.toolkit.reward.adapter_views import (
    QUESTION,
    TARGET,
    View,
    build_trace,
    last_question,
    list_messages,
    message_view,
    row_columns,
)
from edgewise.toolkit.reward.score_parsing import numeric_items, parse_score
from edgewise.toolkit.types import BlockingCall, Example, Plan, Rollout, Score

Parameters = Mapping[str, inspect.Parameter]
Metrics = dict[str, Any]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional arguments and keywords."""

ANSWER = ("answer", "response", "output", "completion", "prediction", "pred", "predicted", "text", "result")
PLAIN = {
    "answer": ANSWER,
    "target": TARGET,
    "question": QUESTION,
    "example": ("example", "row"),
    "rollout": ("rollout",),
    "metadata": ("metadata",),
}
"""Meanings of parameters of plain functions, by their names; a name has the first meaning that lists it."""
FOREIGN = ("trace", "runtime", "state", "task", "episode", "self", "sample")
"""Parameters of libraries whose objects can't be offered."""
WRONG_FORM = (TypeError, IndexError, AttributeError)
"""Errors of functions that take text for a list of messages."""


Style = Callable[[Parameters, Example, Rollout, Metrics], Arguments]
"""The arguments of a library's convention for one rollout; a function may log into the metrics."""


def adapt_function(
    function: Callable[..., Any], name: str
) -> tuple[str, Callable[[Example, Rollout, str], Plan[Score]]]:
    """
    Return the style of `function`, and a plan that grades with it; `name` is for messages.

    Raises RewardError if no style fits. The plan raises one, with the name and the row, if the function raises or
    returns no score.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise RewardError(f"the signature of the reward {name} can't be read; wrap it in a def of your own") from error
    match = recognize_style(parameters)
    if match is None:
        raise RewardError(
            f"the reward {name}({', '.join(parameters)}) fits no known style; write f(answer, target), "
            "f(answer, example), or one of trl, verl, youtu-agent, verifiers, dspy, gepa"
        )
    style, build_arguments = match

    def grade(example: Example, rollout: Rollout, judge: str) -> Plan[Score]:
        # Check the arguments before the call: a TypeError of the function itself would look the same.
        metrics: Metrics = {}
        arguments, keywords = build_arguments(parameters, example, rollout, metrics)
        if not accepts_any_keyword(parameters):
            keywords = {key: value for key, value in keywords.items() if key in parameters}
        filled = {*list(parameters)[: len(arguments)], *keywords}
        missing = [key for key, parameter in parameters.items() if _is_required(parameter) and key not in filled]
        if missing:
            raise RewardError(
                f"the reward {name} needs {', '.join(missing)}, and row {example.id!r} has no such column; "
                f"it has {', '.join(example.metadata) or 'none'}"
            )

        # In a thread, or on the loop if it is async: user code may block for long.
        result = yield BlockingCall(_call, (function, arguments, keywords, name, example.id))
        if style == "trl":  # takes and returns lists, here of one rollout
            try:
                (result,) = result
            except (TypeError, ValueError) as error:
                raise RewardError(
                    f"the reward {name} must return a list with one number per completion, not {result!r}"
                ) from error
        # What the function returns wins over what it logged under the same name.
        if result is None:
            return Score(0.0, numeric_items(metrics), valid=False)
        score = parse_score(result)
        if score is None:
            raise RewardError(f"the reward {name} returned {result!r} on row {example.id!r}, which says no score")
        return replace(score, parts={**numeric_items(metrics), **score.parts})

    return style, grade


@contextmanager
def as_reward_error(name: str, row: str) -> Iterator[None]:
    """Turn any exception of a reward into a RewardError that names the reward and the row."""
    try:
        yield
    except RewardError:
        raise
    except Exception as error:
        raise RewardError(f"the reward {name} raised on row {row!r}: {type(error).__name__}: {error}") from error


def accepts_any_keyword(parameters: Parameters) -> bool:
    """Whether a function takes keywords that it does not name."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def recognize_style(parameters: Parameters) -> tuple[str, Style] | None:
    """Return the name of a signature's style and the style, None if no style fits."""
    names = set(parameters)
    first, second, third = [*parameters, "", "", ""][:3]
    # The order matters: from names that only one library uses to those that are common.
    if "completions" in names:
        return "trl", trl_arguments
    if "solution_str" in names or {"data_source", "ground_truth"} <= names:
        return "verl", verl_arguments
    if first == "sample" or "timeout_score" in names:
        return "youtu-agent", youtu_arguments
    if "trace" in names and names <= {"self", "task", "trace"}:
        return "verifiers", verifiers_arguments
    if "pred_name" in names or third == "trace":
        return "dspy", dspy_arguments
    if first in ("example", "ex") and second in ("pred", "prediction", "predicted"):
        return "dspy", dspy_arguments
    if {"completion", "state"} & names and not {"example", "row", "rollout"} & names:
        return "verifiers", rubric_arguments
    if first == "candidate":
        return "gepa", gepa_arguments
    return ("plain", plain_arguments) if _match_parameters(parameters) else None


def trl_arguments(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Arguments:
    """Return the arguments of TRL's GRPOTrainer."""
    # All by keyword, each a list with one item per completion: prompts, completions, completion_ids, and every column
    # of the data set. Newer versions add trainer_state, log_metric and log_extra. A function returns a list of floats,
    # None where it does not apply.
    tokens = rollout.steps[-1].tokens if rollout.steps else None
    offer = {name: [value] for name, value in row_columns(example).items()}
    offer |= {"prompts": [last_question(example)], "completions": [rollout.answer]}
    offer |= {"completion_ids": [list(tokens.completion_ids if tokens else ())], "trainer_state": None}
    offer |= {"log_metric": metrics.__setitem__, "log_extra": lambda column, values: None}
    return (), offer


def verl_arguments(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Arguments:
    """Return the arguments of verl's `compute_score`."""
    # By keyword: data_source, solution_str, ground_truth, extra_info. Rows prepared for verl hold the truth in
    # reward_model["ground_truth"]. A function returns a float, or a dict with "score" and further metrics.
    row = example.metadata
    model = row.get("reward_model")
    truth = model.get("ground_truth", example.target) if isinstance(model, Mapping) else example.target
    return (), {
        "data_source": row.get("data_source", ""),
        "solution_str": rollout.answer,
        "ground_truth": row.get("ground_truth", truth),
        "extra_info": row.get("extra_info", dict(row)),
    }


def verifiers_arguments(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Arguments:
    """Return the arguments of a reward of a verifiers task: a method f(self, trace) or a function f(task, trace)."""
    # `task.data` is the row; `trace` is the episode, with `record_metric` for further numbers.
    question = last_question(example)
    task = View(data=View(row_columns(example), prompt=question, prompt_text=question))
    return (), {"self": task, "task": task, "trace": build_trace(task, rollout, metrics)}


def rubric_arguments(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Arguments:
    """Return the arguments of a function of verifiers' `Rubric`."""
    # By keyword, those that it names: prompt, completion, answer, state, info, task, and columns of the row.
    row = row_columns(example)
    return (), row | {
        "prompt": [View(role=m.role, content=m.content) for m in example.messages],
        "completion": rollout.answer,
        "state": View(row, prompt=last_question(example), completion=rollout.answer, turn=len(rollout.steps)),
        "info": row.get("info", row),
        "task": row.get("task", "default"),
    }


def youtu_arguments(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Arguments:
    """Return the arguments of a `verify_func` of youtu-agent."""
    # One positional argument, the evaluation sample; `timeout_score` keeps its default. A function returns {"reward":
    # float, "reasoning": text}.
    row = row_columns(example)
    sample = View(
        row,
        raw_question=row.get("question", last_question(example)),
        correct_answer=example.target,
        response=rollout.answer,
        meta=row.get("meta", dict(example.metadata)),
        trajectories=[message_view(message) for message in list_messages(rollout)],
    )
    return (sample,), {}


def dspy_arguments(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Arguments:
    """Return the arguments of a DSPy metric."""
    # Two positional arguments, gold and prediction; trace, and GEPA's pred_name and pred_trace, are None outside of
    # compilation. A metric returns a number or a bool, or for GEPA a Prediction with `score` and `feedback`.
    gold = View(row_columns(example))
    # The prediction has the field that is the target of the row, whatever its name is there.
    targets = [name for name, value in gold.items() if value is example.target and value is not None]
    pred = View(dict.fromkeys((*ANSWER, *targets), rollout.answer))
    rest = [name for name in list(parameters)[2:] if _is_required(parameters[name])]
    return (gold, pred), dict.fromkeys(rest)


def gepa_arguments(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Arguments:
    """Return the arguments of an evaluator of GEPA's `optimize_anything`."""
    # The candidate is positional, here the answer; example and opt_state by keyword. An evaluator returns a score, or
    # (score, side_info) with a dict of texts and numbers.
    return (rollout.answer,), {"example": View(row_columns(example)), "opt_state": None}


def plain_arguments(parameters: Parameters, example: Example, rollout: Rollout, metrics: Metrics) -> Arguments:
    """Return the arguments of a function of the user's own, by the names of its parameters."""
    values = {"answer": rollout.answer, "target": example.target, "example": example, "rollout": rollout}
    values |= {"metadata": example.metadata, "question": last_question(example)}
    arguments, keywords = [], {}
    for name, meaning in _match_parameters(parameters).items():
        if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
            keywords[name] = values[meaning]
        else:
            arguments.append(values[meaning])
    return tuple(arguments), keywords


def _call(
    function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any], name: str, row: str
) -> Any:
    """Call a reward function; where it fails on text as a completion, call it again with a list of messages."""
    # TRL and verifiers hand over text or messages, by the form of the row's prompt, and a function is written for one.
    with as_reward_error(name, row):
        try:
            result = function(*arguments, **keywords)
        except WRONG_FORM as error:
            keywords = _with_messages(keywords, error)
            result = function(*arguments, **keywords)
    if not inspect.isawaitable(result):
        return result

    async def finish() -> Any:
        with as_reward_error(name, row):
            try:
                return await result
            except WRONG_FORM as error:
                return await function(*arguments, **_with_messages(keywords, error))

    return finish()


def _with_messages(keywords: Mapping[str, Any], error: Exception) -> dict[str, Any]:
    """Return keywords with messages in place of text. Raises `error` again if text was not the problem."""
    # Python's messages for text["content"] or text[0]["content"], and for text.content.
    is_about_text = str(error).startswith(("string ind", "'str' object has no attribute"))
    if not is_about_text or not {"completions", "completion"} & set(keywords):
        raise error

    result = dict(keywords)
    if "completions" in result:
        result["completions"] = [[View(role="assistant", content=text)] for text in result["completions"]]
    if isinstance(result.get("prompts"), list):
        result["prompts"] = [[View(role="user", content=text)] for text in result["prompts"]]
    if "completion" in result:
        result["completion"] = [View(role="assistant", content=result["completion"])]
    return result


def _match_parameters(parameters: Parameters) -> dict[str, str]:
    """
    Return the meaning of each parameter of a plain function: by its name, else the answer first, the target next.

    Empty if a required one has no meaning; optional ones end at the first without a meaning.
    """
    # Reversed, so that the first meaning that lists a name wins: "answer" is an answer, though targets have it too.
    known = {name: meaning for meaning in reversed(PLAIN) for name in PLAIN[meaning]}
    guesses = {
        name: known.get(name) for name, parameter in parameters.items() if _is_required(parameter) or name in known
    }
    if any(name in FOREIGN for name in guesses):
        return {}

    # Decide what names leave open: f(x, y) is answer and target; f(response, answer) has the target last.
    if list(guesses.values()).count("answer") > 1 and "answer" in guesses:
        guesses["answer"] = "target"
    unclear = [name for name, meaning in guesses.items() if meaning is None]
    targets = [name for name, meaning in guesses.items() if meaning == "target"]
    if "answer" not in guesses.values():
        positional = unclear[:1] or (targets[:1] if len(targets) > 1 or len(guesses) == 1 else [])
        guesses.update(dict.fromkeys(positional, "answer"))
        unclear = unclear[1:]
    if "target" not in guesses.values():
        guesses.update(dict.fromkeys(unclear[:1], "target"))

    # Arguments are positional, so nothing after a parameter without a meaning can be filled.
    meanings: dict[str, str] = {}
    for name, parameter in parameters.items():
        meaning = guesses.get(name)
        if meaning is None:
            if _is_required(parameter):
                return {}
            break
        meanings[name] = meaning
    return meanings if {"answer", "rollout"} & set(meanings.values()) else {}


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    return parameter.default is parameter.empty and parameter.kind not in variadic
