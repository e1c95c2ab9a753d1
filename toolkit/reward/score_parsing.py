"""Parse a `Score` from the return value of a reward function, in the forms that other libraries use."""

from collections.abc import Mapping
from typing import Any

from edgewise.toolkit.types import Score

FEEDBACK = ("feedback", "reasoning", "reason", "explanation")
VALUE = ("score", "reward", "value")


def parse_score(result: Any) -> Score | None:
    """
    Return the score in `result`, or None if there is none.

    A number, a bool or a `Score`; (score, side information); a dict or an object with `score` or `reward`.
    """
    match result:
        case Score():
            return result
        # GEPA's evaluators: (score, side_info), where side_info is text or a mapping.
        case (score, side) if isinstance(result, tuple):
            value = _to_number(score)
            if value is None or not isinstance(side, Mapping):
                return None if value is None else Score(value, feedback="" if side is None else str(side))
            numbers = numeric_items(side) | numeric_items(side.get("scores") or {})
            texts = [f"{key}: {text}" for key, text in side.items() if key not in numbers and key != "scores"]
            return Score(value, numbers, feedback="\n".join(texts))
        case tuple():
            return None
        case Mapping():
            return _parse_mapping(result)

    # An object may be a number too, and would then lose its feedback: DSPy's Prediction converts to a float.
    fields = {key: getattr(result, key, None) for key in (*VALUE, *FEEDBACK)}
    numbers = numeric_items({key: fields[key] for key in VALUE})
    if numbers:
        return Score(next(iter(numbers.values())), feedback=_find_feedback(fields))
    value = _to_number(result)
    return None if value is None else Score(value)


def numeric_items(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the items whose values are numbers, as floats."""
    numbers = {str(key): _to_number(value) for key, value in values.items()}
    return {key: value for key, value in numbers.items() if value is not None}


def _parse_mapping(result: Mapping[str, Any]) -> Score | None:
    key = next((key for key in VALUE if key in result), None)
    numbers = numeric_items(result)
    # verifiers: a mapping of numbers alone is a set of rewards, which add up.
    if key is None:
        return Score(sum(numbers.values()), numbers) if numbers and len(numbers) == len(result) else None
    # verl and youtu-agent: {"score" or "reward": ..., further metrics, feedback}; None says "not graded".
    if result[key] is None:
        return Score(0.0, valid=False, feedback=_find_feedback(result))
    value = numbers.pop(key, None)
    return None if value is None else Score(value, numbers, feedback=_find_feedback(result))


def _to_number(value: Any) -> float | None:
    """Convert anything with `__float__` that is not text: bool, int, numpy and torch scalars, Fraction."""
    # Text such as "0.5" is no score: a function that returns it has a bug.
    if isinstance(value, str | bytes | Mapping) or not hasattr(type(value), "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _find_feedback(values: Mapping[str, Any]) -> str:
    return next((str(values[key]) for key in FEEDBACK if values.get(key)), "")
