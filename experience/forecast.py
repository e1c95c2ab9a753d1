"""What a run will take, before its first call, and the smallest gains that its rows can show."""

import math
from dataclasses import dataclass

from experience import by_gepa
from experience.config import ExperienceConfig
from experience.job import Job
from experience.step import gate_rows
from toolkit.errors import Hopeless, LimitTooSmall, TaskError
from toolkit.gate import rungs
from toolkit.ledger import Ledger
from toolkit.prices import price_of
from toolkit.statistics import smallest_gain
from toolkit.task import Task
from toolkit.types import Request, Sampling

# Rough, and shown as such: bytes of English per token, tokens of a reply and of a library, seconds a call.
BYTES_PER_TOKEN = 4
REPLY_TOKENS = 200
LIBRARY_TOKENS = 300
SECONDS = 3.0
LOCAL_SECONDS = 0.5
UNPOOLED = 4
"""Candidate libraries of a step, where lessons are not pooled."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """
    Estimates before the first call.

    `calls` by role, as if every group had something to teach and every reply could be read; `dollars` is
    None where a price is unknown. `gain` is the smallest true gain in mean reward that the test rows show in
    four of five runs, `gate_gain` the smallest that a step's candidate needs to pass the gate in four of five
    (None where the gate is off). `least` is the fewest calls that learn, accept and measure anything.
    """

    rows: dict[str, int]
    calls: dict[str, int]
    tokens: int
    dollars: float | None
    minutes: float
    pace: str
    gain: float
    gate_gain: float | None
    least: int

    def lines(self) -> list[str]:
        """The plan for people."""
        calls = ", ".join(f"{role} {number:,}" for role, number in self.calls.items())
        price = "unknown price (give --price)" if self.dollars is None else f"about ${self.dollars:.2f}"
        minutes = f"{self.minutes:.0f} minutes" if self.minutes >= 1 else "under a minute"
        return [
            "rows: " + ", ".join(f"{name} {number}" for name, number in self.rows.items()),
            f"up to about {sum(self.calls.values()):,} calls ({calls})",
            f"up to about {self.tokens:,} tokens, {price}, {minutes} at {self.pace}",
            f"smallest gain that is likely to show: {self._gains()}",
        ]

    def _gains(self) -> str:
        test = f"{self.gain:+.2f} on the test rows"
        return test if self.gate_gain is None else f"{self.gate_gain:+.2f} at the gate, {test}"


def forecast(job: Job) -> Forecast:
    """The plan of a run in numbers; asks no model. Raises TaskError where there is nothing to learn from."""
    task, config = job.task, job.config
    if not task.train:
        raise TaskError("The task has no training rows to learn from; give splits a train share.")
    calls = _calls(job)
    total = sum(calls.values())
    shown = max(LIBRARY_TOKENS, min(job.start.tokens, config.prompt_tokens))
    given, said = _prompt_tokens(task) + shown, min(REPLY_TOKENS, config.max_tokens)
    rows = {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)}
    accepting = 2 * len(gate_rows(job)) * config.samples if job.gated else 0
    return Forecast(
        rows,
        calls,
        total * (given + said),
        _dollars(config, calls, given, said),
        *_time(config, total),
        smallest_gain(len(task.test), config.samples),
        _gate_gain(job) if job.gated else None,
        _least(job) + (calls["measuring"] + accepting) * (2 if task.reward.asks else 1),
    )


def _least(job: Job) -> int:
    """The fewest calls that learn anything: one group, its comparison and the update."""
    if job.config.proposer == "gepa":
        return by_gepa.least_calls(_rows_of_a_step(job))
    return job.config.group_size + 2


def _gate_gain(job: Job) -> float:
    """What the best of a step's candidates must gain, at the level that the gate has for each."""
    level = job.gate_alpha / job.steps / _candidates(job)
    return smallest_gain(len(gate_rows(job)), job.config.samples, level=level, sides=1)


def _candidates(job: Job) -> int:
    proposed = job.config.draws if job.pooled else UNPOOLED
    return (by_gepa.MOST if job.config.proposer == "gepa" else proposed) + len(job.config.try_places)


def _time(config: ExperienceConfig, calls: int) -> tuple[float, str]:
    """Minutes, and the pace that they assume: an embedded model does not answer faster when asked at once."""
    if config.model.startswith("local/"):
        return calls * LOCAL_SECONDS / 60, f"{LOCAL_SECONDS:g} s a call"
    return calls * SECONDS / config.concurrency / 60, f"{SECONDS:g} s a call, {config.concurrency} at once"


def _calls(job: Job) -> dict[str, int]:
    task, config, rounds = job.task, job.config, job.steps
    rollouts, distiller = _searching(job) if config.proposer == "gepa" else _comparing(job)
    rows = len(gate_rows(job)) if job.gated else 0
    effects = (min(config.leave_one_out, config.lessons) + 1) * rows if config.leave_one_out else 0
    gate = (rounds * _halving(rows, _candidates(job)) + effects) * config.samples
    measuring = (4 if config.placebo else 2) * len(task.test) * config.samples
    calls = {"rollouts": rollouts, "distiller": distiller, "gate": gate, "measuring": measuring}
    if task.reward.asks:
        learning = rollouts // config.group_size if task.reward.relative else rollouts
        calls["judge"] = learning + gate + measuring
    return calls


def _searching(job: Job) -> tuple[int, int]:
    """Rollouts and calls of the distiller, where GEPA searches."""
    rollouts, reflections = by_gepa.most_calls(_rows_of_a_step(job), job.config.group_size)
    return job.steps * rollouts, job.steps * reflections


def _comparing(job: Job) -> tuple[int, int]:
    """Rollouts and calls of the distiller, where groups are compared."""
    task, config = job.task, job.config
    groups = 0 if config.direct else _groups(job)
    rollouts = groups * config.group_size
    summaries = rollouts if config.summaries == "always" and not job.pooled else 0
    updates = config.draws * len({row.target for row in task.train}) if job.pooled else 1
    return rollouts, summaries + groups + job.steps * updates


def _rows_of_a_step(job: Job) -> int:
    return min(job.config.batch_size, len(job.task.train))


def _groups(job: Job) -> int:
    """The most rows that are visited: each once an epoch; with VADE, `refill` may go through two batches a step."""
    config, rows = job.config, len(job.task.train)
    if config.select == "shuffled":
        return config.epochs * rows
    return job.steps * min(rows, config.batch_size * (2 if config.refill else 1))


def _halving(rows: int, alive: int) -> int:
    """Rollouts of one round of halving."""
    done = total = 0
    for size in rungs(rows, alive) if rows else []:
        total += (alive + 1) * (size - done)
        alive, done = math.ceil(alive / 2), size
    return total


def _prompt_tokens(task: Task) -> int:
    sizes = [sum(len(m.content.encode()) for m in row.messages) for row in task.train]
    return sum(sizes) // max(len(sizes), 1) // BYTES_PER_TOKEN


def _dollars(config: ExperienceConfig, calls: dict[str, int], given: int, said: int) -> float | None:
    """What calls of `given` tokens in and `said` tokens out cost; None where a model's price is unknown."""
    dollars, distiller = 0.0, config.distiller or config.model
    models = {"distiller": distiller, "judge": config.judge or distiller}
    for role, number in calls.items():
        price = price_of(models.get(role, config.model), config.price_list)
        if price is None:
            return None
        dollars += number * (given * price.input + said * price.output) / 1e6
    return dollars


def check_limits(config: ExperienceConfig, plan: Forecast) -> None:
    """
    Refuse, before anything is paid, limits that can't be kept, and rows or limits that can't show anything.

    Raises UnknownPrice for a limit in dollars without a price. With `force` that is all. Otherwise raises
    Hopeless where no gain is sure to show, however large, and LimitTooSmall where the limits can't pay for one
    group, one candidate at the gate and the measurement before and after. Tokens and dollars are guesses here, so
    a limit is only refused where it is a tenth of the guess.
    """
    limits = config.limits
    ledger = Ledger(limits, config.price_list)
    for model in filter(None, config.models):
        ledger.bound(Request(model, (), Sampling(max_tokens=1)))
    if config.force:
        return
    _check_power(plan)
    share = plan.least / sum(plan.calls.values())
    tokens, dollars = int(plan.tokens * share), (plan.dollars or 0.0) * share
    for name, limit, least, need in (
        ("calls", limits.calls, plan.least, f"{plan.least:,}"),
        ("tokens", limits.tokens, tokens / 10, f"about {tokens:,}"),
        ("usd", limits.usd, dollars / 10, f"about {dollars:.2g}"),
    ):
        if limit is not None and limit < least:
            raise LimitTooSmall(
                f"--{name} {limit:,} is too small to show anything: one group, one candidate at the gate, and "
                f"measuring before and after take {need}. Raise it, use fewer rows or samples, or --force."
            )


def _check_power(plan: Forecast) -> None:
    """Raise Hopeless where not even a gain from nothing to everything is sure to show."""
    if plan.gate_gain is not None and plan.gate_gain >= 1:
        raise Hopeless(
            f"{plan.rows['validation']} validation rows can't show any gain at the gate. Give splits a larger "
            "validation share, more samples or fewer steps; --gate off accepts without a test, --force tries."
        )
    if plan.gain >= 1:
        raise Hopeless(
            f"{plan.rows['test']} test rows can't show any gain. Give splits a larger test share, or --force."
        )
