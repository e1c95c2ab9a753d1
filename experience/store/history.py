"""The history of a library as text and data: the commits of a store, or the steps of a run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgewise.experience.library.diff import count_lessons, diff, summarize
from edgewise.experience.library.library import Library
from edgewise.experience.store.checkout import resolve_start
from edgewise.experience.store.run_steps import StoredStep
from edgewise.experience.store.store import Commit
from edgewise.toolkit.errors import LibraryError


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a log, with more lines that explain it, and the same as data."""

    text: str
    details: Sequence[str]
    data: dict[str, Any]


def read_store_log(commits: Sequence[Commit]) -> list[LogEntry]:
    """Return an entry for each commit; `commits` are all of a library, the newest first."""
    entries = []
    # The commit with the number before is the parent: numbers of one name form a chain.
    for commit, before in zip(commits, [*(c.library for c in commits[1:]), Library()], strict=True):
        change = summarize(diff(before, commit.library))
        date, lessons = f"{commit.at:%Y-%m-%d %H:%M}", count_lessons(commit.library)
        message = " ".join(commit.message.split())
        columns = [f"{commit.number:>3}", commit.id, date, commit.author, lessons, change, message]
        data = {"number": commit.number, "id": commit.id, "at": commit.at.isoformat()}
        data |= {"author": commit.author, "message": commit.message}
        data |= {"lessons": len(commit.library), "change": change}
        data |= {"parent": commit.parent, "merged": commit.merged, "version": commit.library.version}
        details = [f"merged with {commit.merged}"] if commit.merged else []
        entries.append(LogEntry("  ".join(filter(None, columns)), details, data))
    return entries


def read_run_log(path: Path) -> list[LogEntry]:
    """Return an entry for each step of a run, in order: operations applied and refused, and the gate's decision."""
    files = sorted(path.glob("steps/*/step.json"))
    if not files:
        raise LibraryError(f"{path} has no steps: the run did not get that far, or it learned nothing.")

    # The library before each step is that after the step before; the first one's is the start of the run.
    libraries = [resolve_start(None, path).library or Library()]
    steps = []
    for file in files:
        try:
            steps.append(StoredStep.model_validate(json.loads(file.read_text("utf-8"))))
        except (OSError, ValidationError, ValueError, RecursionError) as error:
            # Pydantic's message has many lines; the first problem is at its beginning.
            raise LibraryError(f"{file} is damaged ({' '.join(str(error).split())[:200]}).") from error
        file = file.with_name("library.json")
        try:
            libraries.append(Library.from_json(json.loads(file.read_text("utf-8"))))
        except (OSError, ValueError, RecursionError) as error:
            raise LibraryError(f"{file} can't be read ({error}).") from error

    entries = []
    for step, (before, after) in zip(steps, pairwise(libraries), strict=True):
        change = summarize(diff(before, after))
        applied = sum(operation.applied for operation in step.operations)
        text = f"step {step.step}: {applied} of {len(step.operations)} operations applied; "
        text += f"{_describe_decision(step)}; {count_lessons(after)}, {change}"
        details = []
        for op in step.operations:
            if not op.applied:
                target = f"refused: {op.action} {op.id or ''} {op.text or ''}".rstrip()
                details.append(f"{target} ({op.reason})")
        for x in step.dropped:
            details.append(f"{'kept though harmful' if x.kept else 'dropped'}: {x.lesson.text} ({x.reason})")
        # Without the groups, which are large.
        data = {**step.model_dump(exclude={"groups"}), "lessons": len(after), "change": change}
        entries.append(LogEntry(text, details, data))
    return entries


def _describe_decision(step: StoredStep) -> str:
    """Return the gate's decision in a phrase."""
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
