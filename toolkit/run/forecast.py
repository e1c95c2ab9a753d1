"""
Forecast of a run before its first call: its form, its estimates, and the checks on limits and rows.

Each way of improving counts its own calls: `experience.forecast`, `mas.forecast`, `learner.forecast`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgewise.toolkit.budget.ledger import Ledger
from edgewise.toolkit.budget.prices import find_price
from edgewise.toolkit.errors import Hopeless, LimitTooSmall
from edgewise.toolkit.evaluation.gate import rungs
from edgewise.toolkit.run.config import Config
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Request, Sampling

# Rough, and printed as "about": English has some 4 bytes a token, a hosted model answers in some 3 seconds.
BYTES_PER_TOKEN = 4
REPLY_TOKENS = 200
CALL_SECONDS = 3.0
LOCAL_CALL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Forecast:
    """
    Estimates before the first call.

    `calls` are upper bounds by role. `dollars` is None if a price is unknown. `gain` is the smallest true gain in mean
    reward that the test rows show in four of five runs. `gate_gain` is the gain with which a step's candidate passes
    the gate in four of five runs, None without a gate. `least` is the fewest calls that learn, accept and evaluate
    anything.
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
        """Return the forecast as lines for people."""
        calls = ", ".join(f"{role} {number:,}" for role, number in self.calls.items())
        price = "unknown price (give --price)" if self.dollars is None else f"about ${self.dollars:.2f}"
        minutes = f"{self.minutes:.0f} minutes" if self.minutes >= 1 else "under a minute"
        gains = f"{self.gain:+.2f} on the test rows"
        if self.gate_gain is not None:
            gains = f"{self.gate_gain:+.2f} at the gate, {gains}"
        return [
            "rows: " + ", ".join(f"{name} {number}" for name, number in self.rows.items()),
            f"up to about {sum(self.calls.values()):,} calls ({calls})",
            f"up to about {self.tokens:,} tokens, {price}, {minutes} at {self.pace}",
            f"smallest gain that is likely to show: {gains}",
        ]


# ---- estimates -------------------------------------------------------------------------------------


def count_rows(task: Task) -> dict[str, int]:
    """Return the number of rows of each split."""
    return {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)}


def estimate_tokens(task: Task, config: Config) -> tuple[int, int]:
    """Return tokens of a prompt, averaged over the training rows, and of a reply."""
    # In bytes, since the tokenizer of a hosted model is unknown.
    sizes = [sum(len(message.content.encode()) for message in row.messages) for row in task.train]
    return sum(sizes) // max(len(sizes), 1) // BYTES_PER_TOKEN, min(REPLY_TOKENS, config.max_tokens)


def estimate_minutes(config: Config, calls: int) -> tuple[float, str]:
    """Return minutes, and the pace they assume; an embedded model gains nothing from concurrent calls."""
    if config.model.startswith("local/"):
        return calls * LOCAL_CALL_SECONDS / 60, f"{LOCAL_CALL_SECONDS:g} s a call"
    # Hosted models answer concurrently.
    minutes = calls * CALL_SECONDS / config.concurrency / 60
    return minutes, f"{CALL_SECONDS:g} s a call, {config.concurrency} at once"


def estimate_dollars(
    config: Config, calls: Mapping[str, int], models: Mapping[str, str], prompt: int, reply: int
) -> float | None:
    """
    Return dollars of calls with `prompt` tokens in and `reply` tokens out; None if a price is unknown.

    `models` has the model of a role; other roles use `config.model`.
    """
    total = 0.0
    for role, number in calls.items():
        price = find_price(models.get(role, config.model), config.price_list)
        if price is None:
            return None
        total += number * (prompt * price.input + reply * price.output) / 1e6
    return total


def count_halving_rollouts(rows: int, candidates: int) -> int:
    """
    Return the rollouts of one round of successive halving at the gate.

    Each rung compares the candidates that are left with the current library on more rows, then drops half of them.
    """
    done = total = 0
    for size in rungs(rows, candidates) if rows else []:
        total += (candidates + 1) * (size - done)
        candidates, done = math.ceil(candidates / 2), size
    return total


# ---- checks ----------------------------------------------------------------------------------------


def check_limits(config: Config, forecast: Forecast) -> None:
    """
    Refuse limits that can't be enforced, and rows or limits that can't show a gain, before anything is paid.

    Raises UnknownPrice for a limit in dollars without a price; with `force` that is all. Otherwise raises Hopeless if
    not even a gain from 0 to 1 is likely to show. Raises LimitTooSmall if the limits can't pay for one group, one
    candidate at the gate and the evaluation before and after.
    """
    limits = config.limits
    ledger = Ledger(limits, config.price_list)
    # The ledger can't reserve a call without a price; one token is enough to find out.
    for model in filter(None, config.models):
        ledger.bound_usage(Request(model, (), Sampling(max_tokens=1)))
    if config.force:
        return

    # Power: rewards lie between 0 and 1, so no gain is larger than 1.
    if forecast.gate_gain is not None and forecast.gate_gain >= 1:
        raise Hopeless(
            f"{forecast.rows['validation']} validation rows can't show any gain at the gate. Give splits a larger "
            "validation share, more samples or fewer steps; --gate off accepts without a test, --force tries."
        )
    if forecast.gain >= 1:
        raise Hopeless(
            f"{forecast.rows['test']} test rows can't show any gain. Give splits a larger test share, or --force."
        )

    # Limits: calls are counted, tokens and dollars are guesses, so only a tenth of the guess is too small for sure.
    share = forecast.least / sum(forecast.calls.values())
    tokens, dollars = int(forecast.tokens * share), (forecast.dollars or 0.0) * share
    for name, limit, least, need in (
        ("calls", limits.calls, forecast.least, f"{forecast.least:,}"),
        ("tokens", limits.tokens, tokens / 10, f"about {tokens:,}"),
        ("usd", limits.usd, dollars / 10, f"about {dollars:.2g}"),
    ):
        if limit is not None and limit < least:
            raise LimitTooSmall(
                f"--{name} {limit:,} is too small to show anything: one group, one candidate at the gate, and "
                f"measuring before and after take {need}. Raise it, use fewer rows or samples, or --force."
            )
