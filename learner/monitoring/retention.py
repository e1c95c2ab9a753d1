"""
Retention: how much of a library's gain distilled weights keep, and how many tokens they save.

Three arms, on the same rows and samples: the model alone (`before`), the distilled weights without lessons
(`absorbed`), and the model with the lessons in its prompt (`with lessons`).

    retention = (absorbed - before) / (with lessons - before)        a ratio of two mean gains over the same rows
"""

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


@dataclass(frozen=True, slots=True)
class Retention:
    """
    Share of the lessons' gain that the weights keep, None if the lessons gained nothing.

    `saved` is the number of tokens by which prompts are shorter without the lessons.
    """

    share: Interval | None
    saved: float

    def to_json(self) -> dict[str, Any]:
        """Return plain data; an infinite end is None."""
        share = self.share and {
            name: value if isfinite(value := getattr(self.share, name)) else None
            for name in ("estimate", "low", "high")
        }
        return {"share": share, "saved": self.saved}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Retention":
        """Read what `to_json` returns."""
        infinite = {"low": -inf, "high": inf}
        share = data["share"] and Interval(
            **{name: infinite[name] if value is None else value for name, value in data["share"].items()}
        )
        return cls(share, data["saved"])

    def __str__(self) -> str:
        saves = f"each prompt is {self.saved:.0f} tokens shorter"
        if self.share is None:
            return f"The lessons themselves did not raise the reward, so there was no gain to keep; {saves}."
        interval = "no interval: their own gain may be none"
        if isfinite(self.share.low):
            interval = f"95 % interval {self.share.low:.0%} to {self.share.high:.0%}"
        return f"The weights keep {self.share.estimate:.0%} of the lessons' gain ({interval}), and {saves}."


def measure_retention(evaluation: Evaluation) -> Retention:
    """Return the retention that an evaluation of the three arms shows."""
    before, absorbed, lessons = (
        example_means([row.rewards for row in evaluation.rows if row.arm == arm]) for arm in (BEFORE, ABSORBED, LESSONS)
    )
    # Usage is summed over all rollouts of an arm; all arms have the same rows and samples.
    prompt_tokens = {arm.name: arm.usage.input / arm.rollouts for arm in evaluation.results}
    share = estimate_ratio(absorbed - before, lessons - before)
    return Retention(share, prompt_tokens[LESSONS] - prompt_tokens[ABSORBED])


def estimate_ratio(part: Values, whole: Values, resamples: int = 10_000) -> Interval | None:
    """
    Estimate the mean of `part` over that of `whole`, both (E,), with a 95 % percentile bootstrap interval.

    None where the mean of `whole` is not above 0. Both ends are infinite for one example, and where that mean is not
    above 0 in more than 2.5 % of the resamples: then the data allow any ratio.
    """
    both = np.stack([np.asarray(part, np.float64), np.asarray(whole, np.float64)])  # (2, E)
    top, bottom = both.mean(1)
    if bottom <= 0:
        return None
    estimate, count = float(top / bottom), both.shape[1]
    # A resample of E examples is a row of counts; numerator and denominator take the same examples, because the two
    # gains of an example resemble each other.
    counts = np.random.default_rng(0).multinomial(count, [1 / count] * count, resamples)
    tops, bottoms = both @ counts.T / count
    ratios = tops[bottoms > 0] / bottoms[bottoms > 0]
    if count == 1 or len(ratios) < 0.975 * resamples:
        return Interval(estimate, -inf, inf)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(estimate, float(low), float(high))
