"""
What a run will take, before its first call, and the smallest gains that its rows can show: the form and the checks.

Each way of improving counts its own calls (`experience.forecast`, `mas.forecast`).
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

# Rough, and shown as such: bytes of English per token, tokens of a reply, seconds a call.
BYTES_PER_TOKEN = 4
REPLY_TOKENS = 200
SECONDS = 3.0
LOCAL_SECONDS = 0.5


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


def estimate_minutes(config: Config, calls: int) -> tuple[float, str]:
    """Minutes, and the pace that they assume: an embedded model does not answer faster when asked at once."""
    if config.model.startswith("local/"):
        return calls * LOCAL_SECONDS / 60, f"{LOCAL_SECONDS:g} s a call"
    return calls * SECONDS / config.concurrency / 60, f"{SECONDS:g} s a call, {config.concurrency} at once"


def count_halving_rollouts(rows: int, alive: int) -> int:
    """Rollouts of one round of halving."""
    done = total = 0
    for size in rungs(rows, alive) if rows else []:
        total += (alive + 1) * (size - done)
        alive, done = math.ceil(alive / 2), size
    return total


def mean_prompt_tokens(task: Task) -> int:
    """Tokens of a row's messages, on average over the training rows."""
    sizes = [sum(len(m.content.encode()) for m in row.messages) for row in task.train]
    return sum(sizes) // max(len(sizes), 1) // BYTES_PER_TOKEN


def estimate_dollars(
    config: Config, calls: Mapping[str, int], models: Mapping[str, str], given: int, said: int
) -> float | None:
    """
    What calls of `given` tokens in and `said` tokens out cost; None where a model's price is unknown.

    `models` names the model of a role; others ask the model itself.
    """
    total = 0.0
    for role, number in calls.items():
        price = find_price(models.get(role, config.model), config.price_list)
        if price is None:
            return None
        total += number * (given * price.input + said * price.output) / 1e6
    return total


def check_limits(config: Config, plan: Forecast) -> None:
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
        ledger.bound_usage(Request(model, (), Sampling(max_tokens=1)))
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
