"""
Whether rollouts are wasted on groups without signal: fixed groups of 5 against select, plan, rest and refill.

Simulated examples with pass rates of mean 0.70; rewards are 0 or 1. Every arm pays for the same number of
rollouts, and all of its steps count, from the cold start on. The bar is on the wide spread of pass rates, where
many examples are nearly always solved; where every example is at exactly 0.70 there is little to win.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from common import quick, report

from edgewise.toolkit.groups.sampling.rollout_plan import sample_in_phases, study_in_waves
from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.groups.sampling.row_selection import drop_resting, shuffle, vade
from edgewise.toolkit.types import Example, Group, Message, Plan, Rollout, Score, Step
from edgewise.toolkit.util.seeds import derive_seed
from tests.support.plans import play

EXAMPLES, BATCH, SIZE, EPOCHS = 200, 20, 5, 5
TOTAL = EXAMPLES * SIZE * EPOCHS
FIRST, PHASES, MOST = 3, 3, 10
RESERVE = 2
"""How many batches the queue of a step holds, where groups without signal are replaced."""
BAR = 1.5

TOLD = (Step((), Message("assistant", "")),)
WIDE = "Beta(0.63, 0.27)"
SPREADS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    WIDE: lambda rng: rng.beta(0.63, 0.27, EXAMPLES),
    "all at 0.70": lambda rng: np.full(EXAMPLES, 0.70),
}


@dataclass(frozen=True)
class Arm:
    """Which parts are on."""

    vade: bool = False
    plan: bool = False
    rest: bool = False
    refill: bool = False


ARMS = {
    "fixed n = 5": Arm(),
    "vade only": Arm(vade=True),
    "plan only": Arm(plan=True),
    "rest only": Arm(rest=True),
    "refill only": Arm(refill=True),
    "vade + rest": Arm(vade=True, rest=True),
    "all but plan": Arm(vade=True, rest=True, refill=True),
    "all": Arm(vade=True, plan=True, rest=True, refill=True),
}


@dataclass
class World:
    """Simulated examples, and the arm's way through them."""

    arm: Arm
    draw_seed: int
    rates: np.ndarray
    memory: Memory = field(default_factory=Memory)
    groups: list[Group] = field(default_factory=list)
    spent: int = 0

    def __post_init__(self) -> None:
        self.examples = tuple(Example(str(i), ()) for i in range(EXAMPLES))
        self.rng = np.random.default_rng(derive_seed(self.draw_seed, "run"))
        self.waiting: tuple[Example, ...] = ()

    def draw(self, example: Example, start: int, count: int) -> Plan[tuple[Rollout, ...]]:
        yield from ()
        passed = self.rng.random(count) < self.rates[int(example.id)]
        return tuple(
            Rollout(example.id, "solver", start + i, TOLD, "stop", Score(float(one))) for i, one in enumerate(passed)
        )

    def queue(self) -> tuple[Example, ...]:
        """The examples of the next step, in order: as many as the total still pays for."""
        affordable = (TOTAL - self.spent) // SIZE
        length = BATCH * RESERVE if self.arm.refill else BATCH
        pool = drop_resting(self.examples, self.memory) if self.arm.rest else self.examples
        if self.arm.vade:
            return vade(pool, self.memory, self.rng, length)[:affordable]
        if not self.waiting:
            self.waiting = shuffle(pool, self.draw_seed, self.memory.round)
        return self.waiting[: min(length, affordable)]

    def wave(self, examples: Sequence[Example]) -> Plan[list[Group]]:
        if self.arm.plan:
            runs = yield from sample_in_phases(self.draw, examples, SIZE * len(examples), FIRST, PHASES, MOST)
        else:
            runs = yield [self.draw(example, 0, SIZE) for example in examples]
        return [Group(example, "solver", found) for example, found in zip(examples, runs, strict=True)]

    def step(self) -> None:
        # Without refill the queue is one batch, so there is no second wave.
        studied = study_in_waves(self.queue(), self.wave, BATCH, lambda group: group.is_mixed)
        groups = play(studied, lambda request: "")
        self.groups += groups
        self.spent += sum(len(group.rollouts) for group in groups)
        self.memory = self.memory.update(groups)
        self.waiting = self.waiting[len(groups) :]
        over = len(self.groups) >= EXAMPLES * (self.memory.round + 1) if self.arm.vade else not self.waiting
        self.memory = self.memory.next_round() if over else self.memory


def run(arm: Arm, draw_seed: int, rates: np.ndarray) -> dict[str, float]:
    """
    One run's figures.

    `signal`: share of the paid rollouts in groups with mixed rewards. `mixed`: such groups per 100 rollouts.
    `variance`: mean squared distance of a paid rollout's reward from its group's mean, which is what a
    group-relative advantage is made of. `first`: the signal of the first epoch's worth of rollouts alone.
    `seen`, `seen_mixed`: share of the examples that were visited, or had a mixed group, at least once.
    """
    world = World(arm, draw_seed, rates)
    while world.spent < TOTAL:
        world.step()
    assert world.spent == TOTAL, f"{world.spent} rollouts in place of {TOTAL}"
    mixed = [group for group in world.groups if group.is_mixed]
    return {
        "signal": sum(len(group.rollouts) for group in mixed) / TOTAL,
        "mixed": 100 * len(mixed) / TOTAL,
        "variance": sum(len(group.rewards) * np.var(group.rewards) for group in mixed) / TOTAL,
        "first": signal_at_first(world.groups),
        "seen": len({group.example.id for group in world.groups}) / EXAMPLES,
        "seen_mixed": len({group.example.id for group in mixed}) / EXAMPLES,
    }


def signal_at_first(groups: Sequence[Group]) -> float:
    paid = np.cumsum([len(group.rollouts) for group in groups])
    early = groups[: int(np.searchsorted(paid, TOTAL // EPOCHS)) + 1]
    mixed = sum(len(group.rollouts) for group in early if group.is_mixed)
    return mixed / sum(len(group.rollouts) for group in early)


Found = dict[str, dict[str, np.ndarray]]
"""Figures by arm and name, one number for each seed."""


def measure(rates_of: Callable[[np.random.Generator], np.ndarray], seeds: int) -> Found:
    """The figures of every arm, over the same draws of pass rates."""
    rates = [rates_of(np.random.default_rng(derive_seed(n, "rates"))) for n in range(seeds)]
    runs = {name: [run(arm, n, drawn) for n, drawn in enumerate(rates)] for name, arm in ARMS.items()}
    return {name: {key: np.array([one[key] for one in some]) for key in some[0]} for name, some in runs.items()}


def mean_of(found: Found) -> dict[str, dict[str, float]]:
    return {name: {key: float(x.mean()) for key, x in figures.items()} for name, figures in found.items()}


def show(spread: str, means: dict[str, dict[str, float]]) -> None:
    print(f"\npass rates {spread}: {TOTAL} rollouts on {EXAMPLES} examples, batches of {BATCH}")
    print(f"{'':14}  signal  ratio  1st epoch  mixed/100  variance    seen  seen mixed")
    for name, mean in means.items():
        ratio = mean["signal"] / means["fixed n = 5"]["signal"]
        print(
            f"{name:14}{mean['signal']:8.3f}{ratio:7.2f}{mean['first']:11.3f}{mean['mixed']:11.2f}"
            f"{mean['variance']:10.4f}{mean['seen']:8.1%}{mean['seen_mixed']:12.1%}"
        )


def main() -> int:
    seeds = 6 if quick() else 40
    found = {spread: measure(rates_of, seeds) for spread, rates_of in SPREADS.items()}
    means = {spread: mean_of(arms) for spread, arms in found.items()}
    for spread, arms in means.items():
        show(spread, arms)
    figures = {
        spread: {name: round(mean["signal"], 3) for name, mean in arms.items()} for spread, arms in means.items()
    }
    wide = means[WIDE]
    ratio = {key: wide["all"][key] / wide["fixed n = 5"][key] for key in wide["all"]}
    each = found[WIDE]["all"]["signal"] / found[WIDE]["fixed n = 5"]["signal"]
    figures |= {f"{key}_ratio": round(value, 2) for key, value in ratio.items()}
    figures |= {"signal_ratio_error": round(float(each.std(ddof=1)) / seeds**0.5, 3), "seeds": seeds}
    return report("signal", figures, f"signal >= {BAR} x fixed n = 5", ratio["signal"] >= BAR)
