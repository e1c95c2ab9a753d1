"""The report of a finished run: one HTML file that opens without a network and without JavaScript."""

from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from xml.etree.ElementTree import Element

from edgewise.toolkit.budget import ledger
from edgewise.toolkit.budget.prices import Price, find_price
from edgewise.toolkit.report import charts as svg
from edgewise.toolkit.report import run_files
from edgewise.toolkit.report.charts import Bar, Point, Series
from edgewise.toolkit.report.html import Child, node, page
from edgewise.toolkit.report.run_files import (
    Arm,
    Book,
    Difference,
    Effect,
    FinishedRun,
    Gate,
    Interval,
    Line,
    Message,
    Operation,
    Result,
    Step,
    Tokens,
)
from edgewise.toolkit.types import Usage
from edgewise.toolkit.util.files import replace_atomically

ROWS = 20
"""The most rows shown in each list of rows that changed."""
SAMPLES = 3
"""The most answers shown of each row and arm."""
FATES = ("applied", "joined", "rejected")
"""What becomes of an operation on the library."""
GLANCE = 80
"""The most letters of a row in its headline."""
WIRING = "edgewise.mas.training.report"
WEIGHTS = "edgewise.learner.monitoring.report"
"""What shows graphs and training; named here, for this package imports no upper one."""
LETTERS = 3000
"""The most letters shown of one text."""


def write_report(path: Path) -> Path:
    """
    Write `path`/report.html from the files of a finished run, and return its path.

    Raises ArtifactError where result.json is missing, or a file of the run is damaged.
    """
    path = Path(path)
    run = run_files.read(path)
    file = path / "report.html"
    with replace_atomically(file) as growing:
        growing.write_bytes(page(f"{run.result.task}: report", _sections(run)))
    return file


def summarize(run: FinishedRun) -> str:
    """What the run found, in one sentence; an arm each where artefacts were compared."""
    result = run.result
    arms = result.evidence.results
    rows = f"{result.evidence.examples:,} held-out rows"
    if _compared(run):
        pairs = [(arm.name, arm.against) for arm in arms if arm.against]
        found = [f"{name} against {x.baseline}: {_change(x.mean)}" for name, x in pairs]
        return f"On {rows}, {'; '.join(found) or _level(arms[0])}."
    after = arms[1] if len(arms) > 1 else arms[0]  # others are placebos
    last = after.against
    if result.improved and last:
        means = f"{_number(arms[0].mean.estimate)} to {_number(after.mean.estimate)}"
        return f"Learning raised the mean reward on {rows} from {means}: {_change(last.mean)}."
    if last is None or (run.library and not run.library.lessons):
        return f"Nothing worth keeping was found: the model stays as it is, with {_level(arms[0])} on {rows}."
    return f"Nothing worth keeping was found: on {rows} the mean reward changed by {_change(last.mean)}."


def _compared(run: FinishedRun) -> bool:
    """Whether artefacts were only measured: the run's own artefact holds nothing but the evidence."""
    return not run.steps and run.result.artifact.keys() <= {"evidence.json"}


def _level(arm: Arm) -> str:
    return f"a mean reward of {_number(arm.mean.estimate)}"


def _change(mean: Interval) -> str:
    p = "" if mean.p is None else f", p = {mean.p:.4f}"
    if mean.low is None or mean.high is None:
        return f"{_signed(mean.estimate)} (no interval: too few rows{p})"
    doubt = ", which chance alone may explain" if mean.low <= 0 <= mean.high and mean.estimate else ""
    return f"{_signed(mean.estimate)} (95 % interval {_signed(mean.low)} to {_signed(mean.high)}{p}){doubt}"


def _sections(run: FinishedRun) -> Iterable[Element]:
    yield node("h1", run.result.task)
    yield node("p", summarize(run), class_="finding")
    yield node("p", _facts(run), class_="note")
    yield from _measured(run)
    if run.weights is not None:
        yield from import_module(WEIGHTS).sections(run.weights, run.steps)
    elif run.steps:
        yield from _curve(run.steps)
    if run.wiring is not None:
        yield from import_module(WIRING).sections(run.wiring)
    if run.library:
        yield from _lessons(run)
    if run.steps and run.weights is None:
        yield from _operations(run.steps)
    yield from _changed_rows(run)
    yield from _costs(run.result)
    if run.settings:
        yield node("h2", "Settings")
        yield node("details", node("summary", "All settings of this run"), _settings(run))


def _facts(run: FinishedRun) -> str:
    total = run.result.costs.total
    model = run.settings.get("model")
    parts = [
        f"Model {model}" if model else "",
        f"{total.calls:,} calls",
        f"{total.input + total.output:,} tokens",
        "price unknown" if total.usd is None else _dollars(total.usd),
        f"{run.result.seconds:,.0f} s",
    ]
    return ", ".join(filter(None, parts)) + "."


# ---- what was measured -----------------------------------------------------------------------------


def _measured(run: FinishedRun) -> Iterable[Element]:
    evidence = run.result.evidence
    arms = evidence.results
    ks = list(arms[0].passes)
    head = ["", f"mean@{evidence.samples}", "95 % interval", *(f"pass@{k}" for k in ks)]
    head += ["failed", "tokens in", "cached", "out", "dollars"]
    yield node("h2", "Compared" if _compared(run) else "Before and after")
    yield table(head, [_arm(run, arm, ks) for arm in arms])
    bars = [_bar(arm.name, arm.mean) for arm in arms]
    yield svg.draw_intervals(bars, "Mean reward with 95 % interval")
    differences = [_bar(arm.name, arm.against.mean) for arm in arms if arm.against]
    if differences:
        yield node("h3", f"Difference from “{arms[0].name}”")
        yield svg.draw_intervals(differences, "Paired difference of mean rewards with 95 % interval")
    unknown = sum(arm.unreported for arm in arms)
    if unknown:
        yield _note(f"The provider did not report the tokens of {unknown:,} turns; they are left out.")


def _arm(run: FinishedRun, arm: Arm, ks: Sequence[str]) -> list[Child]:
    return [
        arm.name,
        _number(arm.mean.estimate),
        _range(arm.mean),
        *(f"{arm.passes[k]:.3f}" if k in arm.passes else "" for k in ks),
        f"{arm.failed:,} of {arm.rollouts:,}",
        *_tokens(arm.usage),
        _dollars(_price(run, arm)),
    ]


def _price(run: FinishedRun, arm: Arm) -> float | None:
    """Dollars of an arm's answers: 0 and unknown as they were booked, otherwise by the model's prices."""
    booked = run.result.costs.measuring.usd
    if not booked:
        return booked
    given = {model: Price(*numbers) for model, numbers in run.settings.get("prices", {}).items()}
    price = find_price(run.settings.get("model", ""), given)
    usage = Usage(arm.usage.input, arm.usage.cached, arm.usage.output)
    return None if price is None or arm.unreported else ledger.cost(usage, price) / ledger.PICO


def _range(mean: Interval) -> str:
    if mean.low is None or mean.high is None:
        return "too few rows"
    return f"{_number(mean.low)} to {_number(mean.high)}"


def _bar(name: str, mean: Interval) -> Bar:
    return Bar(name, mean.estimate, mean.low, mean.high)


# ---- what was learned ------------------------------------------------------------------------------


def _curve(steps: Sequence[Step]) -> Iterable[Element]:
    most = max(step.statistics.runs for step in steps)

    def point(step: Step, value: float) -> Point:
        return Point(step.step, value, hollow=step.statistics.runs < most / 4)

    sampled = [step for step in steps if step.statistics.runs]
    rewards = [Series("rollouts", "a", [point(step, step.statistics.mean_reward) for step in sampled])]
    rewards += _at_the_gate(steps)
    mixed = [Series("mixed groups", "b", [point(step, step.statistics.mixed) for step in sampled])]
    charts = (
        [
            svg.draw_curves(
                [one for one in rewards if one.points], "Mean reward per step", ("step", "mean reward")
            ),
            svg.draw_curves(mixed, "Share of mixed groups per step", ("step", "share of groups"), percent=True),
        ]
        if sampled
        else []
    )
    if not charts:
        return
    yield node("h2", "Learning curve")
    yield node("div", *charts, class_="side")
    yield _note(
        "Groups are mixed when their rewards differ: only they show what helps. A hollow dot is a step with "
        "few runs. A filled diamond is a candidate library that was kept, a hollow one was not."
    )


def _at_the_gate(steps: Sequence[Step]) -> list[Series]:
    """On the validation rows: the library of the time, and the best candidate to follow it."""
    current, best = [], []
    for step in steps:
        if step.gate and step.gate.rows and "current" in step.gate.means:
            mean = step.gate.means["current"]
            current.append(Point(step.step, mean))
            best.append(Point(step.step, mean + step.gate.difference, hollow=not step.gate.winner))
    return [
        Series("validation, current library", "c", current),
        Series("validation, best candidate", "d", best, joined=False),
    ]


def _lessons(run: FinishedRun) -> Iterable[Element]:
    lessons = run.library.lessons if run.library else []
    yield node("h2", "Lessons")
    if not lessons:
        yield node("p", "No lesson was kept.")
        return
    rows = [
        [
            f"G{i}",
            x.text,
            x.kind,
            "start" if x.born == 0 else str(x.born),
            f"{len(x.sources):,}",
            _effect(x.effect),
            f"{x.effect.uses:,}" if x.effect else "",
        ]
        for i, x in enumerate(lessons)
    ]
    titles = ["", "lesson", "kind", "born at step", "source rows", "effect [95 %]", "uses"]
    yield table(titles, rows, words=3)
    yield _note(
        "The effect of a lesson is the change in mean reward where it is shown, measured on rollouts that saw a "
        "random part of the library, or by leaving it out. No figure: not measured."
    )
    for gone in run.dropped:
        yield _note(
            f"{'Harmful, but locked' if gone.kept else 'Dropped'}: “{gone.lesson.text}” {gone.reason}."
        )


def _effect(effect: Effect | None) -> str:
    if effect is None:
        return ""
    return f"{_signed(effect.estimate)} [{_signed(effect.low)}, {_signed(effect.high)}]"


def _operations(steps: Sequence[Step]) -> Iterable[Element]:
    yield node("h3", "Steps")
    for step in steps:
        rows = [[op.action, op.text or op.id or "", _fate(op), op.reason] for op in step.operations]
        operations = table(["operation", "lesson", "", "reason"], rows, words=4) if rows else None
        notes = [_note(text) for text in _step_notes(step)]
        yield node("details", node("summary", _step_summary(step)), *notes, operations)


def _step_summary(step: Step) -> str:
    fates = Counter(map(_fate, step.operations))
    counts = ", ".join(f"{fates[fate]} {fate}" for fate in FATES if fates[fate]) or "no operations"
    return f"Step {step.step}, epoch {step.epoch}: {counts}{_verdict(step.gate)}"


def _verdict(gate: Gate | None) -> str:
    """What the gate said of a step's best candidate."""
    if gate is None:
        return ""
    if not gate.rows:
        return "; no candidate differed from the current library"
    gain = f"{_signed(gate.difference)} on {gate.rows:,} validation rows, p {gate.p:.2g}"
    if gate.winner:
        return f"; kept “{gate.winner}” ({gain})"
    if gate.worse:
        return f"; refused, as anchors got worse: {', '.join(gate.worse)} ({gain})"
    return f"; nothing was shown to be better ({gain}, needed {gate.level:.2g})"


def _step_notes(step: Step) -> Iterable[str]:
    if step.incomplete:
        yield f"The update of the library failed: {step.incomplete}"
    for reason, count in Counter(group.skipped for group in step.groups if group.skipped).most_common():
        yield f"{count:,} of {len(step.groups):,} groups gave no lesson: {reason}"


def _fate(op: Operation) -> str:
    if op.applied:
        return "applied"
    return "joined" if op.reason.startswith("joined") else "rejected"


# ---- rows that changed -----------------------------------------------------------------------------


def _changed_rows(run: FinishedRun) -> Iterable[Element]:
    differences = [(arm.name, arm.against) for arm in run.result.evidence.results if arm.against]
    for arm, against in differences:
        yield node("h2", f"Rows that changed from “{against.baseline}” to “{arm}”")
        yield from _row_list(run, arm, against, "Better", against.better)
        yield from _row_list(run, arm, against, "Worse", against.worse)


def _row_list(
    run: FinishedRun, arm: str, against: Difference, title: str, examples: Sequence[str]
) -> Iterable[Element]:
    yield node("h3", f"{title}: {len(examples):,}")
    yield from (_row(run, (against.baseline, arm), example) for example in examples[:ROWS])
    if len(examples) > ROWS:
        yield _note(f"{len(examples) - ROWS:,} more rows are left out.")


def _row(run: FinishedRun, arms: tuple[str, str], example: str) -> Element:
    rewards = {(row.example, row.arm): row.rewards for row in run.result.evidence.rows}
    means = [_mean(rewards.get((example, arm), [])) for arm in arms]
    told = [run.answers.get((example, arm), []) for arm in arms]
    prompt = [m for line in told[0][:1] for m in line.prompt]
    glance = node("span", _glance(prompt), class_="note")
    return node(
        "details",
        node("summary", node("b", example), f": {means[0]} → {means[1]} ", glance),
        *(part for m in prompt for part in (_note(m.role), node("pre", _cut(m.content)))),
        *(part for arm, lines in zip(arms, told, strict=True) for part in _answers(arm, lines)),
        None if any(told) else _note("rollouts.jsonl does not hold these answers."),
    )


def _glance(prompt: Sequence[Message]) -> str:
    """The last line of what was asked, shortened: enough to know the row again."""
    lines = prompt[-1].content.split("\n") if prompt else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last if len(last) <= GLANCE else f"{last[:GLANCE]}…"


def _answers(arm: str, lines: Sequence[Line]) -> Iterable[Element]:
    for line in lines[:SAMPLES]:
        score = line.score
        grade = f"reward {svg.format_number(score.value)}" if score else "no reward"
        told = "; ".join(filter(None, (grade, score.feedback if score else "", line.error)))
        yield _note(f"Answer of “{arm}”, {_cut(told)}")
        yield node("pre", _cut(line.answer) or "(nothing)")
    if len(lines) > SAMPLES:
        yield _note(f"{len(lines) - SAMPLES:,} more answers of “{arm}” are left out.")


def _mean(rewards: Sequence[float]) -> str:
    return svg.format_number(sum(rewards) / len(rewards)) if rewards else "?"


def _cut(text: str) -> str:
    left = len(text) - LETTERS
    return text if left <= 0 else f"{text[:LETTERS]}… ({left:,} more letters)"


# ---- costs and settings ----------------------------------------------------------------------------


def _costs(result: Result) -> Iterable[Element]:
    costs = result.costs
    head = ["calls", "tokens in", "cached", "out", "dollars"]
    total = ("total", costs.total)
    steps = sorted(costs.step.items(), key=lambda item: (len(item[0]), item[0]))
    named = [("measuring" if step == "0" else step, book) for step, book in steps]
    yield node("h2", "Costs")
    yield table(["role", *head], [_book(*item) for item in (*costs.role.items(), total)], total=True)
    yield table(["step", *head], [_book(*item) for item in (*named, total)], total=True)
    if costs.total.usd is None:
        yield _note("Dollars are unknown where the price of a model is.")
    if costs.total.estimated:
        calls = f"{costs.total.estimated:,} calls"
        yield _note(f"The provider did not report the tokens of {calls}; booked is their upper bound.")


def _book(name: str, book: Book) -> list[Child]:
    return [name, f"{book.calls:,}", *_tokens(book), _dollars(book.usd)]


def _tokens(used: Tokens) -> list[str]:
    return [f"{used.input:,}", f"{used.cached:,}", f"{used.output:,}"]


def _settings(run: FinishedRun) -> Element:
    return table(["setting", "value"], [[key, str(x)] for key, x in run.settings.items()], words=2)


# ---- small parts -----------------------------------------------------------------------------------


def table(
    head: Sequence[str], rows: Iterable[Sequence[Child]], words: int = 1, total: bool = False
) -> Element:
    """A table whose first `words` columns are words and the others numbers; `total` marks the last row."""

    def line(kind: str, cells: Sequence[Child], style: str = "") -> Element:
        parts = (node(kind, cell, class_="w" if i < words else "n") for i, cell in enumerate(cells))
        return node("tr", *parts, **({"class": style} if style else {}))

    body = [line("td", cells) for cells in rows]
    if total:
        body[-1].set("class", "total")
    whole = node("table", node("thead", line("th", head)), node("tbody", *body))
    return node("div", whole, class_="wide")


def _note(text: str) -> Element:
    return node("p", text, class_="note")


def _dollars(usd: float | None) -> str:
    if not usd:
        return "unknown" if usd is None else "$0"
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
