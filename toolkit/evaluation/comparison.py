"""
Comparison of arms on the same examples and samples: quality, cost, and the rows that changed.

Everything is computed from finished groups. A rollout that failed, or that has no valid score, counts as 0 and is
counted under `failed`. E examples, K samples of each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgewise.toolkit.evaluation import statistics
from edgewise.toolkit.evaluation.statistics import Interval, mean
from edgewise.toolkit.types import Group, Rollout, Usage

FEW_CHANGED_ROWS = 10
"""With fewer rows that differ than this, intervals were seen to miss the truth too often (bench/coverage.py)."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of answering, such as "without lessons", and its group of rollouts for each example."""

    name: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class RowRewards:
    """One example in one arm: its rewards in sample order (0 where the sample failed) and how many failed."""

    example: str
    arm: str
    rewards: tuple[float, ...]
    failed: int

    @property
    def mean(self) -> float:
        """Mean reward of the samples."""
        return mean(self.rewards)


@dataclass(frozen=True, slots=True)
class Difference:
    """
    Mean paired difference of an arm to the first one (this arm minus the first), and the rows that changed.

    `better` and `worse` are ids of examples whose mean reward rose or fell.
    """

    baseline: str
    mean: Interval
    better: tuple[str, ...]
    worse: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ArmResult:
    """Measurement of one arm."""

    name: str
    version: str  # `Rollout.version` of its rollouts
    mean: Interval  # mean@K with its interval over examples
    passes: dict[int, float]  # pass@k by k
    rollouts: int
    failed: int
    usage: Usage  # with delegated rollouts
    unreported: int  # turns whose tokens the provider did not report
    tool_calls: float  # mean per rollout, with delegated ones
    against: Difference | None = None  # None for the first arm


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of `compare`: `results` in the order of the arms, `rows` by example id, then arm."""

    examples: int
    samples: int
    threshold: float
    results: tuple[ArmResult, ...]
    rows: tuple[RowRewards, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers; an infinite end of an interval is None."""
        from pydantic_core import to_jsonable_python

        return to_jsonable_python(self, inf_nan_mode="null")

    def table(self) -> list[dict[str, str]]:
        """Return one dict per arm for printing, column title to text, all with the same columns."""
        lines = []
        for result in self.results:
            average, usage, against = result.mean, result.usage, result.against
            difference = {"difference": "", "95 % interval": "", "p": "", "better": "", "worse": ""}
            if against:
                interval = against.mean
                difference = {
                    "difference": f"{interval.estimate:+.3f}",
                    "95 % interval": f"[{interval.low:+.3f}, {interval.high:+.3f}]",
                    "p": f"{interval.p:.4f}",
                    "better": str(len(against.better)),
                    "worse": str(len(against.worse)),
                }
            unknown = f" + {result.unreported} turns unknown" if result.unreported else ""
            lines.append(
                {
                    "arm": result.name,
                    f"mean@{self.samples}": f"{average.estimate:.3f} [{average.low:.3f}, {average.high:.3f}]",
                    **{f"pass@{k}": f"{chance:.3f}" for k, chance in result.passes.items()},
                    **difference,
                    "failed": f"{result.failed}/{result.rollouts}",
                    "input": f"{usage.input}",
                    "cached": f"{usage.cached}",
                    "output": f"{usage.output}{unknown}",
                    "tools": f"{result.tool_calls:.1f}",
                }
            )
        return lines

    def lines(self) -> list[str]:
        """Return the table as text in columns, titles first, and the warnings."""
        table = self.table()
        cells = [list(table[0]), *(list(line.values()) for line in table)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return [*("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells), *self.warnings()]

    def warnings(self) -> list[str]:
        """Return a sentence for each arm whose interval may be too narrow, as only few rows differ."""
        changed = [(x.name, len(x.against.better) + len(x.against.worse)) for x in self.results if x.against]
        return [
            f"caution: only {number} rows differ in {name!r}; an interval of so few may be too narrow"
            for name, number in changed
            if 0 < number < FEW_CHANGED_ROWS
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

    `ks` are the k of pass@k; left out, they are 1 and K, the fewest samples any example has. A reward of at least
    `threshold` passes. Raises ValueError unless all arms have the same examples and as many samples of each.
    """
    # Rewards, one row per example, sorted by id: rows of two arms pair up by position.
    #
    #                  arm 0       arm 1       ...
    #     example a    1 0 1 1  |  1 1 1 1        mean of each row -> (E,) per arm
    #     example b    0 0 0 1  |  0 1 0 1        (E,) arm i - (E,) arm 0 -> paired differences
    table = {arm.name: _collect_rows(arm) for arm in arms}
    _check_same_rows(arms, table)
    baseline = table[arms[0].name]
    samples = min(len(row.rewards) for row in baseline)

    results = []
    for arm in arms:
        rows = table[arm.name]

        # Quality of the arm by itself. pass@k is estimated per example, then averaged.
        counts = [(len(row.rewards), sum(reward >= threshold for reward in row.rewards)) for row in rows]
        passes = {k: mean([statistics.pass_at_k(n, c, k) for n, c in counts]) for k in sorted(set(ks or (1, samples)))}

        # Difference to the first arm, over the same examples.
        against = None
        if rows is not baseline:
            before, after = ([row.rewards for row in x] for x in (baseline, rows))
            difference = statistics.paired_difference(before, after, seed, resamples)
            pairs = list(zip(baseline, rows, strict=True))
            better = tuple(old.example for old, new in pairs if new.mean > old.mean)
            worse = tuple(old.example for old, new in pairs if new.mean < old.mean)
            against = Difference(arms[0].name, difference, better, worse)

        # Cost: delegated rollouts are paid for too.
        family = [run for group in arm.groups for rollout in group.rollouts for run in _with_delegated(rollout)]
        rollouts = sum(len(row.rewards) for row in rows)
        results.append(
            ArmResult(
                name=arm.name,
                version=arm.groups[0].rollouts[0].version,
                mean=statistics.bootstrap_interval([row.mean for row in rows], seed, resamples),
                passes=passes,
                rollouts=rollouts,
                failed=sum(row.failed for row in rows),
                usage=sum((run.usage for run in family), Usage()),
                unreported=sum(step.usage is None for run in family for step in run.steps),
                tool_calls=sum(run.tool_call_count for run in family) / rollouts,
                against=against,
            )
        )

    all_rows = sorted((row for rows in table.values() for row in rows), key=lambda row: row.example)
    return Evaluation(len(baseline), samples, threshold, tuple(results), tuple(all_rows))


def valid_reward(rollout: Rollout) -> float | None:
    """Return the reward, or None where the rollout failed or has no valid score."""
    score = rollout.score
    return None if rollout.failed or score is None or not score.valid else float(score.value)


def _collect_rows(arm: Arm) -> tuple[RowRewards, ...]:
    """Return the rewards of an arm by example id. Raises ValueError for an example with two groups or none."""
    rows: dict[str, RowRewards] = {}
    for group in arm.groups:
        example, rewards = group.example.id, [valid_reward(rollout) for rollout in group.rollouts]
        if example in rows:
            raise ValueError(f"arm {arm.name!r} has two groups for one example; compare one role at a time")
        if not rewards:
            raise ValueError(f"arm {arm.name!r} has no samples for example {example!r}")
        values = tuple(0.0 if reward is None else reward for reward in rewards)
        rows[example] = RowRewards(example, arm.name, values, rewards.count(None))
    return tuple(rows[example] for example in sorted(rows))


def _check_same_rows(arms: Sequence[Arm], table: dict[str, tuple[RowRewards, ...]]) -> None:
    if not arms or len(table) < len(arms):
        raise ValueError("compare needs at least one arm, and a name of its own for each")
    (first, baseline), *others = table.items()
    if not baseline:
        raise ValueError("there are no examples to compare the arms on")

    expected = {row.example: len(row.rewards) for row in baseline}
    for name, rows in others:
        counts = {row.example: len(row.rewards) for row in rows}
        odd = sorted(id for id in expected.keys() | counts.keys() if expected.get(id) != counts.get(id))
        if odd:
            raise ValueError(
                f"arms {first!r} and {name!r} must have the same examples and samples of each, but they have "
                f"{expected.get(odd[0], 0)} and {counts.get(odd[0], 0)} samples of example {odd[0]!r}"
            )


def _with_delegated(rollout: Rollout) -> Iterator[Rollout]:
    """Yield the rollout and all that it delegated, at any depth."""
    yield rollout
    for step in rollout.steps:
        for child in step.subrollouts:
            yield from _with_delegated(child)
