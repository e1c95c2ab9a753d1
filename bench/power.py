"""
The smallest gain that a plan promises to show, against simulation: where 80 % of simulated comparisons show it.

Rewards as the prediction assumes them before anything is known: a share of the rows goes from never to always solved,
all others are fair coins. For the final comparison (two-sided, the p-value of the evaluation) and for the gate
(its looks, candidates and level, through `toolkit.evaluation.gate.choose`).
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from common import quick, report
from scipy.optimize import brentq

from edgewise.toolkit.evaluation import gate
from edgewise.toolkit.evaluation.statistics import minimum_detectable_gain, sign_flip_p_value
from edgewise.toolkit.types import Example
from tests.support.plans import play

POWER = 0.8


@dataclass(frozen=True)
class Thing:
    version: str


def rewards(rng: np.random.Generator, rows: int, samples: int, gain: float, arms: int) -> np.ndarray:
    """(1 + arms, rows) mean rewards: the current one, one that gains, and others that change nothing."""
    moved = rng.random(rows) < gain
    coins = rng.binomial(samples, 0.5, (1 + arms, rows)) / samples
    solved = (np.arange(1 + arms) == 1)[:, None].astype(float)
    return np.where(moved, solved, coins)


def shown_at_the_end(rng: np.random.Generator, rows: int, samples: int, gain: float) -> bool:
    before, after = rewards(rng, rows, samples, gain, 1)
    return after.mean() > before.mean() and sign_flip_p_value(after - before, resamples=2000) < 0.05


def passes_the_gate(
    rng: np.random.Generator, rows: int, samples: int, gain: float, level: float, candidates: int
) -> bool:
    """Whether one true candidate among others that change nothing is accepted."""
    found = rewards(rng, rows, samples, gain, candidates)
    table = dict(zip(["", *(f"c{n}" for n in range(candidates))], found, strict=True))
    examples = [Example(str(i), ()) for i in range(rows)]

    def measure(thing: Thing, some: list[Example]):
        return table[thing.version][[int(row.id) for row in some]]
        yield

    challengers = {name: Thing(name) for name in table if name}
    choice = play(gate.choose(Thing(""), challengers, examples, measure, level), str)
    return choice.winner == "c0"


def smallest(chance: Callable[[float], float], guess: float) -> float:
    """The gain at which the chance to be shown is 80 %."""
    return float(brentq(lambda gain: chance(gain) - POWER, 0.3 * guess, min(1.0, 2.5 * guess), xtol=0.003))


def main() -> int:
    trials = 200 if quick() else 1500
    sizes = (40, 200) if quick() else (20, 61, 100, 200, 400)
    figures, ratios = {}, []
    for rows in sizes:
        for samples in (1, 4):
            predicted = minimum_detectable_gain(rows, samples)
            found = smallest(lambda g, r=rows, k=samples: share(shown_at_the_end, trials, r, k, g), predicted)
            ratios.append(predicted / found)
            figures[f"test E{rows} K{samples}"] = [round(predicted, 3), round(found, 3)]
            if rows < 40:
                continue
            for candidates, tests in ((1, 1), (4, 3)):
                level = 0.05 / tests
                predicted = minimum_detectable_gain(rows, samples, level=level / candidates, sides=1)
                found = smallest(
                    lambda g, r=rows, k=samples, lv=level, c=candidates: share(
                        passes_the_gate, trials // 3, r, k, g, lv, c
                    ),
                    predicted,
                )
                ratios.append(predicted / found)
                figures[f"gate E{rows} K{samples} M{candidates}"] = [round(predicted, 3), round(found, 3)]
            print(figures, file=sys.stderr)
    worst = max(max(ratio, 1 / ratio) for ratio in ratios) - 1
    figures["worst"] = round(worst, 3)
    return report("power", figures, "predicted within 20 % of simulated (pairs)", worst <= 0.2)


def share(shown: Callable[..., bool], trials: int, *arguments: object) -> float:
    """How often something is shown; the same draws for each gain, so that the chance rises with it."""
    return float(np.mean([shown(np.random.default_rng(seed), *arguments) for seed in range(trials)]))


if __name__ == "__main__":
    sys.exit(main())
