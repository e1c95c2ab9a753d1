"""
The report of a finished run: one HTML file that opens without a network and without JavaScript.

Evaluation, changed rows, costs and settings are the same for every way of learning. The sections in between come from
the way itself, found by name in `toolkit.registry.REPORT_SECTIONS`.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from edgewise.toolkit.budget import ledger
from edgewise.toolkit.budget.prices import Price, find_price
from edgewise.toolkit.evaluation.comparison import ArmResult, Difference
from edgewise.toolkit.evaluation.statistics import Interval, mean
from edgewise.toolkit.registry import LEARNED_CONTENT, REPORT_SECTIONS, resolve
from edgewise.toolkit.report.charts import Bar, draw_intervals, format_number
from edgewise.toolkit.report.html import Child, format_signed, node, note, page, table
from edgewise.toolkit.report.run_files import CostTotals, FinishedRun, StoredResult, StoredRollout, read_run
from edgewise.toolkit.types import Usage
from edgewise.toolkit.util.files import replace_atomically

ROWS = 20
"""The most rows in each list of rows that changed."""
SAMPLES = 3
"""The most answers of each row and arm."""
GLANCE = 80
"""The most letters of a row in its headline."""
LETTERS = 3000
"""The most letters of one text."""


def write_report(path: Path) -> Path:
    """
    Write `path`/report.html from the files of a finished run, and return its path.

    Raises ArtifactError where result.json is missing, or a file of the run is damaged.
    """
    path = Path(path)
    run = read_run(path)
    file = path / "report.html"
    with replace_atomically(file) as growing:
        growing.write_bytes(page(f"{run.result.task}: report", _render_run(run)))
    return file


def summarize(run: FinishedRun) -> str:
    """Return the result of the run in one sentence; where artefacts were compared, with a part for each arm."""
    result = run.result
    arms = list(result.evidence.results)
    rows = f"{result.evidence.examples:,} held-out rows"
    level = f"a mean reward of {_format_mean(arms[0].mean.estimate)}"
    if run.is_comparison:
        pairs = [(arm.name, arm.against) for arm in arms if arm.against]
        parts = [f"{name} against {x.baseline}: {_describe_change(x.mean)}" for name, x in pairs]
        return f"On {rows}, {'; '.join(parts) or level}."

    learned = arms[1] if len(arms) > 1 else arms[0]  # others are placebos
    difference = learned.against
    if result.improved and difference:
        means = f"{_format_mean(arms[0].mean.estimate)} to {_format_mean(learned.mean.estimate)}"
        return f"Learning raised the mean reward on {rows} from {means}: {_describe_change(difference.mean)}."
    # An artefact without anything learned is the unchanged model, whatever its difference by chance.
    contents = [(file, content) for file, content in result.artifact.items() if file in LEARNED_CONTENT]
    is_unchanged = any(not resolve(LEARNED_CONTENT, file)(content) for file, content in contents)
    if difference is None or is_unchanged:
        return f"Nothing worth keeping was found: the model stays as it is, with {level} on {rows}."
    change = _describe_change(difference.mean)
    return f"Nothing worth keeping was found: on {rows} the mean reward changed by {change}."


def _render_run(run: FinishedRun) -> Iterable[Element]:
    total, model = run.result.costs.total, run.settings.get("model")
    facts = [
        f"Model {model}" if model else "",
        f"{total.calls:,} calls",
        f"{total.input + total.output:,} tokens",
        "price unknown" if total.usd is None else _format_dollars(total.usd),
        f"{run.result.seconds:,.0f} s",
    ]
    yield node("h1", run.result.task)
    yield node("p", summarize(run), class_="finding")
    yield note(", ".join(filter(None, facts)) + ".")
    yield from _render_evaluation(run)

    # A run belongs to the way whose file it has; the last entry needs no file.
    files = {*run.result.artifact, *(file.name for file in run.path.iterdir()), ""}
    way = next(file for file in REPORT_SECTIONS if file in files)
    yield from resolve(REPORT_SECTIONS, way)(run)

    for arm in run.result.evidence.results:
        if arm.against:
            yield from _render_changed_rows(run, arm.name, arm.against)
    yield from _render_costs(run.result)
    if run.settings:
        settings = table(["setting", "value"], [[key, str(x)] for key, x in run.settings.items()], words=2)
        yield node("h2", "Settings")
        yield node("details", node("summary", "All settings of this run"), settings)


# ---- evaluation ------------------------------------------------------------------------------------


def _render_evaluation(run: FinishedRun) -> Iterable[Element]:
    evidence = run.result.evidence
    arms = evidence.results
    ks = list(arms[0].passes)
    head = ["", f"mean@{evidence.samples}", "95 % interval", *(f"pass@{k}" for k in ks)]
    head += ["failed", "tokens in", "cached", "out", "dollars"]
    # One line for each arm: quality, then cost.
    rows: list[list[Child]] = []
    for arm in arms:
        interval = "too few rows"
        if math.isfinite(arm.mean.low) and math.isfinite(arm.mean.high):
            interval = f"{_format_mean(arm.mean.low)} to {_format_mean(arm.mean.high)}"
        passes = [f"{arm.passes[k]:.3f}" if k in arm.passes else "" for k in ks]
        failed, dollars = f"{arm.failed:,} of {arm.rollouts:,}", _format_dollars(_arm_cost(run, arm))
        mean_reward = _format_mean(arm.mean.estimate)
        rows.append([arm.name, mean_reward, interval, *passes, failed, *_format_tokens(arm.usage), dollars])
    yield node("h2", "Compared" if run.is_comparison else "Before and after")
    yield table(head, rows)

    # Paired differences have narrower intervals than the difference of two means, so they have a chart of their own.
    bars = [_make_bar(arm.name, arm.mean) for arm in arms]
    yield draw_intervals(bars, "Mean reward with 95 % interval")
    differences = [_make_bar(arm.name, arm.against.mean) for arm in arms if arm.against]
    if differences:
        yield node("h3", f"Difference from “{arms[0].name}”")
        yield draw_intervals(differences, "Paired difference of mean rewards with 95 % interval")
    unknown = sum(arm.unreported for arm in arms)
    if unknown:
        yield note(f"The provider did not report the tokens of {unknown:,} turns; they are left out.")


def _arm_cost(run: FinishedRun, arm: ArmResult) -> float | None:
    """Return the dollars of an arm's answers, None if unknown."""
    # The ledger books all arms together. It knows whether they are free or of unknown price; else prices apply.
    booked = run.result.costs.measuring.usd
    if not booked:
        return booked
    prices = {model: Price(*numbers) for model, numbers in run.settings.get("prices", {}).items()}
    price = find_price(run.settings.get("model", ""), prices)
    return None if price is None or arm.unreported else ledger.cost(arm.usage, price) / ledger.PICO


def _make_bar(name: str, interval: Interval) -> Bar:
    low, high = (end if math.isfinite(end) else None for end in (interval.low, interval.high))
    return Bar(name, interval.estimate, low, high)


# ---- rows that changed -----------------------------------------------------------------------------


def _render_changed_rows(run: FinishedRun, arm: str, against: Difference) -> Iterable[Element]:
    yield node("h2", f"Rows that changed from “{against.baseline}” to “{arm}”")
    for title, examples in (("Better", against.better), ("Worse", against.worse)):
        yield node("h3", f"{title}: {len(examples):,}")
        yield from (_render_row(run, (against.baseline, arm), example) for example in examples[:ROWS])
        if len(examples) > ROWS:
            yield note(f"{len(examples) - ROWS:,} more rows are left out.")


def _render_row(run: FinishedRun, arms: tuple[str, str], example: str) -> Element:
    """Return a row that opens on a click: mean rewards and a glance, then the prompt and the answers of both arms."""
    rewards = {row.arm: row.rewards for row in run.result.evidence.rows if row.example == example}
    means = [format_number(mean(rewards[arm])) if rewards.get(arm) else "?" for arm in arms]
    answers = [run.answers.get((example, arm), []) for arm in arms]
    prompt = answers[0][0].prompt if answers[0] else ()

    # The last line of the prompt is enough to recognise the row.
    lines = [line.strip() for line in prompt[-1].content.split("\n") if line.strip()] if prompt else []
    glance = lines[-1] if lines else ""
    glance = glance if len(glance) <= GLANCE else f"{glance[:GLANCE]}…"

    # Behind it the whole prompt, and the answers of both arms.
    details = [part for m in prompt for part in (note(m.role), node("pre", _shorten(m.content)))]
    for arm, rollouts in zip(arms, answers, strict=True):
        details += _render_answers(arm, rollouts)
    if not any(answers):
        details.append(note("rollouts.jsonl does not hold these answers."))
    headline = node("summary", node("b", example), f": {means[0]} → {means[1]} ", node("span", glance, class_="note"))
    return node("details", headline, *details)


def _render_answers(arm: str, rollouts: Sequence[StoredRollout]) -> Iterable[Element]:
    for rollout in rollouts[:SAMPLES]:
        score = rollout.score
        grade = f"reward {format_number(score.value)}" if score else "no reward"
        remarks = "; ".join(filter(None, (grade, score.feedback if score else "", rollout.error)))
        yield note(f"Answer of “{arm}”, {_shorten(remarks)}")
        yield node("pre", _shorten(rollout.answer) or "(nothing)")
    if len(rollouts) > SAMPLES:
        yield note(f"{len(rollouts) - SAMPLES:,} more answers of “{arm}” are left out.")


# ---- costs -----------------------------------------------------------------------------------------


def _render_costs(result: StoredResult) -> Iterable[Element]:
    costs = result.costs
    # Steps are numbers in text: 2 stands before 10. Step 0 is the measurement on held-out rows.
    steps = sorted(costs.step.items(), key=lambda item: (len(item[0]), item[0]))
    by_step = [("measuring" if step == "0" else step, totals) for step, totals in steps]
    yield node("h2", "Costs")
    for title, rows in (("role", costs.role.items()), ("step", by_step)):
        cells = [
            [name, f"{totals.calls:,}", *_format_tokens(totals), _format_dollars(totals.usd)]
            for name, totals in (*rows, ("total", costs.total))
        ]
        yield table([title, "calls", "tokens in", "cached", "out", "dollars"], cells, total=True)
    if costs.total.usd is None:
        yield note("Dollars are unknown where the price of a model is.")
    if costs.total.estimated:
        calls = f"{costs.total.estimated:,} calls"
        yield note(f"The provider did not report the tokens of {calls}; booked is their upper bound.")


# ---- numbers as text -------------------------------------------------------------------------------


def _describe_change(difference: Interval) -> str:
    p = "" if difference.p is None else f", p = {difference.p:.4f}"
    estimate, low, high = difference.estimate, difference.low, difference.high
    if math.isinf(low) or math.isinf(high):
        return f"{format_signed(estimate)} (no interval: too few rows{p})"
    doubt = ", which chance alone may explain" if low <= 0 <= high and estimate else ""
    return f"{format_signed(estimate)} (95 % interval {format_signed(low)} to {format_signed(high)}{p}){doubt}"


def _format_tokens(usage: CostTotals | Usage) -> list[str]:
    return [f"{usage.input:,}", f"{usage.cached:,}", f"{usage.output:,}"]


def _format_dollars(usd: float | None) -> str:
    if not usd:
        return "unknown" if usd is None else "$0"
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}"


def _format_mean(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _shorten(text: str) -> str:
    left = len(text) - LETTERS
    return text if left <= 0 else f"{text[:LETTERS]}… ({left:,} more letters)"
