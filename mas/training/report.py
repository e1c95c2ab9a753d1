"""What a search for graphs shows to people: lines for the terminal, sections for report.html."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
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
SHOWN = 4
"""The most graphs that are drawn."""
STYLES = ("a", "b", "c", "d")


def render_result(result: Result) -> list[str]:
    """What `edgewise improve --by graph` prints."""
    wiring = read(result.path)
    return [
        *result.evidence.lines(),
        "",
        run_report.summarize(run_files.read_run(result.path)),
        describe_equal_tokens(wiring),
        "",
        f"reward while learning: {wiring['formula']}",
        *_graph_lines(wiring),
        *filter(None, [describe_failures(wiring)]),
        "",
        *render_costs(result),
        f"artefact: {result.path / 'artifact'}",
        f"report:   {result.path / 'report.html'}",
    ]


def read(path: Path) -> dict[str, Any]:
    """The content of RUN/wiring.json."""
    return json.loads((path / WIRING).read_text("utf-8"))


def describe_equal_tokens(wiring: Mapping[str, Any]) -> str:
    """The claim that counts: the designed graphs against one agent that may use as many tokens."""
    found = wiring["equal_tokens"]
    if found.get("low") is None or found.get("high") is None:
        return f"Against {found['rival']}: too few rows for an interval."
    return (
        f"Against {found['rival']}: {found['estimate']:+.3f} (95 % interval {found['low']:+.3f} to "
        f"{found['high']:+.3f}, p = {found['p']:.4f})."
    )


def describe_failures(wiring: Mapping[str, Any]) -> str:
    """Why answers of the designed graphs were wrong; "" where none was."""
    found = [f"{name} {count}" for name, count in wiring["failures"].items() if count]
    return f"wrong answers of the designed graphs: {', '.join(found)}" if found else ""


def _graph_lines(wiring: Mapping[str, Any]) -> Iterable[str]:
    for each in wiring["graphs"][:SHOWN]:
        yield f"for {each['rows']} of the held-out rows:"
        yield from (f"  {line}" for line in drawing.render_text(Graph.from_json(each["graph"])).splitlines())
    if more := wiring["graphs"][SHOWN:]:
        yield f"and {len(more)} other graphs for {sum(each['rows'] for each in more)} rows"


def build_sections(run: FinishedRun) -> Iterable[Element]:
    """Yield the sections of report.html about graphs, between the learning curve and the steps of the search."""
    wiring = run_files.read_file(dict[str, Any], run.path / WIRING)
    steps = run_files.read_steps(StoredStep, run.path)
    yield from render_curve(steps)
    yield node("h2", "Graphs")
    yield node("p", describe_equal_tokens(wiring))
    yield node("p", f"Reward while learning: {wiring['formula']}.", class_="note")
    yield _front(wiring["front"])
    if wrong := describe_failures(wiring):
        yield node("p", f"{wrong[0].upper()}{wrong[1:]}.", class_="note")
    for each in wiring["graphs"][:SHOWN]:
        yield node("h3", f"Used for {each['rows']} of the held-out rows")
        yield drawing.render_svg(Graph.from_json(each["graph"]), numbers=_costs(each.get("nodes", {})))
    if more := wiring["graphs"][SHOWN:]:
        rows = sum(each["rows"] for each in more)
        yield node("p", f"{len(more)} other graphs were used for {rows} rows.", class_="note")
    yield from render_steps(steps)


def _costs(nodes: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """What each node uses in a run; dollars, of 1,000 runs, only where they are paid."""
    return {
        name: {
            "tokens": round(spent["tokens"]),
            **({"$/1,000": 1000 * usd} if (usd := spent.get("usd")) else {}),
        }
        for name, spent in nodes.items()
    }


def _front(points: Iterable[Mapping[str, Any]]) -> Element:
    """Mean reward over tokens a query, a point for each arm."""
    series = [
        Series(each["arm"], style, [Point(round(each["tokens"]), each["mean"])], joined=False)
        for each, style in zip(points, STYLES, strict=False)
    ]
    return charts.draw_curves(series, "Mean reward and tokens a query", ("tokens a query", "mean reward"))
