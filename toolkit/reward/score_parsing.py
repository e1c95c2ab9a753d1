"""Read a `Score` out of what a reward function returned, in the forms that other libraries use."""

from collections.abc import Callable, Mapping
from typing import Any

from edgewise.toolkit.types import Score

FEEDBACK = ("feedback", "reasoning", "reason", "explanation")
VALUE = ("score", "reward", "value")


def score_in(result: Any) -> Score | None:
    """
    The score that `result` stands for, or None if it stands for none.

    A number, a bool or a `Score`; (score, side information); a dict or an object with `score` or `reward`.
    """
    if isinstance(result, Score):
        return result
    if isinstance(result, tuple):
        return _read_pair(result)
    if isinstance(result, Mapping):
        return _read_mapping(result)
    value = _number(result)
    # An object may be a number too, and would then lose its words: DSPy's Prediction converts to a float.
    return _read_object(result) or (None if value is None else Score(value))


def _number(value: Any) -> float | None:
    """Anything that converts to a float without being text: bool, int, numpy and torch scalars, Fraction."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(type(value), "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _read_pair(pair: tuple[Any, ...]) -> Score | None:
    """(score, side information): what GEPA's evaluators return."""
    value = _number(pair[0]) if len(pair) == 2 else None
    if value is None:
        return None
    side = pair[1]
    if not isinstance(side, Mapping):
        return Score(value, feedback="" if side is None else str(side))
    numbers = numbers_in(side) | numbers_in(side.get("scores") or {})
    words = [f"{key}: {said}" for key, said in side.items() if key not in numbers and key != "scores"]
    return Score(value, numbers, feedback="\n".join(words))


def _read_mapping(result: Mapping[str, Any]) -> Score | None:
    """What verl and youtu-agent use; numbers alone are verifiers' set of rewards, which add up."""
    key = next((key for key in VALUE if key in result), None)
    numbers = numbers_in(result)
    if key is None:
        return Score(sum(numbers.values()), numbers) if numbers and len(numbers) == len(result) else None
    if result[key] is None:
        return Score(0.0, valid=False, feedback=_words(result.get))
    value = _number(result[key])
    parts = {name: number for name, number in numbers.items() if name != key}
    return None if value is None else Score(value, parts, feedback=_words(result.get))


def _read_object(result: Any) -> Score | None:
    """An object with a score and perhaps feedback, such as DSPy's Prediction."""
    value = next((v for v in (_number(getattr(result, key, None)) for key in VALUE) if v is not None), None)
    return None if value is None else Score(value, feedback=_words(lambda key: getattr(result, key, None)))


def _words(get: Callable[[str], Any]) -> str:
    return next((str(get(key)) for key in FEEDBACK if get(key)), "")


def numbers_in(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that are numbers, as floats."""
    numbers = {str(key): _number(value) for key, value in values.items()}
    return {key: value for key, value in numbers.items() if value is not None}
