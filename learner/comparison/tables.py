"""Tables of a comparison, for the terminal and for report.html."""

from collections.abc import Sequence

from edgewise.learner.comparison.results import ComparisonResult
from edgewise.toolkit.evaluation.statistics import Interval

Table = list[list[str]]
"""Titles first."""


def render_comparison(result: ComparisonResult) -> list[str]:
    """Return the lines that `edgewise compare` prints."""
    remarks = [
        f"{method.name}, seed {run.seed}: {'learning stopped early: ' if run.ended else ''}{run.why}"
        for method in result.methods
        for run in method.runs
        if run.why
    ]
    return [
        f"{render_heading(result)}; mean rewards with 95 % intervals over seeds and rows",
        "",
        *align_columns(build_reward_table(result)),
        "",
        "A run, on average:",
        *align_columns(build_cost_table(result)),
        "",
        *remarks,
        f"in all: {render_total(result)}",
        f"report: {result.path / 'report.html'}",
    ]


def render_heading(result: ComparisonResult) -> str:
    """Return the numbers of methods, seeds, rows and samples."""
    number, first, last = len(result.methods), result.seeds[0], result.seeds[-1]
    seeds = f"seeds {first} to {last}" if last > first else f"seed {first}"
    samples = f", {result.samples} samples of each" if result.samples > 1 else ""
    return f"{number} {'methods' if number > 1 else 'method'}, {seeds}, {result.rows:,} held-out rows{samples}"


def build_reward_table(result: ComparisonResult) -> Table:
    """Return rewards on held-out rows, a line for each method."""
    against = f"against {result.methods[0].name}"
    table = [["method", "ended", "before", "after", "gain", against, "p", "p (Holm)"]]
    for method in result.methods:
        count, p = method.finished_count, method.against.p if method.against else None
        # Fewer pairs than finished runs: the baseline failed with some seeds.
        few = f", {method.shared} seeds" if method.against and method.shared < count else ""
        table.append(
            [
                method.name,
                f"{count} of {len(method.runs)}",
                f"{method.before.estimate:.3f}" if method.before else "",
                render_interval(method.after),
                render_interval(method.gain, "+"),
                render_interval(method.against, "+") + few,
                "" if p is None else f"{p:.4f}",
                "" if method.holm is None else f"{method.holm:.4f}",
            ]
        )
    return table


def build_cost_table(result: ComparisonResult) -> Table:
    """Return the average costs of a finished run, a line for each method."""
    table = [["method", "steps", "calls", "tokens", "tokens measuring", "minutes"]]
    for method in result.methods:
        cells = [""] * 5
        if cost := method.use:
            counts = (cost.steps, cost.calls, cost.tokens, cost.measuring)
            cells = [*(f"{count:,.0f}" for count in counts), f"{cost.seconds / 60:.1f}"]
        table.append([method.name, *cells])
    return table


def render_interval(interval: Interval | None, sign: str = "") -> str:
    """Return an estimate with its interval; "" for None."""
    if interval is None:
        return ""
    return f"{interval.estimate:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def render_total(result: ComparisonResult) -> str:
    """Return the costs of all runs, with the unfinished ones."""
    books = [book for run in result.runs for book in (run.learning, run.measuring)]
    calls = sum(book["calls"] for book in books)
    tokens = sum(book["input"] + book["output"] for book in books)
    dollars = [run.usd for run in result.runs]
    # A judge or an embedding model may have a price that nobody knows.
    price = "price unknown" if None in dollars else f"${sum(filter(None, dollars)):.4f}"
    minutes = sum(run.seconds for run in result.runs) / 60
    return f"{calls:,} calls, {tokens:,} tokens, {price}, {minutes:.1f} minutes"


def align_columns(table: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines of text."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
