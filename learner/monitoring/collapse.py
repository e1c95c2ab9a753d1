"""
Detection of collapse: recent steps are compared with the first ones and with the best.

No rule depends on the method. An alarm is rare where rewards only fluctuate: half of the gain and more than four
standard errors must be lost, or replies must change beyond what learning explains.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgewise.toolkit.evaluation.statistics import mean

WINDOW_STEPS = 5
"""Steps of an average."""
MIN_ERRORS = 4.0
"""Standard errors of the difference of two windows that a fall must exceed: many windows are compared."""
MAX_STEP_KL = 0.5
"""Mean KL, in nats a token, that one step must not move the policy by."""


@dataclass(frozen=True, slots=True)
class StepStats:
    """
    Statistics of a step: means over its rollouts.

    `entropy` is the mean -log-probability of a sampled token, in nats. `valid` is the share of rollouts with a valid
    score, `cut` of those that reached the limit of tokens, `signal` of groups whose rewards differ. `kl` is the KL of
    the update, in nats a token.
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
    """Return why learning should go back, in words; "" if it should not."""
    last = history[-1] if history else None
    if last and not math.isfinite(last.loss):
        return "the loss is no number"
    if last and not last.kl <= MAX_STEP_KL:  # NaN, too
        return f"one step moved the policy by {last.kl:.2f} nats a token"
    # Two windows that share no step.
    if len(history) < 2 * WINDOW_STEPS:
        return ""

    first, recent = history[:WINDOW_STEPS], history[-WINDOW_STEPS:]
    start, top, now = _average("reward", first), best_window_reward(history), _average("reward", recent)
    # The noise of one step, by differences of neighbours, so that the trend does not count as noise. For independent
    # steps of variance s^2 they have the variance 2 s^2, as the difference of two windows has 2 s^2 / WINDOW_STEPS.
    noise = statistics.pstdev(b.reward - a.reward for a, b in pairwise(history))
    error = noise / math.sqrt(WINDOW_STEPS)
    if top - now > max(0.5 * (top - start), MIN_ERRORS * error, 1e-9):
        return f"the mean reward fell from {top:.2f} to {now:.2f}"

    # Replies that changed. Short, cut or equal ones are no collapse where the reward rose.
    is_better = now > start
    valid, valid_now = _average("valid", first), _average("valid", recent)
    cut, cut_now = _average("cut", first), _average("cut", recent)
    length, length_now = _average("length", first), _average("length", recent)
    entropy, entropy_now = _average("entropy", first), _average("entropy", recent)
    if valid_now < 0.5 * valid:
        return f"only {valid_now:.0%} of rollouts can be graded, {valid:.0%} could be"
    if cut < 0.5 and cut_now > 0.9 and not is_better:
        return f"{cut_now:.0%} of replies run into max_tokens, {cut:.0%} did"
    if length_now < 0.1 * length and not is_better:
        return f"replies became short: {length_now:.0f} tokens, from {length:.0f}"
    if entropy_now > 3 * entropy + 1:
        return f"replies became random: {entropy_now:.2f} nats a token, from {entropy:.2f}"
    if entropy_now < 0.05 * entropy and not is_better:
        return f"replies no longer differ: {entropy_now:.3f} nats a token, from {entropy:.2f}"
    return ""


def best_window_reward(history: Sequence[StepStats]) -> float:
    """Return the highest mean reward of a window; the mean of all steps if there are fewer."""
    starts = range(max(1, len(history) - WINDOW_STEPS + 1))
    return max(_average("reward", history[i : i + WINDOW_STEPS]) for i in starts)


def _average(name: str, steps: Sequence[StepStats]) -> float:
    return mean([getattr(step, name) for step in steps])
