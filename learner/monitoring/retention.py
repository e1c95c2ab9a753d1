"""How much of a library's gain weights kept, and what they save: three arms on the same rows and samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.evaluation.comparison import Evaluation
from edgewise.toolkit.evaluation.statistics import Interval, example_means

Values = Sequence[float] | NDArray[np.floating]
BEFORE, ABSORBED, LESSONS = "before", "absorbed", "with lessons"
"""The arms: the model alone, the weights that learnt from its lessons without any, and it with its lessons."""


@dataclass(frozen=True, slots=True)
class Retention:
    """
    `share` is the gain of the weights over that of the lessons in the prompt; None where these gained nothing.

    `saved` is how many tokens a prompt is shorter without them.
    """

    share: Interval | None
    saved: float

    def to_json(self) -> dict[str, Any]:
        """Plain data; an interval without ends has None for both."""
        found = self.share
        share = found and {"estimate": found.estimate, "low": _end(found.low), "high": _end(found.high)}
        return {"share": share, "saved": self.saved}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Retention":
        """What `to_json` wrote."""
        found = data["share"]
        ends = {"low": -inf, "high": inf}
        share = found and Interval(**{k: ends[k] if v is None else v for k, v in found.items()})
        return cls(share, data["saved"])

    def __str__(self) -> str:
        saves = f"each prompt is {self.saved:.0f} tokens shorter"
        if self.share is None:
            return f"The lessons themselves did not raise the reward, so there was no gain to keep; {saves}."
        low, high = self.share.low, self.share.high
        sure = f"95 % interval {low:.0%} to {high:.0%}"
        wide = sure if isfinite(low) else "no interval: their own gain may be none"
        return f"The weights keep {self.share.estimate:.0%} of the lessons' gain ({wide}), and {saves}."


def _end(value: float) -> float | None:
    return value if isfinite(value) else None


def measure_retention(found: Evaluation) -> Retention:
    """What an evaluation of the three arms says."""
    rewards = {
        name: [row.rewards for row in found.rows if row.arm == name] for name in (BEFORE, ABSORBED, LESSONS)
    }
    given = {arm.name: arm.usage.input / arm.rollouts for arm in found.results}
    gained, lessons = (example_means(rewards[arm]) - example_means(rewards[BEFORE]) for arm in (ABSORBED, LESSONS))
    return Retention(estimate_ratio(gained, lessons), given[LESSONS] - given[ABSORBED])


def estimate_ratio(part: Values, whole: Values, resamples: int = 10_000) -> Interval | None:
    """
    The mean of `part` (E,) over that of `whole` (E,), with a 95 % percentile bootstrap interval over examples.

    None where the mean of `whole` is not above 0; both ends infinite where that is so in more than 2.5 % of the
    resamples, or for one example: then any share fits what was seen.
    """
    both = np.stack([np.asarray(part, np.float64), np.asarray(whole, np.float64)])
    top, bottom = both.mean(1)
    if bottom <= 0:
        return None
    estimate, count = float(top / bottom), both.shape[1]
    drawn = np.random.default_rng(0).multinomial(count, [1 / count] * count, resamples)
    tops, bottoms = both @ drawn.T / count
    shares = tops[bottoms > 0] / bottoms[bottoms > 0]
    if count == 1 or len(shares) < 0.975 * resamples:
        return Interval(estimate, -inf, inf)
    low, high = np.quantile(shares, [0.025, 0.975])
    return Interval(estimate, float(low), float(high))
