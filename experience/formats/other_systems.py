"""
The texts of lessons in the JSON and the playbooks of other systems.

Lenient about what they add from version to version, strict about the types of what is read. Counts of "helpful" and
"harmful" are the opinions of a model about its own advice, so none of them becomes a measured effect.

Each reader takes the data, the most `words` a lesson may have, and the `LessonTexts` that it adds to.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgewise.experience.formats.plain_text import LessonTexts, read_plain_text
from edgewise.toolkit.errors import LibraryError

ENTRY = re.compile(
    r"\s*(?:[-*]\s*)?\[(?P<id>[^\]\n]{1,64})\]\s*"
    r"(?:helpful\s*[=:]\s*(?P<helpful>\d{1,9})[\s,;]*)?(?:harmful\s*[=:]\s*(?P<harmful>\d{1,9})[\s,;]*)?"
    r"(?:neutral\s*[=:]\s*\d{1,9}[\s,;]*)?::(?P<text>.*)"
)
MORE_HARMFUL = "lessons counted more often harmful than helpful, worth measuring"
UNMEASURED = "counts of helpful and harmful left out, as they are no measurement"
DEFAULT_INSTRUCTIONS = re.compile(r"Given the fields? .{0,500}, produce the fields? ", re.DOTALL)
TEXT_KEYS = ("content", "text", "lesson", "experience", "strategy")
KINDS = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "a text"}
Reader = Callable[[Any, int, LessonTexts], None]


def is_playbook(text: str) -> bool:
    """Return whether a text has lines such as "[shr-00001] helpful=3 harmful=1 :: text"."""
    return any(ENTRY.match(line) for line in text.splitlines())


def read_playbook(text: str, words: int, lessons: LessonTexts) -> None:
    """Read an ACE playbook: sections "## NAME", entries "[id] helpful=H harmful=H :: text" over one line or more."""
    entries: list[list[str]] = []
    # A line that begins no entry goes on with the one before.
    for line in text.splitlines():
        match = ENTRY.match(line)
        if match:
            entries.append([match["text"]])
            _note_counts(match["helpful"], match["harmful"], lessons)
        elif line.lstrip().startswith("##"):
            lessons.count("names of sections left out")
        elif line.strip() and entries:
            entries[-1].append(line)
        elif line.strip():
            lessons.count("lines before the first entry left out")
    for lines in entries:
        lessons.add(" ".join(" ".join(lines).split()), words)


def find_reader(data: Any) -> tuple[str, Reader] | None:
    """Return the name of the format of some JSON and its reader; None where it is none of these."""
    # From the most telling keys to the least: any object of texts could be a candidate.
    if isinstance(data, list):
        return "a list of texts", read_entries
    if not isinstance(data, dict):
        return None
    if "candidates" in data or "best_candidate" in data:
        return "a result of GEPA", read_gepa_result
    entries = data.get("skills", data.get("bullets"))  # the name of older versions
    if isinstance(entries, dict | list):
        return "a skillbook of ace-framework", lambda _, words, lessons: read_entries(entries, words, lessons)
    if any(_find_predictors(data)):
        return "a program of DSPy", read_dspy_program
    if data and all(isinstance(value, str) for value in data.values()):
        return "a candidate of GEPA", read_gepa_candidate
    return None


def read_entries(data: Any, words: int, lessons: LessonTexts) -> None:
    """Read texts, or objects with one, in a list or by their ids."""
    for name, item in data.items() if isinstance(data, dict) else enumerate(data, 1):
        if isinstance(item, str):
            lessons.add(" ".join(item.split()), words)
            continue
        if not isinstance(item, dict):
            raise LibraryError(f"Entry {name} is {_name_kind(item)}, not a text")
        if item.get("active", True) is False or item.get("status", "active") not in ("active", None):
            lessons.count("entries left out that are marked as deleted")
            continue

        # The content, or the insight with the issue that it is about.
        key = next((key for key in TEXT_KEYS if key in item), None)
        keys = [key] if key else [key for key in ("issue", "insight") if item.get(key)]
        parts = [_check_text(item[key], f"{key} of entry {name}") for key in keys]
        if not parts:
            raise LibraryError(f"Entry {name} has no text: expected one of {', '.join(TEXT_KEYS)}")
        text = parts[0] if len(set(parts)) == 1 else f"{parts[0].rstrip('. ')}: {parts[1]}"
        lessons.add(" ".join(text.split()), words)
        helpful, harmful = (item.get(key, item.get(f"{key}_count")) for key in ("helpful", "harmful"))
        _note_counts(helpful, harmful, lessons)


def read_gepa_result(data: Mapping[str, Any], words: int, lessons: LessonTexts) -> None:
    """Read the best candidate of a result: the one it names, or the one of the best score."""
    best = data.get("best_candidate")
    if best is None:
        candidates = data["candidates"]
        if not isinstance(candidates, list) or not candidates:
            raise LibraryError("This result holds no list of candidates")

        # Older results have their scores under another key, or only an index.
        scores = next((data[key] for key in ("val_aggregate_scores", "scores") if key in data), None)
        if scores is None:
            scores = [float(n == data.get("best_idx")) for n in range(len(candidates))]
            if len(candidates) > 1 and not any(scores):
                raise LibraryError("This result does not say which candidate is best: it has no scores")
        if not isinstance(scores, list) or len(scores) != len(candidates):
            raise LibraryError(f"This result has {len(candidates)} candidates, but not as many scores")
        if len(candidates) > 1:
            lessons.count("candidates, of which the best was taken", len(candidates))
        for score in scores:
            if isinstance(score, bool) or not isinstance(score, int | float | None):
                raise LibraryError(f"A score is {_name_kind(score)}, not a number")
        # GEPA has null for a candidate that was never evaluated on all rows.
        numbers = [-math.inf if score is None else float(score) for score in scores]
        best = candidates[numbers.index(max(numbers))]

    if isinstance(best, str):
        _read_prompt(best, words, lessons)
    elif isinstance(best, dict):
        read_gepa_candidate(best, words, lessons)
    else:
        raise LibraryError(f"The best candidate is {_name_kind(best)}, not an object of texts")


def read_gepa_candidate(data: Mapping[str, Any], words: int, lessons: LessonTexts) -> None:
    """Read the text of each component."""
    for name, text in data.items():
        _read_prompt(_check_text(text, f"component {name!r}"), words, lessons)
    if len(data) > 1:
        lessons.count("components whose texts were put together", len(data))


def read_dspy_program(data: Mapping[str, Any], words: int, lessons: LessonTexts) -> None:
    """Read the instructions of the predictors; demonstrations are not lessons."""
    for name, instructions, demos in _find_predictors(data):
        lessons.count("demonstrations left out", len(demos) if isinstance(demos, list) else 0)
        text = _check_text(instructions, f"the instructions of {name!r}")
        if DEFAULT_INSTRUCTIONS.match(text):
            lessons.count("predictors left out that have only their default instructions")
        else:
            _read_prompt(text, words, lessons)


def _find_predictors(data: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, instructions and demonstrations of a saved program's predictors, at any depth, in their order."""
    # Depth first without recursion, as a hostile file may nest deeper than Python calls.
    stack: list[tuple[str, Any]] = [("program", data)]
    while stack:
        name, item = stack.pop()
        if not isinstance(item, dict):
            continue
        signature = item.get("signature")
        instructions = signature.get("instructions") if isinstance(signature, dict) else None
        if instructions is None:
            instructions = item.get("signature_instructions")  # older versions
        if instructions is not None:
            yield name, instructions, item.get("demos")
        else:
            stack.extend(reversed(item.items()))


def _read_prompt(text: str, words: int, lessons: LessonTexts) -> None:
    (read_playbook if is_playbook(text) else read_plain_text)(text, words, lessons)


def _note_counts(helpful: Any, harmful: Any, lessons: LessonTexts) -> None:
    """Count what helpful and harmful say; one that is no number counts as none."""
    numbers = []
    for value in (helpful, harmful):
        digits = str(value)[:9] if str(value).isdecimal() else "0"
        numbers.append(value if isinstance(value, int) else int(digits))
    lessons.count(UNMEASURED, any(numbers))
    lessons.count(MORE_HARMFUL, numbers[1] > numbers[0])


def _check_text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise LibraryError(f"{what[:1].upper()}{what[1:]} is {_name_kind(value)}, not a text")
    return value


def _name_kind(value: Any) -> str:
    """Return the kind of a JSON value with its article."""
    return KINDS.get(type(value), "a number")
