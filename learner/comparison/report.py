"""A comparison of methods for people: one HTML file that opens without a network."""

import math
from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element

from edgewise.learner.comparison import tables
from edgewise.learner.comparison.results import ComparisonResult, MethodResult
from edgewise.toolkit.evaluation.statistics import Interval
from edgewise.toolkit.report import charts
from edgewise.toolkit.report.charts import Bar, Point, Series
from edgewise.toolkit.report.html import node, page, table
from edgewise.toolkit.util.files import replace_atomically

HOW = (
    "Each interval covers both the choice of seeds and that of rows: variances by mean squares of seeds and rows, "
    "Student's t with Satterthwaite's degrees of freedom. With two or three seeds they are wide, for so few say "
    "little; with one they are over rows alone. Differences are paired: the same row, the same seed. p (Holm) "
    "allows for as many comparisons as there are."
)
CURVES = (
    "The mean reward of each step's rollouts, the mean over seeds, not smoothed; rows differ from step to step, and "
    "methods that choose rows or give hints meet others than the rest. The band is the 95 % interval of the mean over "
    "seeds by Student's t; with one seed there is none. A hollow dot is a step that not all seeds reached."
)


def write_report(found: ComparisonResult) -> Path:
    """Write report.html into the comparison's directory; its path."""
    file = found.path / "report.html"
    with replace_atomically(file) as growing:
        growing.write_bytes(page(f"{found.task}: methods compared", _sections(found)))
    return file


def _sections(found: ComparisonResult) -> Iterable[Element]:
    yield node("h1", f"{found.task}: methods compared")
    yield node("p", summarize_finding(found), class_="finding")
    limits = ", ".join(f"{name} {most:,}" for name, most in found.limits.items())
    shared = f" Limits for all runs, each of which may use the same share: {limits}." if limits else ""
    yield _note(f"{tables.render_heading(found)}. Model {found.model}, {tables.render_total(found)}.{shared}")
    yield from _measured(found)
    yield from _curves(found)
    yield node("h2", "What a run takes, on average")
    yield _table(tables.build_cost_table(found))
    yield from _runs(found)
    yield node("h2", "Methods")
    yield from map(_method, found.methods)


def summarize_finding(found: ComparisonResult) -> str:
    """What the comparison found, in one sentence."""
    first = found.methods[0].name
    parts = [f"{line.name} {_change(line.against, line.holm)}" for line in found.methods if line.against]
    if parts:
        return f"After training, against {first}: {'; '.join(parts)}."
    parts = [f"{line.name} {_change(line.gain, None)}" for line in found.methods if line.gain]
    return (
        f"Change of the mean reward: {'; '.join(parts)}." if parts else "No run has ended with a measurement."
    )


def _change(change: Interval, p: float | None) -> str:
    doubt = ", which chance alone may explain" if change.low <= 0 <= change.high and change.estimate else ""
    corrected = "" if p is None else f" (p {p:.4f} by Holm)"
    return f"{tables.render_interval(change, '+')}{corrected}{doubt}"


def _measured(found: ComparisonResult) -> Iterable[Element]:
    yield node("h2", "Held-out rows")
    yield _table(tables.build_reward_table(found))
    after = [_bar(line.name, line.after) for line in found.methods if line.after]
    if after:
        yield charts.draw_intervals(after, "Mean reward after training, with 95 % interval")
    against = [_bar(line.name, line.against) for line in found.methods if line.against]
    if against:
        yield node("h3", f"Difference from “{found.methods[0].name}”")
        yield charts.draw_intervals(against, "Paired difference of mean rewards with 95 % interval")
    yield _note(HOW)


def _bar(name: str, found: Interval) -> Bar:
    ends = [end if math.isfinite(end) else None for end in (found.low, found.high)]
    return Bar(name, found.estimate, *ends)


def _curves(found: ComparisonResult) -> Iterable[Element]:
    """The first method, and each of the others beside it in a picture of its own, all with the same axes."""
    first, *others = found.methods
    bins = [each for line in found.methods for each in line.curve]
    if not bins:
        return
    most = max([1.0, *(each.mean if each.high is None else each.high for each in bins)])
    pairs = [[first, other] for other in others] or [[first]]
    drawn = [[line for line in pair if line.curve] for pair in pairs]
    yield node("h2", "Learning curves")
    yield node("div", *(_curve(pair, most) for pair in drawn if pair), class_="side")
    yield _note(CURVES)


def _curve(lines: list[MethodResult], most: float) -> Element:
    series = []
    for line, style in zip(lines, "ab" if len(lines) > 1 else "a", strict=True):
        points = [Point(each.step, each.mean, hollow=each.seeds < line.curve[0].seeds) for each in line.curve]
        band = [(b.step, b.low, b.high) for b in line.curve if b.low is not None and b.high is not None]
        series.append(Series(line.name, style, points, band=band))
    title = f"Mean reward per step: {' and '.join(line.name for line in lines)}"
    return charts.draw_curves(series, title, ("step", "mean reward"), most=most)


def _runs(found: ComparisonResult) -> Iterable[Element]:
    yield node("h2", "Runs")
    rows = []
    for line in found.methods:
        for run in line.runs:
            name = f"{line.name}, seed {run.seed}"
            link = node("a", name, href=f"{run.path.as_posix()}/report.html") if run.ended else name
            state = "ended" if run.ended else "did not end"
            rows.append([link, state, run.why, f"{len(run.rewards):,}", f"{run.seconds / 60:.1f}"])
    yield table(["run", "", "why", "steps", "minutes"], rows, words=3)


def _method(line: MethodResult) -> Element:
    differs = f" Differs from GRPO: {line.differs}." if line.differs else ""
    axes = table(
        ["axis", "part and parameters"], [each.split(": ", 1) for each in line.axes], words=2
    )
    return node(
        "details", node("summary", line.name), node("p", f"arXiv {line.paper}.{differs}", class_="note"), axes
    )


def _table(cells: tables.Table) -> Element:
    return table(cells[0], cells[1:])


def _note(text: str) -> Element:
    return node("p", text, class_="note")
