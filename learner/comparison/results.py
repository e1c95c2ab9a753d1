"""What came of a comparison of methods, read from the directories of its runs: all that is shown, as numbers."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from edgewise.learner.comparison.lineup import FAILURE_FILE, Lineup, PlannedRun
from edgewise.learner.comparison.tables import render_comparison
from edgewise.learner.methods.method import Method, describe
from edgewise.learner.monitoring.collapse import mean
from edgewise.toolkit.errors import Hopeless, LimitReached
from edgewise.toolkit.evaluation.statistics import Interval, crossed_interval, t_half_width
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.runner import read_costs

Means = Mapping[str, float]
"""The mean reward of each held-out row."""


@dataclass(frozen=True, slots=True)
class FailedRun:
    """Why a run stopped before its measurement, and the exit code that goes with it."""

    why: str
    code: int


@dataclass(frozen=True, slots=True)
class RunSummary:
    """
    How one run went; `path` lies below the comparison's.

    `ended` says whether it was measured, with `before` and `after`. `why` says why it did not end, or why learning
    stopped early; `code` is the exit code that goes with it. `rewards` is the mean reward of each step.
    """

    seed: int
    path: Path
    ended: bool
    why: str
    code: int
    rewards: tuple[float, ...]
    learning: Mapping[str, Any]
    measuring: Mapping[str, Any]
    usd: float | None
    seconds: float
    before: Means
    after: Means


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A step of a learning curve: mean reward over the `seeds` that have it, and its 95 % interval by Student's t."""

    step: int
    mean: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class MeanCost:
    """What a run takes, on average over those that ended."""

    steps: float
    calls: float
    tokens: float
    measuring: float
    seconds: float


@dataclass(frozen=True, slots=True)
class MethodResult:
    """
    One method: rewards on held-out rows over its seeds that ended, with 95 % intervals over seeds and rows.

    `gain` is after minus before; `against` this method minus the first one, on the `shared` seeds that ended for both,
    and `holm` its p-value for as many comparisons as there are. None where nothing ended.
    """

    name: str
    paper: str
    differs: str
    axes: tuple[str, ...]
    runs: tuple[RunSummary, ...]
    curve: tuple[CurvePoint, ...]
    before: Interval | None
    after: Interval | None
    gain: Interval | None
    against: Interval | None
    shared: int
    holm: float | None
    use: MeanCost | None

    @property
    def finished_count(self) -> int:
        """How many of its runs did."""
        return sum(run.ended for run in self.runs)


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """What `compare` returns; `path` is its directory, `limits` those of all runs together."""

    task: str
    model: str
    path: Path
    rows: int
    samples: int
    seeds: tuple[int, ...]
    limits: Mapping[str, float]
    methods: tuple[MethodResult, ...]

    @property
    def runs(self) -> list[RunSummary]:
        """All of them."""
        return [run for line in self.methods for run in line.runs]

    @property
    def exit_code(self) -> int:
        """3 where a run reached its share of a limit, that of the first failure where none ended, else 0."""
        codes = [run.code for run in self.runs]
        if LimitReached.exit_code in codes:
            return LimitReached.exit_code
        return 0 if any(run.ended for run in self.runs) else next(filter(None, codes), 0)

    def lines(self) -> list[str]:
        """What `edgewise compare` prints."""
        return render_comparison(self)

    def to_json(self) -> dict[str, Any]:
        """Plain data; an infinite end of an interval is None."""
        return _plain(asdict(self))


def read_results(plan: Lineup, ends: Mapping[Path, FailedRun]) -> ComparisonResult:
    """The comparison as far as it went; `ends` says of directories how their runs ended just now."""
    config = plan.runs[0].spec.config
    found = {
        each.name: [_ran(run, plan.path, ends.get(run.path)) for run in plan.runs if run.contender == each]
        for each in plan.contenders
    }
    first = found[plan.contenders[0].name]
    jobs = {run.contender.name: run.spec for run in plan.runs}
    lines = [
        _line(name, jobs[name].method, runs, None if runs is first else first) for name, runs in found.items()
    ]
    limits = {name: most for name, most in asdict(plan.limits).items() if most is not None}
    seeds = tuple(run.seed for run in first)
    rows = len(plan.task.test)
    return ComparisonResult(
        plan.task.name, config.model, plan.path, rows, config.samples, seeds, limits, _corrected(lines)
    )


# ---- one run ---------------------------------------------------------------------------------------------


def _ran(run: PlannedRun, whole: Path, end: FailedRun | None) -> RunSummary:
    path = run.path
    result = directory.read_json(path / "result.json") if run.is_finished else {}
    about = directory.read_json(path / "weights.json") if run.is_finished else {}
    used = result or (read_costs(path, run.spec.config) if (path / directory.JOURNAL).exists() else {})
    costs, nothing = used.get("costs", {}), {"calls": 0, "input": 0, "output": 0}
    rows = result.get("evidence", {}).get("rows", [])
    end = FailedRun(about["stopped"], 0) if run.is_finished else end or _unmeasured(path)
    return RunSummary(
        run.spec.config.seed,
        path.relative_to(whole),
        run.is_finished,
        end.why,
        end.code,
        _rewards(path),
        costs.get("learning", nothing),
        costs.get("measuring", nothing),
        costs.get("total", {}).get("usd", 0.0),
        used.get("seconds", 0.0),
        {row["example"]: mean(row["rewards"]) for row in rows if row["arm"] == "before"},
        {row["example"]: mean(row["rewards"]) for row in rows if row["arm"] == "after"},
    )


def _unmeasured(path: Path) -> FailedRun:
    if (path / FAILURE_FILE).exists():
        return FailedRun(str(directory.read_json(path / FAILURE_FILE)["why"]), Hopeless.exit_code)
    return FailedRun("not carried out yet", 0)


def _rewards(path: Path) -> tuple[float, ...]:
    steps = [json.loads(file.read_text("utf-8")) for file in path.glob("steps/*/step.json")]
    found = {each["step"]: each["statistics"]["mean_reward"] for each in steps}
    return tuple(found[step] for step in sorted(found))


# ---- one method ------------------------------------------------------------------------------------------


def _line(name: str, method: Method, runs: Sequence[RunSummary], first: Sequence[RunSummary] | None) -> MethodResult:
    ended = [run for run in runs if run.ended]
    pairs = [(run, other) for run, other in zip(runs, first or (), strict=False) if run.ended and other.ended]
    return MethodResult(
        name,
        method.paper,
        method.differs,
        tuple(describe(method)),
        tuple(runs),
        _curve([run.rewards for run in runs if run.rewards]),
        _mean([run.before for run in ended]),
        _mean([run.after for run in ended]),
        _difference([(run.before, run.after) for run in ended]),
        _difference([(other.after, run.after) for run, other in pairs]),
        len(pairs),
        None,
        _use(ended),
    )


def _mean(runs: Sequence[Means]) -> Interval | None:
    """Over (S, E): seeds, and their rows."""
    values = [[run[row] for row in sorted(run)] for run in runs]
    return _within(crossed_interval(values), 0.0, values) if values else None


def _difference(pairs: Sequence[tuple[Means, Means]]) -> Interval | None:
    """Of the second of each pair, minus the first, row by row."""
    values = [[after[row] - before[row] for row in sorted(before)] for before, after in pairs]
    given = [list(each.values()) for pair in pairs for each in pair]
    return _within(crossed_interval(values), -1.0, given) if values else None


def _within(found: Interval, least: float, rewards: Sequence[Sequence[float]]) -> Interval:
    """The interval without what can't be, where all rewards lie between 0 and 1."""
    if any(not 0 <= reward <= 1 for row in rewards for reward in row):
        return found
    return replace(found, low=max(found.low, least), high=min(found.high, 1.0))


def _curve(runs: Sequence[Sequence[float]]) -> tuple[CurvePoint, ...]:
    usual = all(0 <= reward <= 1 for run in runs for reward in run)
    columns = [[x for x in column if x is not None] for column in zip_longest(*runs)]
    return tuple(_bin(step, column, usual) for step, column in enumerate(columns, 1))


def _bin(step: int, rewards: Sequence[float], usual: bool) -> CurvePoint:
    middle, half = mean(rewards), t_half_width(np.array(rewards))
    if math.isinf(half):
        return CurvePoint(step, middle, None, None, len(rewards))
    low, high = middle - half, middle + half
    return CurvePoint(step, middle, max(low, 0.0) if usual else low, min(high, 1.0) if usual else high, len(rewards))


def _use(runs: Sequence[RunSummary]) -> MeanCost | None:
    def tokens(book: Mapping[str, Any]) -> int:
        return book["input"] + book["output"]

    if not runs:
        return None
    return MeanCost(
        mean([len(run.rewards) for run in runs]),
        mean([run.learning["calls"] for run in runs]),
        mean([tokens(run.learning) for run in runs]),
        mean([tokens(run.measuring) for run in runs]),
        mean([run.seconds for run in runs]),
    )


def _corrected(lines: Sequence[MethodResult]) -> tuple[MethodResult, ...]:
    """The same lines with p-values for as many comparisons as there are (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    found = {i: line.against.p for i, line in enumerate(lines) if line.against}
    if not found:
        return tuple(lines)
    ps: Any = multipletests(list(found.values()), method="holm")[1]
    holm = dict(zip(found, map(float, ps), strict=True))
    return tuple(replace(line, holm=holm.get(i)) for i, line in enumerate(lines))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
