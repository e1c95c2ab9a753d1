"""The interval of a mean over seeds, as benches show it."""

from collections.abc import Sequence

import numpy as np

from edgewise.toolkit.evaluation.statistics import Interval, t_half_width


def interval(values: Sequence[float]) -> Interval:
    """The mean of one value of each seed, with Student's 95 % interval."""
    found = np.asarray(values, np.float64)
    mean, half = float(found.mean()), t_half_width(found)
    return Interval(mean, mean - half, mean + half)


def figures(found: Interval, digits: int = 3) -> list[float]:
    """Mean, low, high, for the JSON line."""
    return [round(number, digits) for number in (found.estimate, found.low, found.high)]


def shown(found: Interval, digits: int = 3) -> str:
    """The same for people."""
    return "{:+.{d}f} [{:+.{d}f}, {:+.{d}f}]".format(found.estimate, found.low, found.high, d=digits)
