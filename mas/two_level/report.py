"""What learning at two levels shows to people: lines for the terminal, sections for report.html."""

from collections.abc import Iterable
from typing import Any
from xml.etree.ElementTree import Element

from edgewise.experience.library.diff import count_lessons
from edgewise.mas.two_level.libraries import FILE, TwoLibraries
from edgewise.toolkit.cli.output import render_costs
from edgewise.toolkit.report import run_files, run_report
from edgewise.toolkit.report.html import node, table
from edgewise.toolkit.report.run_files import FinishedRun
from edgewise.toolkit.run.runner import Result

NAMES = {"planner": "the planner", "sub": "the sub-agents"}


def render_result(result: Result) -> list[str]:
    """Return what `edgewise improve --by graph --set search=two_level` prints."""
    libraries = TwoLibraries.from_json(result.artifact.files[FILE])
    lines = [*result.evidence.lines(), "", run_report.summarize(run_files.read_run(result.path)), ""]
    for level, library in (("planner", libraries.planner), ("sub", libraries.sub)):
        lines.append(f"{count_lessons(library)} for {NAMES[level]}" + (":" if len(library) else ""))
        lines += [f"  [{label}] {lesson.text}" for label, lesson in library.labels().items()]
    return [
        *lines,
        "",
        *render_costs(result),
        f"artefact: {result.path / 'artifact'}",
        f"report:   {result.path / 'report.html'}",
    ]


def build_sections(run: FinishedRun) -> Iterable[Element]:
    """Yield the report's sections: the lessons of each level, and what each step found at each of them."""
    libraries = TwoLibraries.from_json(run.result.artifact[FILE])
    for level, library in (("planner", libraries.planner), ("sub", libraries.sub)):
        yield node("h2", f"Lessons for {NAMES[level]}")
        rows = [[label, lesson.text, str(lesson.born)] for label, lesson in library.labels().items()]
        if rows:
            yield table(["", "lesson", "born at step"], rows, words=2)
        else:
            yield node("p", "None.", class_="note")

    yield node("h2", "Steps")
    rows = []
    for step in run_files.read_steps(dict[str, Any], run.path):
        queries, skipped = len(step["queries"]), step["skipped"]
        signal = {level: queries - sum(reasons.values()) for level, reasons in skipped.items()}
        reasons = [f"{level}: {why} {n}" for level, counts in skipped.items() for why, n in counts.items()]
        gate = step["gate"] or {}
        counts = f"{signal['main']} / {signal['sub']} of {queries}"
        rows.append([str(step["step"]), counts, gate.get("winner") or "none", "; ".join(reasons)])
    yield table(["step", "rows with signal: planner / sub-agents", "accepted", "without signal"], rows, words=4)
