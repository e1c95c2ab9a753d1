"""What happened to a library: the commits of a store, or the steps of a run."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgewise.experience.library.diff import count_lessons, diff, summarize
from edgewise.experience.library.library import Library
from edgewise.experience.store.checkout import resolve_start
from edgewise.experience.store.store import Commit
from edgewise.toolkit.errors import LibraryError
from edgewise.toolkit.report.run_files import Step


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a log, with more lines that explain it, and the same as data."""

    text: str
    details: Sequence[str]
    data: dict[str, Any]


def read_store_log(commits: Sequence[Commit]) -> list[LogEntry]:
    """The commits, the newest first."""
    befores = [*(each.library for each in commits[1:]), Library()]
    return [_committed(commit, before) for commit, before in zip(commits, befores, strict=True)]


def _committed(commit: Commit, before: Library) -> LogEntry:
    change = summarize(diff(before, commit.library))
    lessons = count_lessons(commit.library)
    parts = [f"{commit.number:>3}", commit.id, f"{commit.at:%Y-%m-%d %H:%M}", commit.author, lessons, change]
    merged = [f"merged with {commit.merged}"] if commit.merged else []
    data = {
        "number": commit.number,
        "id": commit.id,
        "at": commit.at.isoformat(),
        "author": commit.author,
        "message": commit.message,
        "lessons": len(commit.library),
        "change": change,
        "parent": commit.parent,
        "merged": commit.merged,
        "version": commit.library.version,
    }
    return LogEntry("  ".join(filter(None, [*parts, " ".join(commit.message.split())])), merged, data)


def read_run_log(path: Path) -> list[LogEntry]:
    """The steps of a run in their order: what was applied, what was refused and why, what the gate decided."""
    files = sorted(path.glob("steps/*/step.json"))
    if not files:
        raise LibraryError(f"{path} has no steps: the run did not get that far, or it learned nothing.")
    began = resolve_start(None, path).library or Library()
    libraries = [began, *(_library(file.with_name("library.json")) for file in files)]
    changes = [summarize(diff(before, after)) for before, after in pairwise(libraries)]
    return [_learned(*each) for each in zip(map(_read, files), libraries[1:], changes, strict=True)]


def _learned(step: Step, library: Library, change: str) -> LogEntry:
    applied = sum(each.applied for each in step.operations)
    head = f"step {step.step}: {applied} of {len(step.operations)} operations applied; {_decided(step)}"
    text = f"{head}; {count_lessons(library)}, {change}"
    data = {**step.model_dump(exclude={"groups"}), "lessons": len(library), "change": change}
    return LogEntry(text, list(_refused(step)), data)


def _decided(step: Step) -> str:
    """What the gate said, in a phrase."""
    gate = step.gate
    if step.incomplete:
        return f"incomplete: {step.incomplete}"
    if gate is None:
        return "no gate"
    gain = f"{gate.difference:+.3f} on {gate.rows} rows"
    if gate.winner:
        return f"gate kept {gate.winner!r} ({gain})"
    if gate.worse:
        return f"gate refused the best candidate, as anchors got worse: {', '.join(gate.worse)} ({gain})"
    return f"gate kept what there was ({gain})" if gate.rows else "nothing for the gate to compare"


def _refused(step: Step) -> Iterator[str]:
    for each in step.operations:
        if not each.applied:
            yield f"refused: {each.action} {each.id or ''} {each.text or ''}".rstrip() + f" ({each.reason})"
    for each in step.dropped:
        yield f"{'kept though harmful' if each.kept else 'dropped'}: {each.lesson.text} ({each.reason})"


def _read(file: Path) -> Step:
    try:
        return Step.model_validate(json.loads(file.read_text("utf-8")))
    except (OSError, ValidationError, ValueError, RecursionError) as error:
        raise LibraryError(f"{file} is damaged ({' '.join(str(error).split())[:200]}).") from error


def _library(file: Path) -> Library:
    try:
        return Library.from_json(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise LibraryError(f"{file} can't be read ({error}).") from error
