"""Lines for the terminal and sections of report.html on a search for graphs."""

import json
from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from edgewise.experience.store.run_steps import StoredStep
from edgewise.experience.training.report import render_curve, render_steps
from edgewise.mas.graph import drawing
from edgewise.mas.graph.graph import Graph
from edgewise.toolkit.cli.output import render_costs
from edgewise.toolkit.report import charts, run_files, run_report
from edgewise.toolkit.report.charts import Point, Series
from edgewise.toolkit.report.html import node
from edgewise.toolkit.report.run_files import FinishedRun
from edgewise.toolkit.run.runner import Result

WIRING = "wiring.json"
# Graphs that are drawn at most.
MAX_DRAWN = 4
STYLES = ("a", "b", "c", "d")


def render_result(result: Result) -> list[str]:
    """Return what `edgewise improve --by graph` prints."""
    wiring = json.loads((result.path / WIRING).read_text("utf-8"))
    graphs, more = wiring["graphs"][:MAX_DRAWN], wiring["graphs"][MAX_DRAWN:]
    drawings = []
    for used in graphs:
        drawings.append(f"for {used['rows']} of the held-out rows:")
        text = drawing.render_text(Graph.from_json(used["graph"]))
        drawings += [f"  {line}" for line in text.splitlines()]
    if more:
        drawings.append(f"and {len(more)} other graphs for {sum(used['rows'] for used in more)} rows")
    return [
        *result.evidence.lines(),
        "",
        run_report.summarize(run_files.read_run(result.path)),
        describe_equal_tokens(wiring),
        "",
        f"reward while learning: {wiring['formula']}",
        *drawings,
        *filter(None, [describe_failures(wiring)]),
        "",
        *render_costs(result),
        f"artefact: {result.path / 'artifact'}",
        f"report:   {result.path / 'report.html'}",
    ]


def describe_equal_tokens(wiring: Mapping[str, Any]) -> str:
    """Return the claim that counts: the designed graphs against one agent that may use as many tokens."""
    result = wiring["equal_tokens"]
    if result.get("low") is None or result.get("high") is None:
        return f"Against {result['rival']}: too few rows for an interval."
    return (
        f"Against {result['rival']}: {result['estimate']:+.3f} (95 % interval {result['low']:+.3f} to "
        f"{result['high']:+.3f}, p = {result['p']:.4f})."
    )


def describe_failures(wiring: Mapping[str, Any]) -> str:
    """Return why answers of the designed graphs were wrong, by class; "" where none was."""
    classes = [f"{name} {count}" for name, count in wiring["failures"].items() if count]
    return f"wrong answers of the designed graphs: {', '.join(classes)}" if classes else ""


def build_sections(run: FinishedRun) -> Iterable[Element]:
    """Yield the sections of report.html about graphs, between the learning curve and the steps of the search."""
    wiring = run_files.read_file(dict[str, Any], run.path / WIRING)
    steps = run_files.read_steps(StoredStep, run.path)
    yield from render_curve(steps)
    yield node("h2", "Graphs")
    yield node("p", describe_equal_tokens(wiring))
    yield node("p", f"Reward while learning: {wiring['formula']}.", class_="note")

    # Mean reward over tokens a query, a point for each arm.
    series = [
        Series(arm["arm"], style, [Point(round(arm["tokens"]), arm["mean"])], joined=False)
        for arm, style in zip(wiring["front"], STYLES, strict=False)
    ]
    axes = ("tokens a query", "mean reward")
    yield charts.draw_curves(series, "Mean reward and tokens a query", axes)
    if wrong := describe_failures(wiring):
        yield node("p", f"{wrong[0].upper()}{wrong[1:]}.", class_="note")

    # Each node with what it uses in a run; dollars are of 1,000 runs, and only there where they are paid.
    for used in wiring["graphs"][:MAX_DRAWN]:
        yield node("h3", f"Used for {used['rows']} of the held-out rows")
        numbers = {}
        for name, costs in used.get("nodes", {}).items():
            usd = {"$/1,000": 1000 * costs["usd"]} if costs.get("usd") else {}
            numbers[name] = {"tokens": round(costs["tokens"]), **usd}
        yield drawing.render_svg(Graph.from_json(used["graph"]), numbers=numbers)
    if more := wiring["graphs"][MAX_DRAWN:]:
        rows = sum(used["rows"] for used in more)
        yield node("p", f"{len(more)} other graphs were used for {rows} rows.", class_="note")
    yield from render_steps(steps)
