"""What a run will take, before its first call, and the smallest gain that its rows can show."""

import math
from dataclasses import dataclass

from experience.config import ExperienceConfig
from experience.gate import rungs
from experience.loop import pooled
from toolkit.errors import LimitTooSmall, TaskError
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
CANDIDATES = 4


@dataclass(frozen=True, slots=True)
class Forecast:
    """
    Estimates before the first call.

    `calls` by role, as if every group had something to teach and every reply could be read; `dollars` is
    None where a price is unknown; `gain` is the smallest true gain in mean reward that the test rows show in
    four of five runs; `least` is the fewest calls that learn and measure anything.
    """

    rows: dict[str, int]
    calls: dict[str, int]
    tokens: int
    dollars: float | None
    minutes: float
    pace: str
    gain: float
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
            f"smallest gain that the test rows can show: {self.gain:+.2f}",
        ]


def forecast(task: Task, config: ExperienceConfig) -> Forecast:
    """The plan of a run in numbers; asks no model. Raises TaskError where there is nothing to learn from."""
    if not task.train:
        raise TaskError("The task has no training rows to learn from; give splits a train share.")
    calls = _calls(task, config)
    total = sum(calls.values())
    given, said = _prompt_tokens(task) + LIBRARY_TOKENS, min(REPLY_TOKENS, config.max_tokens)
    rows = {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)}
    return Forecast(
        rows,
        calls,
        total * (given + said),
        _dollars(config, calls, given, said),
        *_time(config, total),
        smallest_gain(len(task.test), config.samples),
        calls["measuring"] + config.group_size + 2,
    )


def _time(config: ExperienceConfig, calls: int) -> tuple[float, str]:
    """Minutes, and the pace that they assume: an embedded model does not answer faster when asked at once."""
    if config.model.startswith("local/"):
        return calls * LOCAL_SECONDS / 60, f"{LOCAL_SECONDS:g} s a call"
    return calls * SECONDS / config.concurrency / 60, f"{SECONDS:g} s a call, {config.concurrency} at once"


def _calls(task: Task, config: ExperienceConfig) -> dict[str, int]:
    epochs = 1 if config.direct else config.epochs
    steps = epochs * math.ceil(len(task.train) / config.batch_size)
    groups = 0 if config.direct else epochs * len(task.train)
    rollouts = groups * config.group_size
    rows = min(len(task.validation), config.screen_rows) if config.screen else 0
    if pooled(task, config):
        # A lesson for each answer in each draw; then the current library, the draws and the swaps.
        summaries, updates = 0, config.draws * len({row.target for row in task.train})
        screen = (config.draws + config.swaps + 1) * rows
    else:
        summaries, updates = rollouts if config.summaries == "always" else 0, 1
        screen = _screening(rows)
    return {
        "rollouts": rollouts,
        "distiller": summaries + groups + steps * updates,
        "screening": steps * screen * config.samples,
        "measuring": 2 * len(task.test) * config.samples,
    }


def _screening(rows: int) -> int:
    """Rollouts of one round of halving with the most candidates that a step makes."""
    sizes = rungs(rows, CANDIDATES)
    alive, done, total = CANDIDATES, 0, 0
    for size in sizes:
        total += (alive + 1) * (size - done)
        alive, done = math.ceil(alive / 2), size
    return total


def _prompt_tokens(task: Task) -> int:
    sizes = [sum(len(m.content.encode()) for m in row.messages) for row in task.train]
    return sum(sizes) // max(len(sizes), 1) // BYTES_PER_TOKEN


def _dollars(config: ExperienceConfig, calls: dict[str, int], given: int, said: int) -> float | None:
    """What calls of `given` tokens in and `said` tokens out cost; None where a model's price is unknown."""
    dollars = 0.0
    for role, number in calls.items():
        model = config.distiller or config.model if role == "distiller" else config.model
        price = price_of(model, config.price_list)
        if price is None:
            return None
        dollars += number * (given * price.input + said * price.output) / 1e6
    return dollars


def check_limits(config: ExperienceConfig, plan: Forecast) -> None:
    """
    Refuse, before anything is paid, limits that can't be kept or that are too small.

    Raises UnknownPrice for a limit in dollars without a price, and LimitTooSmall where the limits can't pay
    for one group and the measurement before and after. Tokens and dollars are guesses here, so a limit is
    only refused where it is a tenth of the guess.
    """
    limits = config.limits
    ledger = Ledger(limits, config.price_list)
    for model in filter(None, config.models):
        ledger.bound(Request(model, (), Sampling(max_tokens=1)))
    share = plan.least / sum(plan.calls.values())
    tokens, dollars = int(plan.tokens * share), (plan.dollars or 0.0) * share
    for name, limit, least, need in (
        ("calls", limits.calls, plan.least, f"{plan.least:,}"),
        ("tokens", limits.tokens, tokens / 10, f"about {tokens:,}"),
        ("usd", limits.usd, dollars / 10, f"about {dollars:.2g}"),
    ):
        if limit is not None and limit < least:
            raise LimitTooSmall(
                f"--{name} {limit:,} is too small to learn anything: one group, and measuring before and"
                f" after, take {need}. Raise it, or use fewer test rows or samples."
            )
