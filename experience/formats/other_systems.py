"""
The texts of lessons in the JSON and the playbooks of other systems.

Lenient about what they add from version to version, strict about the types of what is read. Counts of "helpful" and
"harmful" are the opinions of a model about its own advice, so none of them becomes a measured effect.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgewise.experience.formats.plain_text import LessonTexts, by_paragraph
from edgewise.toolkit.errors import LibraryError

ENTRY = re.compile(
    r"\s*(?:[-*]\s*)?\[(?P<id>[^\]\n]{1,64})\]\s*"
    r"(?:helpful\s*[=:]\s*(?P<helpful>\d{1,9})[\s,;]*)?(?:harmful\s*[=:]\s*(?P<harmful>\d{1,9})[\s,;]*)?"
    r"(?:neutral\s*[=:]\s*\d{1,9}[\s,;]*)?::(?P<text>.*)"
)
MORE_HARMFUL = "lessons counted more often harmful than helpful, worth measuring"
UNMEASURED = "counts of helpful and harmful left out, as they are no measurement"
DEFAULT = re.compile(r"Given the fields? .{0,500}, produce the fields? ", re.DOTALL)
TEXT_KEYS = ("content", "text", "lesson", "experience", "strategy")
Reader = Callable[[Any, int, LessonTexts], None]


def is_playbook(text: str) -> bool:
    """Whether a text has lines such as "[shr-00001] helpful=3 harmful=1 :: text"."""
    return any(ENTRY.match(line) for line in text.splitlines())


def playbook(text: str, words: int, into: LessonTexts) -> None:
    """An ACE playbook: sections "## NAME", entries "[id] helpful=H harmful=H :: text" over one line or more."""
    entries: list[list[str]] = []
    for line in text.splitlines():
        found = ENTRY.match(line)
        if found:
            entries.append([found["text"]])
            _count(found["helpful"], found["harmful"], into)
        elif line.lstrip().startswith("##"):
            into.note("names of sections left out")
        elif line.strip() and entries:
            entries[-1].append(line)
        elif line.strip():
            into.note("lines before the first entry left out")
    for lines in entries:
        into.add(" ".join(" ".join(lines).split()), words)


def reader(data: Any) -> tuple[str, Reader] | None:
    """The name of the format that some JSON is in, and who reads it; None where it is none of these."""
    if isinstance(data, list):
        return "a list of texts", _entries
    if not isinstance(data, dict):
        return None
    if "candidates" in data or "best_candidate" in data:
        return "a result of GEPA", _gepa
    if isinstance(data.get("skills", data.get("bullets")), dict | list):
        return "a skillbook of ace-framework", _skillbook
    if any(_predictors(data)):
        return "a program of DSPy", _dspy
    if data and all(isinstance(value, str) for value in data.values()):
        return "a candidate of GEPA", _candidate
    return None


def _skillbook(data: Mapping[str, Any], words: int, into: LessonTexts) -> None:
    """Skills, or bullets as they were called before."""
    _entries(data.get("skills", data.get("bullets")), words, into)


def _entries(data: Any, words: int, into: LessonTexts) -> None:
    """Texts or objects with one, in a list or by their ids."""
    items = list(data.items()) if isinstance(data, dict) else list(enumerate(data, 1))
    for name, item in items:
        if not isinstance(item, str | dict):
            raise LibraryError(f"Entry {name} is {_kind(item)}, not a text")
        if isinstance(item, dict) and not _alive(item):
            into.note("entries left out that are marked as deleted")
            continue
        text = item if isinstance(item, str) else _said(item, name)
        into.add(" ".join(text.split()), words)
        if isinstance(item, dict):
            helpful, harmful = (item.get(key, item.get(f"{key}_count")) for key in ("helpful", "harmful"))
            _count(helpful, harmful, into)


def _alive(item: Mapping[str, Any]) -> bool:
    return item.get("active", True) is not False and item.get("status", "active") in ("active", None)


def _said(item: Mapping[str, Any], name: Any) -> str:
    """The text of an entry: its content, or its insight with the issue that it is about."""
    for key in TEXT_KEYS:
        if key in item:
            return _text(item[key], f"{key} of entry {name}")
    parts = [_text(item[key], f"{key} of entry {name}") for key in ("issue", "insight") if item.get(key)]
    if not parts:
        raise LibraryError(f"Entry {name} has no text: expected one of {', '.join(TEXT_KEYS)}")
    return parts[0] if len(set(parts)) == 1 else f"{parts[0].rstrip('. ')}: {parts[1]}"


def _gepa(data: Mapping[str, Any], words: int, into: LessonTexts) -> None:
    """The best candidate of a result."""
    best = data.get("best_candidate")
    if best is None:
        best = _best(data, into)
    if isinstance(best, str):
        _prompt(best, words, into)
    elif isinstance(best, dict):
        _candidate(best, words, into)
    else:
        raise LibraryError(f"The best candidate is {_kind(best)}, not an object of texts")


def _best(data: Mapping[str, Any], into: LessonTexts) -> Any:
    candidates = data["candidates"]
    if not isinstance(candidates, list) or not candidates:
        raise LibraryError("This result holds no list of candidates")
    scores = next((data[key] for key in ("val_aggregate_scores", "scores") if key in data), None)
    if scores is None and len(candidates) > 1:
        scores = [float(n == data.get("best_idx")) for n in range(len(candidates))]
        if not any(scores):
            raise LibraryError("This result does not say which candidate is best: it has no scores")
    scores = [0.0] if scores is None else scores
    if not isinstance(scores, list) or len(scores) != len(candidates):
        raise LibraryError(f"This result has {len(candidates)} candidates, but not as many scores")
    if len(candidates) > 1:
        into.note("candidates, of which the best was taken", len(candidates))
    return max(zip(scores, candidates, strict=True), key=lambda pair: _score(pair[0]))[1]


def _score(value: Any) -> float:
    if value is None:
        return -math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LibraryError(f"A score is {_kind(value)}, not a number")
    return float(value)


def _candidate(data: Mapping[str, Any], words: int, into: LessonTexts) -> None:
    """A text for each component."""
    for name, text in data.items():
        _prompt(_text(text, f"component {name!r}"), words, into)
    if len(data) > 1:
        into.note("components whose texts were put together", len(data))


def _dspy(data: Mapping[str, Any], words: int, into: LessonTexts) -> None:
    """The instructions of the predictors; demonstrations are not lessons."""
    for name, predictor in _predictors(data):
        demos = predictor.get("demos")
        into.note("demonstrations left out", len(demos) if isinstance(demos, list) else 0)
        text = _text(_instructions(predictor), f"the instructions of {name!r}")
        if DEFAULT.match(text):
            into.note("predictors left out that have only their default instructions")
        else:
            _prompt(text, words, into)


def _predictors(data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The predictors of a saved program, at any depth, in their order."""
    waiting: list[tuple[str, Any]] = [("program", data)]
    while waiting:
        name, found = waiting.pop()
        if not isinstance(found, dict):
            continue
        if _instructions(found) is not None:
            yield name, found
        else:
            waiting.extend(reversed(found.items()))


def _instructions(predictor: Mapping[str, Any]) -> Any:
    signature = predictor.get("signature")
    found = signature.get("instructions") if isinstance(signature, dict) else None
    return predictor.get("signature_instructions") if found is None else found


def _prompt(text: str, words: int, into: LessonTexts) -> None:
    (playbook if is_playbook(text) else by_paragraph)(text, words, into)


def _count(helpful: Any, harmful: Any, into: LessonTexts) -> None:
    """Note what the counts say; one that is no number counts as none."""
    numbers = [
        n if isinstance(n, int) else int(str(n)[:9]) if str(n).isdecimal() else 0 for n in (helpful, harmful)
    ]
    into.note(UNMEASURED, any(numbers))
    into.note(MORE_HARMFUL, numbers[1] > numbers[0])


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise LibraryError(f"{what[:1].upper()}{what[1:]} is {_kind(value)}, not a text")
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "a text"}
    return kinds.get(type(value), "a number")
