"""
docs/bench.md, written from bench/results.jsonl: one table of all benches, then one table for each, newest figures
first.

A line of results.jsonl is one run of one bench: its name, date, figures, bar, and whether the bar holds. Lines are only
added, so figures that were bad once stay on the page.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.jsonl"
PAGE = HERE.parent / "docs" / "bench.md"
COLUMNS = 3
"""The most runs of a bench that the page shows beside each other."""

AREAS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "The whole": {
        "shape": ("code_lines", "functions_in_100_lines", "comment_share", "arrows_up"),
        "start": ("import_s", "help_s"),
        "client": ("ratio_journal_on", "ratio_journal_off"),
        "kill": ("repeated_after_arrival", "identical_library"),
        "limits": ("calls: overshoot", "tokens: overshoot", "usd: overshoot"),
    },
    "Experience": {
        "demo": ("before", "after", "interval", "minutes"),
        "rivals": ("edgewise_gain", "plain_gain", "gepa_gain"),
        "stages": ("to_lower_bound", "to_stage_barriers"),
        "prefix": ("ours", "authors_order"),
        "null": ("gate", "raw_mean", "gepa_rule"),
        "true_lessons": ("+10 gate: found", "+20 gate: found"),
        "coverage": ("enough rows: lowest", "enough rows: highest"),
        "power": ("worst",),
        "effect": ("harmful", "useful", "coverage"),
        "cap": ("most_tokens", "batches_over"),
        "retrieval": ("saved", "accuracy", "accuracy_whole", "milliseconds"),
        "signal": ("signal_ratio",),
        "guards": ("caught", "false_alarms"),
        "writers": ("sqlite_lost", "postgresql_lost"),
    },
    "Graph": {
        "topology": ("hrpo: chain: samples", "hrpo: diamond: samples", "hrpo: debate: samples"),
        "wiring_real": ("designed", "one agent, equal tokens", "gain_at_equal_tokens", "minutes"),
        "credit": ("80 runs a part: agents", "80 runs a part: edges"),
        "contract": ("graphs",),
        "graph_ledger": ("apart_off_server", "sharing_off_server"),
        "graph_time": ("median", "worst"),
        "graph_overhead": ("ratio",),
        "policy": ("graphs_per_second", "update_ms"),
    },
    "Weights": {
        "golden": ("loss_error", "gradient_error", "printed_numbers_missed"),
        "golden_seeds": ("numbers", "numbers_missed", "largest_error"),
        "trl_parity": ("cases", "worst"),
        "prefix_gradient": ("gradient",),
        "step_vs_trl": ("edgewise", "trl_bf16", "faster"),
        "update_vs_trl": ("faster", "memory"),
        "sampling": ("times: bfloat16", "times: float32"),
        "roofline": ("of_peak_512",),
        "scaling": ("worst",),
        "learning": ("dr grpo: gain", "grpo: gain", "rloo: gain"),
        "two_processes": ("largest difference: smollm2-135m float64", "largest difference: smollm2-135m float32"),
        "size": ("longest_row", "longest_part", "share_without_edit_of_loop_or_update"),
        "learns": ("grpo", "dapo", "advantage_alignment"),
        "effects": ("ngrpo: shows", "unlikely: shows", "drpo: shows", "vade: shows", "xrpo: shows", "scaf grpo: shows"),
        "step_credit": ("house: fewer than grpo: gigpo", "kitchen: fewer than grpo: gigpo"),
        "bridge": ("share", "saved", "minutes"),
        "credit_cost": ("update_seconds",),
    },
}
"""Benches by what they measure, and the figures of each that stand in the first table."""


def read() -> list[dict[str, Any]]:
    """All results, newest first; of one day, the later line first."""
    lines = RESULTS.read_text("utf-8").splitlines() if RESULTS.exists() else []
    return sorted(map(json.loads, reversed(lines)), key=lambda result: result["date"], reverse=True)


def add(result: Mapping[str, Any]) -> None:
    """Append one result."""
    with RESULTS.open("a", encoding="utf-8") as file:
        print(json.dumps(result), file=file)


def value_text(value: Any) -> str:
    """A figure for people: no long decimals, no quotes, lists without brackets of Python."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3g}" if abs(value) < 1e-3 or abs(value) >= 1e6 else f"{value:,.4g}"
        case int():
            return f"{value:,}"
        case [float() | int() as mean, float() | int() as low, float() | int() as high] if low <= mean <= high:
            return f"{value_text(mean)} [{value_text(low)}, {value_text(high)}]"
        case list():
            return ", ".join(map(value_text, value)) or "none"
        case dict():
            return ", ".join(f"{name.replace('_', ' ')} {value_text(part)}" for name, part in value.items())
        case None:
            return "-"
    return str(value).replace("|", "\\|")


def flat(figures: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Figures one by one, a figure within another under both names."""
    for name, value in figures.items():
        label = f"{above}{name.replace('_', ' ')}"
        if isinstance(value, dict) and value:
            yield from flat(value, f"{label}: ")
        else:
            yield label, value_text(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def headline(name: str, result: Mapping[str, Any]) -> str:
    """
    The figures of a bench that stand in the first table: by their own name, or by their label in the bench's table.
    """
    chosen = next((names[name] for names in AREAS.values() if name in names), ())
    figures, labels = result["figures"], dict(flat(result["figures"]))
    values = {key: value_text(figures[key]) if key in figures else labels.get(key, "") for key in chosen}
    return "; ".join(f"{key.replace('_', ' ')} {text}" for key, text in values.items() if text) or "below"


def section(name: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of one bench: a row for each figure, a column for each run, the newest first."""
    newest, shown = runs[0], runs[:COLUMNS]
    columns = [dict(flat(run["figures"])) for run in shown]
    rows = [[label, *(column.get(label, "") for column in columns)] for label in columns[0]]
    dates = [f"{run['date']}{'' if run['holds'] else ' (missed)'}" for run in shown]
    holds = "holds" if newest["holds"] else "**does not hold**"
    command = f'`make bench ARGS="{name}"`'
    return [f"### {name}", "", f"{command}. Bar: {newest['bar']}; {holds}.", "", *table(["figure", *dates], rows), ""]


def write() -> str:
    """Write the page; returns its text."""
    by_bench: dict[str, list[dict[str, Any]]] = {}
    for result in read():
        by_bench.setdefault(result["bench"], []).append(result)
    placed = [name for names in AREAS.values() for name in names]
    areas = {**{area: list(names) for area, names in AREAS.items()}, "Others": sorted(set(by_bench) - set(placed))}

    # The first table: a line a bench.
    text = [
        "# Benches",
        "",
        "Written by `make bench` from `bench/results.jsonl`, which keeps every figure, bad ones too.",
        "",
    ]
    latest = next(iter(read()), {})
    text += [
        f"- {name}: {latest[key]}"
        for name, key in (("Machine", "machine"), ("Versions", "versions"))
        if latest.get(key)
    ]
    for area, names in areas.items():
        rows = [
            [f"[{name}](#{name})", headline(name, run), run["bar"], "yes" if run["holds"] else "**no**", run["date"]]
            for name in names
            if name in by_bench and (run := by_bench[name][0])
        ]
        if rows:
            text += ["", f"## {area}", "", *table(["bench", "figures", "bar", "holds", "date"], rows)]

    # Then a table for each bench.
    text += ["", "## Every figure", ""]
    for names in areas.values():
        for name in names:
            text += section(name, by_bench[name]) if name in by_bench else []
    page = "\n".join(text).rstrip() + "\n"
    PAGE.write_text(page, "utf-8")
    return page


if __name__ == "__main__":
    write()
