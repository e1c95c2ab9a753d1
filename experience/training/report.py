"""Sections of report.html about lessons: the learning curve, the final library, and the operations of each step."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from pydantic import BaseModel

from edgewise.experience.library.library import Library
from edgewise.experience.store.run_steps import StoredOperation, StoredRemoval, StoredStep
from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.report.charts import Point, Series, draw_curves
from edgewise.toolkit.report.html import format_signed, node, note, table
from edgewise.toolkit.report.run_files import FinishedRun, damaged_file, read_file, read_steps

OUTCOMES = ("applied", "joined", "rejected")
"""Outcomes of an operation on the library."""


class StoredEffects(BaseModel, frozen=True):
    """The part of effects.json that the report needs."""

    dropped: list[StoredRemoval] = []


def has_lessons(content: Mapping[str, Any]) -> bool:
    """Whether the content of a library.json holds any lesson."""
    return bool(Library.from_json(content).lessons)


def build_sections(run: FinishedRun) -> Iterable[Element]:
    """Yield the sections of a run on lessons; nothing for a run without steps and library, such as an evaluation."""
    steps = read_steps(StoredStep, run.path)
    yield from render_curve(steps)
    if "library.json" in run.result.artifact:
        yield from render_library(run, steps)
    yield from render_steps(steps)


def render_curve(steps: Sequence[StoredStep]) -> Iterable[Element]:
    """Yield the learning curve: mean rewards and the share of mixed groups; nothing if no step has rollouts."""
    sampled = [step for step in steps if step.statistics.runs]
    if not sampled:
        return
    # Means of few rollouts are noisy: their dots are hollow, and the line passes them by.
    few = max(step.statistics.runs for step in sampled) / 4
    rewards, mixed = [], []
    for step in sampled:
        is_small = step.statistics.runs < few
        rewards.append(Point(step.step, step.statistics.mean_reward, hollow=is_small))
        mixed.append(Point(step.step, step.statistics.mixed, hollow=is_small))

    # On the validation rows: the library of the time, and the best candidate to follow it.
    current, best = [], []
    for step in steps:
        if step.gate and step.gate.rows and "current" in step.gate.means:
            mean = step.gate.means["current"]
            current.append(Point(step.step, mean))
            best.append(Point(step.step, mean + step.gate.difference, hollow=not step.gate.winner))
    series = [
        Series("rollouts", "a", rewards),
        Series("validation, current library", "c", current),
        Series("validation, best candidate", "d", best, joined=False),
    ]

    reward_chart = draw_curves(
        [line for line in series if line.points], "Mean reward per step", ("step", "mean reward")
    )
    mixed_chart = draw_curves(
        [Series("mixed groups", "b", mixed)],
        "Share of mixed groups per step",
        ("step", "share of groups"),
        percent=True,
    )
    yield node("h2", "Learning curve")
    yield node("div", reward_chart, mixed_chart, class_="side")
    yield note(
        "Groups are mixed when their rewards differ: only they show what helps. A hollow dot is a step with "
        "few runs. A filled diamond is a candidate library that was kept, a hollow one was not."
    )


def render_library(run: FinishedRun, steps: Sequence[StoredStep]) -> Iterable[Element]:
    """Yield the lessons of the final library with their effects, and the lessons that did harm."""
    try:
        lessons = Library.from_json(run.result.artifact["library.json"]).lessons
    except ArtifactError as error:
        raise damaged_file(run.path / "result.json", error) from error
    yield node("h2", "Lessons")
    if not lessons:
        yield node("p", "No lesson was kept.")
        return

    rows = []
    for i, lesson in enumerate(lessons):
        born = "start" if lesson.born == 0 else str(lesson.born)
        effect, uses = "", ""
        if x := lesson.effect:
            effect = f"{format_signed(x.estimate)} [{format_signed(x.low)}, {format_signed(x.high)}]"
            uses = f"{x.uses:,}"
        rows.append([f"G{i}", lesson.text, lesson.kind, born, f"{len(lesson.sources):,}", effect, uses])
    titles = ["", "lesson", "kind", "born at step", "source rows", "effect [95 %]", "uses"]
    yield table(titles, rows, words=3)
    yield note(
        "The effect of a lesson is the change in mean reward where it is shown, measured on rollouts that saw a "
        "random part of the library, or by leaving it out. No figure: not measured."
    )

    file = run.path / "effects.json"
    removals = [removal for step in steps for removal in step.dropped]
    removals += read_file(StoredEffects, file).dropped if file.exists() else []
    # A locked lesson stays, and is measured to be harmful again and again: the last figure counts.
    latest = {(removal.lesson.text, removal.kept): removal for removal in removals}
    for removal in latest.values():
        verdict = "Harmful, but locked" if removal.kept else "Dropped"
        yield note(f"{verdict}: “{removal.lesson.text}” {removal.reason}.")


def render_steps(steps: Sequence[StoredStep]) -> Iterable[Element]:
    """Yield a list of the steps with their operations; nothing without steps."""
    if not steps:
        return
    yield node("h3", "Steps")
    for step in steps:
        counts = Counter(map(_classify_outcome, step.operations))
        outcomes = ", ".join(f"{counts[name]} {name}" for name in OUTCOMES if counts[name]) or "no operations"
        summary = f"Step {step.step}, epoch {step.epoch}: {outcomes}{_describe_decision(step)}"

        notes = []
        if step.incomplete:
            notes.append(note(f"The update of the library failed: {step.incomplete}"))
        reasons = Counter(group.skipped for group in step.groups if group.skipped)
        for reason, count in reasons.most_common():
            notes.append(note(f"{count:,} of {len(step.groups):,} groups gave no lesson: {reason}"))
        rows = [[x.action, x.text or x.id or "", _classify_outcome(x), x.reason] for x in step.operations]
        operations = table(["operation", "lesson", "", "reason"], rows, words=4) if rows else None
        yield node("details", node("summary", summary), *notes, operations)


def _describe_decision(step: StoredStep) -> str:
    """Return the gate's decision on the step's best candidate, "" without a gate."""
    gate = step.gate
    if gate is None:
        return ""
    if not gate.rows:
        return "; no candidate differed from the current library"
    gain = f"{format_signed(gate.difference)} on {gate.rows:,} validation rows, p {gate.p:.2g}"
    if gate.winner:
        return f"; kept “{gate.winner}” ({gain})"
    if gate.worse:
        return f"; refused, as anchors got worse: {', '.join(gate.worse)} ({gain})"
    return f"; nothing was shown to be better ({gain}, needed {gate.level:.2g})"


def _classify_outcome(operation: StoredOperation) -> str:
    if operation.applied:
        return "applied"
    # An addition that repeats a lesson is joined with it: it is not applied, and its reason begins so.
    return "joined" if operation.reason.startswith("joined") else "rejected"
