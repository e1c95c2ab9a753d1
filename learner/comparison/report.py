"""Report of a comparison: one HTML file that opens without a network."""

import math
from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element

from edgewise.learner.comparison import tables
from edgewise.learner.comparison.results import ComparisonResult, MethodResult
from edgewise.toolkit.evaluation.statistics import Interval
from edgewise.toolkit.report import charts
from edgewise.toolkit.report.charts import Bar, Point, Series
from edgewise.toolkit.report.html import node, note, page, table
from edgewise.toolkit.util.files import replace_atomically

INTERVALS = (
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


def write_report(result: ComparisonResult) -> Path:
    """Write report.html into the comparison's directory and return its path."""
    path = result.path / "report.html"
    with replace_atomically(path) as temporary:
        temporary.write_bytes(page(f"{result.task}: methods compared", _build_sections(result)))
    return path


def _build_sections(result: ComparisonResult) -> Iterable[Element]:
    methods = result.methods
    yield node("h1", f"{result.task}: methods compared")
    yield node("p", summarize_finding(result), class_="finding")
    limits = ", ".join(f"{name} {limit:,}" for name, limit in result.limits.items())
    shared = f" Limits for all runs, each of which may use the same share: {limits}." if limits else ""
    yield note(f"{tables.render_heading(result)}. Model {result.model}, {tables.render_total(result)}.{shared}")

    yield node("h2", "Held-out rows")
    titles, *rows = tables.build_reward_table(result)
    yield table(titles, rows)
    if after := [_build_bar(method.name, method.after) for method in methods if method.after]:
        yield charts.draw_intervals(after, "Mean reward after training, with 95 % interval")
    if against := [_build_bar(method.name, method.against) for method in methods if method.against]:
        yield node("h3", f"Difference from “{methods[0].name}”")
        yield charts.draw_intervals(against, "Paired difference of mean rewards with 95 % interval")
    yield note(INTERVALS)

    yield from _draw_curves(methods)
    yield node("h2", "What a run takes, on average")
    titles, *rows = tables.build_cost_table(result)
    yield table(titles, rows)

    yield node("h2", "Runs")
    rows = []
    for method in methods:
        for run in method.runs:
            name = f"{method.name}, seed {run.seed}"
            # An unfinished run has no report to link to.
            link = node("a", name, href=f"{run.path.as_posix()}/report.html") if run.ended else name
            state = "ended" if run.ended else "did not end"
            rows.append([link, state, run.why, f"{len(run.rewards):,}", f"{run.seconds / 60:.1f}"])
    yield table(["run", "", "why", "steps", "minutes"], rows, words=3)

    yield node("h2", "Methods")
    for method in methods:
        differs = f" Differs from GRPO: {method.differs}." if method.differs else ""
        axes = [axis.split(": ", 1) for axis in method.axes]
        yield node(
            "details",
            node("summary", method.name),
            note(f"arXiv {method.paper}.{differs}"),
            table(["axis", "part and parameters"], axes, words=2),
        )


def summarize_finding(result: ComparisonResult) -> str:
    """Return the result of the comparison in one sentence."""
    against = [
        f"{method.name} {_render_change(method.against, method.holm)}" for method in result.methods if method.against
    ]
    if against:
        return f"After training, against {result.methods[0].name}: {'; '.join(against)}."
    gains = [f"{method.name} {_render_change(method.gain, None)}" for method in result.methods if method.gain]
    return f"Change of the mean reward: {'; '.join(gains)}." if gains else "No run has ended with a measurement."


def _render_change(change: Interval, p: float | None) -> str:
    doubt = ", which chance alone may explain" if change.low <= 0 <= change.high and change.estimate else ""
    corrected = "" if p is None else f" (p {p:.4f} by Holm)"
    return f"{tables.render_interval(change, '+')}{corrected}{doubt}"


def _build_bar(name: str, interval: Interval) -> Bar:
    # With one row an interval is infinite: charts draw it open.
    ends = [end if math.isfinite(end) else None for end in (interval.low, interval.high)]
    return Bar(name, interval.estimate, *ends)


def _draw_curves(methods: tuple[MethodResult, ...]) -> Iterable[Element]:
    """Draw the first method with each of the others, a chart for each pair, all with the same y axis."""
    # Curves of two charts can be compared only on one scale.
    highest = [p.mean if p.high is None else p.high for method in methods for p in method.curve]
    if not highest:
        return
    elements = []
    first, *others = methods
    for pair in [[first, other] for other in others] or [[first]]:
        series = []
        for method, style in zip((method for method in pair if method.curve), "ab", strict=False):
            seeds = method.curve[0].seeds
            points = [Point(p.step, p.mean, hollow=p.seeds < seeds) for p in method.curve]
            band = [(p.step, p.low, p.high) for p in method.curve if p.low is not None and p.high is not None]
            series.append(Series(method.name, style, points, band=band))
        if series:
            title = f"Mean reward per step: {' and '.join(line.name for line in series)}"
            most = max(1.0, *highest)
            elements.append(charts.draw_curves(series, title, ("step", "mean reward"), most=most))
    yield node("h2", "Learning curves")
    yield node("div", *elements, class_="side")
    yield note(CURVES)
