"""
Arms compared on the same examples and samples: how good each is, what it cost, and which rows changed.

Everything here is computed from finished groups. A rollout that failed, or that has no valid score, counts as
0 and is shown under `failed`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgewise.toolkit.evaluation import statistics
from edgewise.toolkit.evaluation.statistics import Interval
from edgewise.toolkit.types import Group, Rollout, Usage

ENOUGH = 10
"""With fewer rows that differ than this, intervals were seen to miss the truth too often (bench/coverage.py)."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of answering, such as "without lessons", and its group of rollouts for each example."""

    name: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One example in one arm: its rewards in sample order (0 where the sample failed) and how many failed."""

    example: str
    arm: str
    rewards: tuple[float, ...]
    failed: int

    @property
    def mean(self) -> float:
        """Mean reward of the samples."""
        return math.fsum(self.rewards) / len(self.rewards)


@dataclass(frozen=True, slots=True)
class Difference:
    """
    An arm against the first one: mean paired difference (this arm minus the first), and rows that changed.

    `better` and `worse` are ids of examples whose mean reward rose or fell.
    """

    baseline: str
    mean: Interval
    better: tuple[str, ...]
    worse: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """
    One arm: `mean` is mean@K with its interval over examples, `passes` is pass@k by k.

    `version` names what it ran under, as its rollouts do. `usage` and `tool_calls` (mean per rollout) include
    delegated runs; `unreported` counts turns whose tokens the provider did not report. `against` is None for
    the first arm.
    """

    name: str
    version: str
    mean: Interval
    passes: dict[int, float]
    rollouts: int
    failed: int
    usage: Usage
    unreported: int
    tool_calls: float
    against: Difference | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `compare` found: `results` in the order of the arms, `rows` by example id, then arm."""

    examples: int
    samples: int
    threshold: float
    results: tuple[Result, ...]
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; an infinite end of an interval is None."""
        return _plain(asdict(self))

    def table(self) -> list[dict[str, str]]:
        """One dict per arm for printing, column title to text, all with the same columns."""
        return [_line(result, self.samples) for result in self.results]

    def lines(self) -> list[str]:
        """The table as text in columns, titles first."""
        table = self.table()
        cells = [list(table[0]), *(list(line.values()) for line in table)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return [*("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells), *self.cautions()]

    def cautions(self) -> list[str]:
        """What a reader should know of the intervals: with few rows that differ they may be too narrow."""
        changed = [(x.name, len(x.against.better) + len(x.against.worse)) for x in self.results if x.against]
        return [
            f"caution: only {number} rows differ in {name!r}; an interval of so few may be too narrow"
            for name, number in changed
            if 0 < number < ENOUGH
        ]


def compare(
    arms: Sequence[Arm],
    ks: Sequence[int] | None = None,
    *,
    threshold: float = 1.0,
    seed: int = 0,
    resamples: int = 10_000,
) -> Evaluation:
    """
    Measure every arm, and compare each with the first.

    `ks` are the k of pass@k; left out, they are 1 and K, the fewest samples any example has. A reward of at
    least `threshold` passes. ValueError unless all arms have the same examples and as many samples of each.
    """
    table = {arm.name: _rows(arm) for arm in arms}
    _check_same(arms, table)
    first = table[arms[0].name]
    samples = min(len(row.rewards) for row in first)
    wanted = sorted(set(ks or (1, samples)))

    def result(arm: Arm) -> Result:
        rows = table[arm.name]
        members = [run for group in arm.groups for member in group.members for run in _family(member)]
        turns = [step for run in members for step in run.steps]
        rollouts = sum(len(row.rewards) for row in rows)
        return Result(
            name=arm.name,
            version=arm.groups[0].members[0].version,
            mean=statistics.interval([row.mean for row in rows], seed, resamples),
            passes={k: _pass_at(rows, k, threshold) for k in wanted},
            rollouts=rollouts,
            failed=sum(row.failed for row in rows),
            usage=sum((run.usage for run in members), Usage()),
            unreported=sum(step.usage is None for step in turns),
            tool_calls=sum(run.tool_calls for run in members) / rollouts,
            against=None if rows is first else _difference(arms[0].name, first, rows, seed, resamples),
        )

    every = sorted((row for rows in table.values() for row in rows), key=lambda row: row.example)
    return Evaluation(len(first), samples, threshold, tuple(result(arm) for arm in arms), tuple(every))


def _rows(arm: Arm) -> tuple[Row, ...]:
    rows = [_row(group, arm.name) for group in arm.groups]
    if len({row.example for row in rows}) < len(rows):
        raise ValueError(f"arm {arm.name!r} has two groups for one example; compare one role at a time")
    return tuple(sorted(rows, key=lambda row: row.example))


def _row(group: Group, arm: str) -> Row:
    values = [reward_of(member) for member in group.members]
    if not values:
        raise ValueError(f"arm {arm!r} has no samples for example {group.example.id!r}")
    rewards = tuple(0.0 if value is None else value for value in values)
    return Row(group.example.id, arm, rewards, values.count(None))


def reward_of(rollout: Rollout) -> float | None:
    """The reward, or None where the rollout failed or has no valid score."""
    score = rollout.score
    return None if rollout.failed or score is None or not score.valid else float(score.value)


def _check_same(arms: Sequence[Arm], table: dict[str, tuple[Row, ...]]) -> None:
    if not arms or len(table) < len(arms):
        raise ValueError("compare needs at least one arm, and a name of its own for each")
    first, *others = table.items()
    if not first[1]:
        raise ValueError("there are no examples to compare the arms on")
    expected = {row.example: len(row.rewards) for row in first[1]}
    for name, rows in others:
        found = {row.example: len(row.rewards) for row in rows}
        odd = sorted(id for id in expected.keys() | found.keys() if expected.get(id) != found.get(id))
        if odd:
            counts = " and ".join(str(rows.get(odd[0], 0)) for rows in (expected, found))
            raise ValueError(
                f"arms {first[0]!r} and {name!r} must have the same examples and samples of each, but "
                f"they have {counts} samples of example {odd[0]!r}"
            )


def _family(rollout: Rollout) -> Iterator[Rollout]:
    """The rollout and all that it delegated, however deep."""
    yield rollout
    for step in rollout.steps:
        for child in step.calls:
            yield from _family(child)


def _pass_at(rows: Sequence[Row], k: int, threshold: float) -> float:
    chances = [
        statistics.pass_at_k(len(row.rewards), sum(r >= threshold for r in row.rewards), k) for row in rows
    ]
    return math.fsum(chances) / len(chances)


def _difference(
    name: str, before: Sequence[Row], after: Sequence[Row], seed: int, resamples: int
) -> Difference:
    mean = statistics.paired_difference(
        [r.rewards for r in before], [r.rewards for r in after], seed, resamples
    )
    pairs = list(zip(before, after, strict=True))
    better = tuple(b.example for b, a in pairs if a.mean > b.mean)
    worse = tuple(b.example for b, a in pairs if a.mean < b.mean)
    return Difference(name, mean, better, worse)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(result: Result, samples: int) -> dict[str, str]:
    against = result.against
    mean = result.mean
    usage = result.usage
    return {
        "arm": result.name,
        f"mean@{samples}": f"{mean.estimate:.3f} [{mean.low:.3f}, {mean.high:.3f}]",
        **{f"pass@{k}": f"{chance:.3f}" for k, chance in result.passes.items()},
        "difference": f"{against.mean.estimate:+.3f}" if against else "",
        "95 % interval": f"[{against.mean.low:+.3f}, {against.mean.high:+.3f}]" if against else "",
        "p": f"{against.mean.p:.4f}" if against else "",
        "better": str(len(against.better)) if against else "",
        "worse": str(len(against.worse)) if against else "",
        "failed": f"{result.failed}/{result.rollouts}",
        "input": f"{usage.input}",
        "cached": f"{usage.cached}",
        "output": f"{usage.output}" + (f" + {result.unreported} turns unknown" if result.unreported else ""),
        "tools": f"{result.tool_calls:.1f}",
    }
