"""
Whether learning collapses: what each step saw, compared with how it began and with its best.

Nothing here knows a method. An alarm is rare where rewards only fluctuate: they must have lost half of what was gained
and more than four standard errors, or a reply must have changed beyond what learning explains.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

WINDOW_STEPS = 5
"""Steps that are averaged."""
SURE = 4.0
"""Standard errors of the difference of two windows that a fall must have: many windows are compared."""
FAR = 0.5
"""Mean KL, in nats a token, that one step must not move the policy by."""


@dataclass(frozen=True, slots=True)
class StepStats:
    """
    What one step saw: means over its rollouts.

    `entropy` is the mean - log-probability of a drawn token, in nats. `valid` is the share of rollouts that could be
    graded, `cut` of those that ran into the limit, `signal` of groups whose rewards differ. `kl` is how far the update
    moved, in nats a token.
    """

    reward: float
    length: float
    entropy: float
    kl: float
    valid: float
    cut: float
    signal: float = 1.0
    loss: float = 0.0


def detect_collapse(history: Sequence[StepStats]) -> str:
    """Why learning should go back, in words; "" if it should not."""
    last = history[-1] if history else None
    if last and not math.isfinite(last.loss):
        return "the loss is no number"
    if last and not last.kl <= FAR:
        return f"one step moved the policy by {last.kl:.2f} nats a token"
    if len(history) < 2 * WINDOW_STEPS:
        return ""
    start, now = history[:WINDOW_STEPS], history[-WINDOW_STEPS:]
    return next(filter(None, (_fell(history), _changed(start, now))), "")


def best_window_reward(history: Sequence[StepStats]) -> float:
    """The highest mean reward of a window so far; of all steps while there are fewer."""
    if len(history) <= WINDOW_STEPS:
        return mean([each.reward for each in history])
    return max(_rewards(history[i : i + WINDOW_STEPS]) for i in range(len(history) - WINDOW_STEPS + 1))


def _fell(history: Sequence[StepStats]) -> str:
    start, top, now = _rewards(history[:WINDOW_STEPS]), best_window_reward(history), _rewards(history[-WINDOW_STEPS:])
    # Differences of neighbours, so that what was learnt does not count as noise.
    steps = [b.reward - a.reward for a, b in pairwise(history)]
    error = statistics.pstdev(steps) / math.sqrt(WINDOW_STEPS)
    if top - now > max(0.5 * (top - start), SURE * error) and top - now > 1e-9:
        return f"the mean reward fell from {top:.2f} to {now:.2f}"
    return ""


def _changed(start: Sequence[StepStats], now: Sequence[StepStats]) -> str:
    def pair(name: str) -> tuple[float, float]:
        return mean([getattr(x, name) for x in start]), mean([getattr(x, name) for x in now])

    names = ("valid", "cut", "entropy", "length")
    (valid, valid_now), (cut, cut_now), (entropy, entropy_now), (length, length_now) = map(pair, names)
    better = _rewards(now) > _rewards(start)
    if valid_now < 0.5 * valid:
        return f"only {valid_now:.0%} of rollouts can be graded, {valid:.0%} could be"
    if cut < 0.5 and cut_now > 0.9 and not better:
        return f"{cut_now:.0%} of replies run into max_tokens, {cut:.0%} did"
    if length_now < 0.1 * length and not better:
        return f"replies became short: {length_now:.0f} tokens, from {length:.0f}"
    if entropy_now > 3 * entropy + 1:
        return f"replies became random: {entropy_now:.2f} nats a token, from {entropy:.2f}"
    if entropy_now < 0.05 * entropy and not better:
        return f"replies no longer differ: {entropy_now:.3f} nats a token, from {entropy:.2f}"
    return ""


def _rewards(steps: Sequence[StepStats]) -> float:
    return mean([each.reward for each in steps])


def mean(values: Sequence[float]) -> float:
    """The mean, 0 of nothing."""
    return math.fsum(values) / len(values) if values else 0.0
