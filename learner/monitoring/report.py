"""What training shows to people: lines for the terminal, sections for report.html."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from xml.etree.ElementTree import Element

from pydantic import BaseModel

from edgewise.learner.monitoring.retention import Retention
from edgewise.toolkit.cli.output import render_costs
from edgewise.toolkit.report import charts, run_files, run_report
from edgewise.toolkit.report.charts import Point, Series
from edgewise.toolkit.report.html import node, table
from edgewise.toolkit.report.run_files import FinishedRun, StepStatistics
from edgewise.toolkit.run.runner import Result

ABOUT = "weights.json"
ROUNDING = 1e-6
"""Nats a token: a smaller KL is that of one update, whose ratio is 1 but for rounding."""


def render_result(result: Result) -> list[str]:
    """What `edgewise improve --by weights` prints."""
    about = json.loads((result.path / ABOUT).read_text("utf-8"))
    return [
        *result.evidence.lines(),
        "",
        run_report.summarize(run_files.read_run(result.path)),
        f"{_about(about)}.",
        "",
        *render_costs(result),
        f"artefact: {result.path / 'artifact'}",
        f"report:   {result.path / 'report.html'}",
    ]


def _about(about: Mapping[str, Any]) -> str:
    ended = f"; learning stopped early: {about['stopped']}" if about["stopped"] else ""
    return f"Method {about['name']}, {about['steps']:,} steps on {about['trained']}{ended}"


class TrainingStep(BaseModel, frozen=True):
    """The part of a step.json that the report needs; `went` tells where learning went back to, and why."""

    step: int
    epoch: int
    statistics: StepStatistics
    went: str = ""


def build_sections(run: FinishedRun) -> Iterable[Element]:
    """Yield the sections of report.html about training."""
    about = run_files.read_file(dict[str, Any], run.path / ABOUT)
    steps = run_files.read_steps(TrainingStep, run.path)
    yield node("h2", "Learning curve")
    yield node("p", f"{_about(about)}.", class_="note")
    sampled = [step for step in steps if step.statistics.runs]
    if "kept" in about:
        yield node("p", str(Retention.from_json(about["kept"])))
        yield from _lessons_absorbed(sampled)
    elif sampled:
        yield from _curves(sampled)
    yield node("h2", "Method")
    differs = f" Differs from GRPO: {about['differs']}." if about["differs"] else ""
    yield node("p", f"{about['name']}, arXiv {about['paper']}.{differs}")
    axes = [line.split(": ", 1) for line in about["method"]]
    yield table(["axis", "part and parameters"], axes, words=2)


def _chart(
    steps: Sequence[TrainingStep],
    name: str,
    style: str,
    title: str,
    value: Callable[[StepStatistics], float | None],
    *,
    percent: bool = False,
) -> Element:
    found = [(step, value(step.statistics)) for step in steps]
    points = [Point(step.step, y, hollow=bool(step.went)) for step, y in found if y is not None]
    # Shares and most rewards lie between 0 and 1; nothing else has a usual size.
    most = 1.0 if percent or style == "a" else max((p.y for p in points), default=0.0) or 1.0
    return charts.draw_curves([Series(name, style, points)], title, ("step", name), percent, most)


def _lessons_absorbed(steps: Sequence[TrainingStep]) -> Iterable[Element]:
    chart = partial(_chart, steps)
    yield node(
        "div",
        chart("mean reward", "a", "Mean reward per step, with the lessons", lambda x: x.mean_reward),
        chart(
            "share of answers",
            "b",
            "Answers learnt from, of all",
            lambda x: (x.kept or 0) / x.runs,
            percent=True,
        ),
        chart("nats a token", "c", "Loss on them, without the lessons", lambda x: x.loss),
        class_="side",
    )


def _curves(steps: Sequence[TrainingStep]) -> Iterable[Element]:
    chart = partial(_chart, steps)

    def moved(numbers: StepStatistics) -> float | None:
        return None if numbers.kl is None else 1000 * numbers.kl

    yield node(
        "div",
        chart("mean reward", "a", "Mean reward per step", lambda x: x.mean_reward),
        chart("mixed groups", "b", "Share of mixed groups per step", lambda x: x.mixed, percent=True),
        chart("tokens of a reply", "c", "Mean length of replies per step", lambda x: x.length),
        chart("nats a token", "d", "Entropy of replies per step", lambda x: x.entropy),
        class_="side",
    )
    if max(step.statistics.kl or 0.0 for step in steps) > ROUNDING:
        yield chart("thousandths of a nat a token", "b", "KL of an update per step", moved)
    else:
        text = "No KL: each batch was learnt from in one update, so it came from the policy that was updated."
        yield node("p", text, class_="note")
    for step in steps:
        if step.went:
            yield node("p", f"Step {step.step}: {step.went}.", class_="note")
    text = (
        "Groups are mixed when their rewards differ: only they say what to learn. A hollow dot is a step after which "
        "learning went back to earlier weights."
    )
    yield node("p", text, class_="note")
