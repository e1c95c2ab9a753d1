"""A comparison of methods as tables: of the terminal, and what report.html puts into its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgewise.toolkit.evaluation.statistics import Interval

if TYPE_CHECKING:
    from edgewise.learner.comparison.results import ComparisonResult, MethodResult

Table = list[list[str]]
"""Titles first."""


def render_comparison(found: "ComparisonResult") -> list[str]:
    """What `edgewise compare` prints."""
    return [
        f"{render_heading(found)}; mean rewards with 95 % intervals over seeds and rows",
        "",
        *align_columns(build_reward_table(found)),
        "",
        "A run, on average:",
        *align_columns(build_cost_table(found)),
        "",
        *[f"{name}: {why}" for name, why in list_remarks(found)],
        f"in all: {render_total(found)}",
        f"report: {found.path / 'report.html'}",
    ]


def render_heading(found: "ComparisonResult") -> str:
    """What was compared on what."""
    number, first, last = len(found.methods), found.seeds[0], found.seeds[-1]
    seeds = f"seeds {first} to {last}" if last > first else f"seed {first}"
    samples = f", {found.samples} samples of each" if found.samples > 1 else ""
    return f"{number} {'methods' if number > 1 else 'method'}, {seeds}, {found.rows:,} held-out rows{samples}"


def build_reward_table(found: "ComparisonResult") -> Table:
    """Rewards on held-out rows, a line for each method."""
    against = f"against {found.methods[0].name}"
    head = ["method", "ended", "before", "after", "gain", against, "p", "p (Holm)"]
    return [
        head,
        *([line.name, f"{line.finished_count} of {len(line.runs)}", *_rewards(line)] for line in found.methods),
    ]


def _rewards(line: "MethodResult") -> list[str]:
    against, p = line.against, line.against.p if line.against else None
    few = f", {line.shared} seeds" if against and line.shared < line.finished_count else ""
    return [
        f"{line.before.estimate:.3f}" if line.before else "",
        render_interval(line.after),
        render_interval(line.gain, "+"),
        render_interval(against, "+") + few,
        "" if p is None else f"{p:.4f}",
        "" if line.holm is None else f"{line.holm:.4f}",
    ]


def render_interval(found: Interval | None, sign: str = "") -> str:
    """An estimate with its interval; "" where there is none."""
    if found is None:
        return ""
    return f"{found.estimate:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def build_cost_table(found: "ComparisonResult") -> Table:
    """What a run takes, on average over those that ended, a line for each method."""
    head = ["method", "steps", "calls", "tokens", "tokens measuring", "minutes"]
    return [head, *([line.name, *_use(line)] for line in found.methods)]


def _use(line: "MethodResult") -> list[str]:
    if (use := line.use) is None:
        return [""] * 5
    parts = (use.steps, use.calls, use.tokens, use.measuring)
    return [*(f"{part:,.0f}" for part in parts), f"{use.seconds / 60:.1f}"]


def list_remarks(found: "ComparisonResult") -> list[tuple[str, str]]:
    """Which runs did not end, or stopped learning early, and why."""
    return [
        (f"{line.name}, seed {run.seed}", run.why if not run.ended else f"learning stopped early: {run.why}")
        for line in found.methods
        for run in line.runs
        if run.why
    ]


def render_total(found: "ComparisonResult") -> str:
    """What all runs took, those that did not end included."""
    books = [book for run in found.runs for book in (run.learning, run.measuring)]
    calls = sum(book["calls"] for book in books)
    tokens = sum(book["input"] + book["output"] for book in books)
    dollars = [run.usd for run in found.runs]
    price = "price unknown" if None in dollars else f"${sum(filter(None, dollars)):.4f}"
    return f"{calls:,} calls, {tokens:,} tokens, {price}, {sum(run.seconds for run in found.runs) / 60:.1f} minutes"


def align_columns(table: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
