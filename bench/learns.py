"""
Every row of the table of methods trains a softmax policy, 10 seeds each: how much its mean reward rises.

The policy is small (bench/simulated/bandit.py), the rest is the learner's own: choice of rows, plan, table, batch,
update, memory. Most rows want words of which one in thirteen is right; methods of steps, of delegation and of games
have a world in which these are there (bench/simulated/worlds.py). Each batch is gone through twice at least, so that
ratios move and clips act; all else is as the table says, and the learning rate is the same for all.
"""

import sys
from collections.abc import Callable

import torch
from common import quick, report
from simulated import worlds
from simulated.interval import figures, interval, shown
from simulated.training import Training, World

from edgewise.learner.methods.method import Method, override
from edgewise.learner.methods.published import METHODS
from edgewise.toolkit.evaluation.statistics import Interval

SEEDS, STEPS, LR = 10, 60, 0.05
QUICK = 3, 30
WORLDS: dict[str, Callable[[], World]] = {
    "gigpo": worlds.path,
    "salt": worlds.path,
    "hrpo": lambda: worlds.path(pay=0.3),
    "m_grpo": worlds.team,
    "advantage_alignment": worlds.Game,
}
"""What a method is tried in where it is about more than one reply to a row."""
BY_DESIGN: dict[str, str] = {}
"""Methods that need not raise the mean reward, and why: none so far."""
BAR = "rises with a 95 % interval above 0 in every row, but for those whose design is another: " + (
    ", ".join(BY_DESIGN) or "none"
)


def twice(method: Method) -> Method:
    """The method, with at least two optimizer steps for a batch."""
    return method if method.epochs * method.minibatches > 1 else override(method, "epochs=2")


def rise(name: str, seed: int, steps: int) -> tuple[float, float]:
    """The mean reward before and after."""
    world = WORLDS.get(name, worlds.first_letter)()
    training = Training(world, twice(METHODS[name]), seed, LR, batch=6, budget=steps * 6 * 8)
    before = world.worth(training.policy)
    for _ in range(steps):
        training.step()
    return before, world.worth(training.policy)


def measured(name: str, seeds: int, steps: int) -> Interval:
    """The rise of one row; a line is printed."""
    before, after = zip(*(rise(name, seed, steps) for seed in range(seeds)), strict=True)
    found = interval([now - then for then, now in zip(before, after, strict=True)])
    means = f"{sum(before) / seeds:8.3f}{sum(after) / seeds:8.3f}"
    print(f"{name:30}{means}   {shown(found)}  {'' if found.low > 0 else BY_DESIGN.get(name, 'NO RISE')}", flush=True)
    return found


def main() -> int:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # Adam's moments fade to numbers that are slow, and are nothing
    seeds, steps = QUICK if quick() else (SEEDS, STEPS)
    print(f"{'method':30}{'before':>8}{'after':>8}   rise, 95 % interval of {seeds} seeds")
    found = {name: measured(name, seeds, steps) for name in METHODS}
    holds = all(each.low > 0 or name in BY_DESIGN for name, each in found.items())
    return report("learns", {name: figures(each) for name, each in found.items()}, BAR, holds or quick())


if __name__ == "__main__":
    sys.exit(main())
