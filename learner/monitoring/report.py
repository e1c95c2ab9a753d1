"""Training for people: lines for the terminal, sections for report.html."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from pydantic import BaseModel

from edgewise.learner.monitoring.retention import Retention
from edgewise.toolkit.cli.output import render_costs
from edgewise.toolkit.report import charts, run_files, run_report
from edgewise.toolkit.report.charts import Point, Series
from edgewise.toolkit.report.html import node, note, table
from edgewise.toolkit.report.run_files import FinishedRun, StepStatistics
from edgewise.toolkit.run.runner import Result

WEIGHTS_FILE = "weights.json"
MIN_KL = 1e-6
"""Nats a token. A smaller KL is rounding: with one update for a batch the ratio is 1."""


class Curve(NamedTuple):
    """A chart of one statistic over the steps; `axis` names the y axis."""

    axis: str
    style: str
    title: str
    value: Callable[[StepStatistics], float | None]
    is_share: bool = False


CURVES = (
    Curve("mean reward", "a", "Mean reward per step", lambda x: x.mean_reward),
    Curve("mixed groups", "b", "Share of mixed groups per step", lambda x: x.mixed, is_share=True),
    Curve("tokens of a reply", "c", "Mean length of replies per step", lambda x: x.length),
    Curve("nats a token", "d", "Entropy of replies per step", lambda x: x.entropy),
)
DISTILLATION_CURVES = (
    Curve("mean reward", "a", "Mean reward per step, with the lessons", lambda x: x.mean_reward),
    Curve("share of answers", "b", "Answers learnt from, of all", lambda x: (x.kept or 0) / x.runs, is_share=True),
    Curve("nats a token", "c", "Loss on them, without the lessons", lambda x: x.loss),
)
KL_CURVE = Curve("thousandths of a nat a token", "b", "KL of an update per step", lambda x: x.kl and 1000 * x.kl)


class TrainingStep(BaseModel, frozen=True):
    """The part of a step.json that the report needs; `went` tells where learning went back to, and why."""

    step: int
    epoch: int
    statistics: StepStatistics
    went: str = ""


def render_result(result: Result) -> list[str]:
    """Return the lines that `edgewise improve --by weights` prints."""
    about = json.loads((result.path / WEIGHTS_FILE).read_text("utf-8"))
    return [
        *result.evidence.lines(),
        "",
        run_report.summarize(run_files.read_run(result.path)),
        _render_method(about),
        "",
        *render_costs(result),
        f"artefact: {result.path / 'artifact'}",
        f"report:   {result.path / 'report.html'}",
    ]


def _render_method(about: Mapping[str, Any]) -> str:
    end = f"; learning stopped early: {about['stopped']}" if about["stopped"] else ""
    return f"Method {about['name']}, {about['steps']:,} steps on {about['trained']}{end}."


def build_sections(run: FinishedRun) -> Iterable[Element]:
    """Yield the sections of report.html about training."""
    about = run_files.read_file(dict[str, Any], run.path / WEIGHTS_FILE)
    steps = run_files.read_steps(TrainingStep, run.path)
    yield node("h2", "Learning curve")
    yield note(_render_method(about))
    # A step without finished rollouts has no mean.
    steps = [step for step in steps if step.statistics.runs]
    # Distillation writes this key, see `learner.absorption.loop`; its steps have other statistics.
    if "kept" in about:
        yield node("p", str(Retention.from_json(about["kept"])))
        yield node("div", *(_draw_curve(steps, curve) for curve in DISTILLATION_CURVES), class_="side")
    elif steps:
        yield node("div", *(_draw_curve(steps, curve) for curve in CURVES), class_="side")
        if max(step.statistics.kl or 0.0 for step in steps) > MIN_KL:
            yield _draw_curve(steps, KL_CURVE)
        else:
            yield note("No KL: each batch was learnt from in one update, so it came from the policy that was updated.")
        yield from (note(f"Step {step.step}: {step.went}.") for step in steps if step.went)
        yield note(
            "Groups are mixed when their rewards differ: only they say what to learn. A hollow dot is a step after "
            "which learning went back to earlier weights."
        )

    yield node("h2", "Method")
    differs = f" Differs from GRPO: {about['differs']}." if about["differs"] else ""
    yield node("p", f"{about['name']}, arXiv {about['paper']}.{differs}")
    axes = [line.split(": ", 1) for line in about["method"]]
    yield table(["axis", "part and parameters"], axes, words=2)


def _draw_curve(steps: Sequence[TrainingStep], curve: Curve) -> Element:
    values = [(step, curve.value(step.statistics)) for step in steps]
    points = [Point(step.step, y, hollow=bool(step.went)) for step, y in values if y is not None]
    # Shares and most rewards lie between 0 and 1; nothing else has a usual size.
    most = max((p.y for p in points), default=0.0) or 1.0
    if curve.is_share or curve.axis == "mean reward":
        most = 1.0
    series = [Series(curve.axis, curve.style, points)]
    return charts.draw_curves(series, curve.title, ("step", curve.axis), curve.is_share, most)
