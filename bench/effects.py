"""
What six papers claim, each in a world made for it, against GRPO with the same rollouts, 10 seeds.

The policy is a softmax over short words (bench/simulated/bandit.py), all else is the learner's own. GRPO has the
method's KL and passes over a batch, so that these are no part of the difference. Both run at the same learning rate,
and each at the best of three, chosen on three of the seeds by the figure that is claimed; a claim shows if both
intervals say so. Differences are paired by seed, that is by the policy at the start. Intervals are Student's, 95 %.

    ngrpo       the area under pass@k, k = 1 to 256, is larger      6 of 10 groups have no right reply at the start
    unlikely    pass@16 on held-out rows is higher                  single strategies, rare ones too, solve these rows
    drpo        replies are shorter at a pass rate of 0.95          every third row wants long ones
    vade        fewer rollouts to a pass rate of 0.85               a third of the rows is solved from the start
    xrpo        fewer rollouts to a pass rate of 0.85               three of four rows are hard, one like them is not
    scaf_grpo   a higher pass rate in rows where it was zero        these are every second one
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from common import quick, report
from simulated import claims
from simulated.interval import figures, interval, shown
from simulated.training import Training
from simulated.worlds import Words

from edgewise.learner.methods.method import Method, columns_of
from edgewise.learner.methods.published import METHODS
from edgewise.toolkit.evaluation.statistics import Interval

SEEDS, TUNING, QUICK = 10, 3, 2
LR, RATES = 0.05, (0.025, 0.05, 0.1)
KS = tuple(2**n for n in range(9))
GRPO = "grpo"
BAR = "each shows what its paper claims: both intervals, at the same rate and at the best rates, on the right side of 0"


# ---- what is measured ------------------------------------------------------------------------------------


def coverage(training: Training, world: Words) -> float:
    """The area under pass@k over log2 k, as a mean."""
    rates = world.rates(training.finished())
    passed = np.array([np.mean(1 - (1 - rates) ** k) for k in KS])
    return float(np.mean((passed[1:] + passed[:-1]) / 2))


def held_out(training: Training, world: Words) -> float:
    """pass@16 of rows that training never saw."""
    rates = world.rates(training.finished(), claims.strategies()[1])
    return float(np.mean(1 - (1 - rates) ** 16))


def tokens(training: Training, world: Words) -> float:
    """Those of a reply, when enough are right."""
    rollouts(training, world, 0.95)
    encode = training.policy.encode
    return float(np.mean([training.policy.length_of(encode(row.messages)) for row in world.rows]))


def rollouts(training: Training, world: Words, target: float) -> float:
    """Thousands of them until the mean pass rate is at the target, two steps apart; the budget where it never is."""
    while training.spent < training.budget and world.worth(training.policy) < target:
        training.step()
        training.step()
    return min(training.spent, training.budget) / 1000


def rescued(training: Training, world: Words) -> float:
    """The pass rate where it was zero."""
    return float(world.rates(training.finished())[::2].mean())


@dataclass(frozen=True)
class Claim:
    """What is measured of a run in a world; `higher` is what the paper says it is. `budget` is in rollouts."""

    world: Callable[[], Words]
    figure: Callable[[Training, Words], float]
    higher: bool
    budget: int = 12_800


CLAIMS: Mapping[str, Claim] = {
    "ngrpo": Claim(claims.stuck, coverage, True),
    "unlikely": Claim(lambda: claims.strategies()[0], held_out, True),
    "drpo": Claim(claims.thinking, tokens, False, 25_600),
    "vade": Claim(claims.spread, partial(rollouts, target=0.85), False, 25_600),
    "xrpo": Claim(claims.kinds, partial(rollouts, target=0.85), False, 25_600),
    "scaf_grpo": Claim(claims.hopeless, rescued, True),
}


# ---- against GRPO ----------------------------------------------------------------------------------------


def control(method: Method) -> Method:
    """GRPO, but for the KL and the passes over a batch, which are the method's."""
    kl = tuple(part for part in method.penalties if "ref_logp" in columns_of(part))
    return replace(METHODS[GRPO], penalties=kl, epochs=method.epochs, minibatches=method.minibatches)


@cache
def outcome(name: str, side: str, lr: float, seed: int) -> float:
    """The figure of one run: of the method itself, or of its control."""
    claim, method = CLAIMS[name], METHODS[name]
    world = claim.world()
    training = Training(world, control(method) if side == GRPO else method, seed, lr, claim.budget)
    return claim.figure(training, world)


def outcomes(name: str, side: str, lr: float, seeds: int) -> np.ndarray:
    return np.array([outcome(name, side, lr, seed) for seed in range(seeds)])


def best(name: str, side: str, rates: Sequence[float]) -> float:
    """The learning rate with the best mean."""
    sign = 1 if CLAIMS[name].higher else -1
    return max(rates, key=lambda lr: sign * outcomes(name, side, lr, TUNING).mean()) if rates[1:] else rates[0]


@dataclass(frozen=True)
class Comparison:
    """A method and GRPO at a learning rate each: the means, and the interval of the difference."""

    rates: tuple[float, float]
    means: tuple[float, float]
    difference: Interval

    def shows(self, higher: bool) -> bool:
        return self.difference.low > 0 if higher else self.difference.high < 0


def compared(name: str, rates: tuple[float, float], seeds: int) -> Comparison:
    mine, other = (outcomes(name, side, lr, seeds) for side, lr in zip((name, GRPO), rates, strict=True))
    return Comparison(rates, (float(mine.mean()), float(other.mean())), interval(mine - other))


def told(name: str, seeds: int, rates: Sequence[float]) -> dict[str, Any]:
    """One claim, for the table and for the JSON line; rates are chosen of `rates`."""
    higher = CLAIMS[name].higher
    same = compared(name, (LR, LR), seeds)
    tuned = compared(name, (best(name, name, rates), best(name, GRPO, rates)), seeds)
    shows = same.shows(higher) and tuned.shows(higher)
    for each, what in ((same, "same rate"), (tuned, "best rates")):
        numbers = "".join(f"{number:8.3f}" for number in (*each.rates, *each.means))
        wanted = f"{'higher' if higher else 'lower'}: {'shows' if each.shows(higher) else 'DOES NOT SHOW'}"
        print(f"{name:10} {what:11}{numbers}   {shown(each.difference):28} {wanted}", flush=True)
    return {"same_rate": figures(same.difference), "best_rates": figures(tuned.difference), "shows": shows}


def main() -> int:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # Adam's moments fade to numbers that are slow, and are nothing
    seeds, rates = (QUICK, (LR,)) if quick() else (SEEDS, RATES)
    print(f"{'':22}{'rates of both':>16}{'means of both':>16}   difference, {seeds} seeds")
    found = {name: told(name, seeds, rates) for name in CLAIMS}
    return report("effects", found, BAR, all(each["shows"] for each in found.values()) or quick())


if __name__ == "__main__":
    sys.exit(main())
