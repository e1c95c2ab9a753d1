"""
Results of a comparison, as numbers, read from the directories of its runs.

Fields are the keys of compare.json. Intervals are 95 %, over seeds and rows: see `crossed_interval`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json, to_json

from edgewise.learner.comparison.lineup import FAILURE_FILE, Lineup, PlannedRun
from edgewise.learner.methods.method import Method, describe
from edgewise.toolkit.errors import Hopeless, LimitReached
from edgewise.toolkit.evaluation.statistics import Interval, crossed_interval, mean, t_half_width
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.runner import read_costs

RowMeans = Mapping[str, float]
"""Mean reward of each held-out row."""


@dataclass(frozen=True, slots=True)
class FailedRun:
    """Why a run stopped before its evaluation, and the exit code that goes with it."""

    why: str
    code: int


@dataclass(frozen=True, slots=True)
class RunSummary:
    """
    Results of one run; `path` is relative to the comparison's.

    `ended` says whether it has its evaluation. `why` says why not, or why learning stopped early; `code` is the exit
    code that goes with it. `rewards` are the mean rewards of its steps.
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
    before: RowMeans
    after: RowMeans


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A step of a learning curve: mean reward over the `seeds` that have it, and its interval by Student's t."""

    step: int
    mean: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class MeanCost:
    """Costs of a run, on average over the finished ones."""

    steps: float
    calls: float
    tokens: float
    measuring: float
    seconds: float


@dataclass(frozen=True, slots=True)
class MethodResult:
    """
    Results of one method: rewards on held-out rows over its finished runs.

    `gain` is after minus before; `against` this method minus the first one, on the `shared` seeds that are finished for
    both, and `holm` its p-value corrected for the number of comparisons. None without finished runs.
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
        """Number of finished runs."""
        return sum(run.ended for run in self.runs)


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """Result of `compare`; `path` is its directory, `limits` those of all runs together."""

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
        """Runs of all methods."""
        return [run for method in self.methods for run in method.runs]

    @property
    def exit_code(self) -> int:
        """3 if a run reached its share of a limit, that of the first failure if none is finished, else 0."""
        codes = [run.code for run in self.runs]
        if LimitReached.exit_code in codes:
            return LimitReached.exit_code
        return 0 if any(run.ended for run in self.runs) else next(filter(None, codes), 0)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; an infinite end of an interval is None."""
        return from_json(to_json(self, inf_nan_mode="null"))


def read_results(lineup: Lineup, failures: Mapping[Path, FailedRun]) -> ComparisonResult:
    """Read the results so far; `failures` says of directories why their runs have just failed."""
    runs = {
        contender.name: [
            _read_run(run, lineup.path, failures.get(run.path)) for run in lineup.runs if run.contender == contender
        ]
        for contender in lineup.contenders
    }
    specs = {run.contender.name: run.spec for run in lineup.runs}
    baseline = runs[lineup.contenders[0].name]
    methods = [
        _summarize_method(name, specs[name].method, own, () if own is baseline else baseline)
        for name, own in runs.items()
    ]

    # Holm 1979: each method is compared with the first one.
    # The baseline has no difference to itself, and a method without common seeds none either.
    ps = {i: method.against.p for i, method in enumerate(methods) if method.against}
    if ps:
        from statsmodels.stats.multitest import multipletests

        corrected: Any = multipletests(list(ps.values()), method="holm")[1]
        for i, p in zip(ps, corrected, strict=True):
            methods[i] = replace(methods[i], holm=float(p))

    task, config = lineup.task, lineup.runs[0].spec.config
    seeds = tuple(run.seed for run in baseline)
    limits = {name: limit for name, limit in asdict(lineup.limits).items() if limit is not None}
    return ComparisonResult(
        task.name, config.model, lineup.path, len(task.test), config.samples, seeds, limits, tuple(methods)
    )


def _read_run(run: PlannedRun, root: Path, failure: FailedRun | None) -> RunSummary:
    path, costs, result = run.path, {}, {}
    if run.is_finished:
        costs = result = directory.read_json(path / "result.json")
        end = FailedRun(directory.read_json(path / "weights.json")["stopped"], 0)
    else:
        if (path / directory.JOURNAL).exists():
            costs = read_costs(path, run.spec.config)
        # A failure of this call is newer than what the directory says.
        end = failure or FailedRun("not carried out yet", 0)
        if not failure and (path / FAILURE_FILE).exists():
            end = FailedRun(str(directory.read_json(path / FAILURE_FILE)["why"]), Hopeless.exit_code)

    # In the order of steps: their folders sort by number only up to 999.
    steps = [json.loads(file.read_text("utf-8")) for file in path.glob("steps/*/step.json")]
    steps.sort(key=lambda step: step["step"])
    rewards = tuple(step["statistics"]["mean_reward"] for step in steps)
    rows = result.get("evidence", {}).get("rows", [])
    before, after = (
        {row["example"]: mean(row["rewards"]) for row in rows if row["arm"] == arm} for arm in ("before", "after")
    )
    totals, nothing = costs.get("costs", {}), {"calls": 0, "input": 0, "output": 0}
    learning, measuring = (totals.get(name, nothing) for name in ("learning", "measuring"))
    usd, seconds = totals.get("total", {}).get("usd", 0.0), costs.get("seconds", 0.0)
    seed, own_path = run.spec.config.seed, path.relative_to(root)
    outcome = (run.is_finished, end.why, end.code, rewards)
    return RunSummary(seed, own_path, *outcome, learning, measuring, usd, seconds, before, after)


def _summarize_method(
    name: str, method: Method, runs: Sequence[RunSummary], baseline: Sequence[RunSummary]
) -> MethodResult:
    finished = [run for run in runs if run.ended]
    before, after = _stack([run.before for run in finished]), _stack([run.after for run in finished])
    # Seed by seed: the same rows and random numbers, so that the difference is paired in both.
    pairs = [(run, other) for run, other in zip(runs, baseline, strict=False) if run.ended and other.ended]
    own, others = _stack([run.after for run, _ in pairs]), _stack([other.after for _, other in pairs])
    cost = None
    if finished:
        cost = MeanCost(
            mean([len(run.rewards) for run in finished]),
            mean([run.learning["calls"] for run in finished]),
            mean([run.learning["input"] + run.learning["output"] for run in finished]),
            mean([run.measuring["input"] + run.measuring["output"] for run in finished]),
            mean([run.seconds for run in finished]),
        )
    about = (name, method.paper, method.differs, tuple(describe(method)))
    curve = _build_curve([run.rewards for run in runs if run.rewards])
    estimates = (_estimate(before), _estimate(after), _estimate(after, before), _estimate(own, others))
    return MethodResult(*about, tuple(runs), curve, *estimates, len(pairs), None, cost)


def _stack(runs: Sequence[RowMeans]) -> np.ndarray:
    """Return the means of runs as (S, E): seeds, and rows in the order of their ids."""
    return np.array([[means[row] for row in sorted(means)] for means in runs])


def _estimate(values: np.ndarray, baseline: np.ndarray | None = None) -> Interval | None:
    """Estimate the mean of values (S, E), or of their difference to a baseline, row by row; None without seeds."""
    if not len(values):
        return None
    difference = values if baseline is None else values - baseline
    interval = crossed_interval(difference)
    rewards = values if baseline is None else np.stack([values, baseline])
    if not ((rewards >= 0) & (rewards <= 1)).all():
        return interval
    # Rewards within 0 to 1 have a mean within 0 to 1, and differences within -1 to 1.
    lowest = 0.0 if baseline is None else -1.0
    return replace(interval, low=max(interval.low, lowest), high=min(interval.high, 1.0))


def _build_curve(runs: Sequence[Sequence[float]]) -> tuple[CurvePoint, ...]:
    # Rewards of tasks may leave 0 to 1; only then the band does, too.
    is_bounded = all(0 <= reward <= 1 for run in runs for reward in run)
    points = []
    for step, column in enumerate(zip_longest(*runs), 1):
        rewards = [reward for reward in column if reward is not None]
        middle, half = mean(rewards), t_half_width(np.array(rewards))
        low, high = (None, None) if math.isinf(half) else (middle - half, middle + half)
        if is_bounded and low is not None and high is not None:
            low, high = max(low, 0.0), min(high, 1.0)
        points.append(CurvePoint(step, middle, low, high, len(rewards)))
    return tuple(points)
