"""
How many sampled graphs a searcher needs until its design is as good as 95 % of the best graph, and stays so.

Three simulated tasks with a known best topology (bench/simulated_graphs.py). Every searcher gets batches of `BATCH`
queries with `SIZE` graphs each, a reward for each graph with the noise of one answer, and nothing else. After each
batch its design is looked at for the first query, and its true value noted. A run that is not there
at the end of the budget counts as the budget, which can only flatter the rivals.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from common import quick, report
from simulated_graphs import ROLES, SPACE, TASKS, Simulated

from mas.baselines import BestOf, Edges, RandomSearch, standard
from mas.hrpo import Hrpo, HrpoSettings
from mas.policy import Policy
from mas.search import Query, Searcher, Trial, TrialGroup
from tests.plans import play
from toolkit.seeds import seed as seed_of

BATCH, SIZE, FEATURES, SHARE = 4, 8, 32, 0.95
DRAWS, ABLATED, BUDGET = 10, 5, 1920
STAYS = 10
"""Batches that a design must stay good for; a run that did ends."""
BAR = "HRPO in at most half the samples of REINFORCE on edges and of random search, median of 10 seeds, on each task"


def query(draw: int, number: int) -> Query:
    rng = np.random.default_rng(seed_of(draw, "query", number))
    features = rng.normal(size=FEATURES)
    return Query(f"q{number}", "", (features / np.linalg.norm(features)).astype(np.float32))


def curve(task: Simulated, searcher: Searcher, draw: int, budget: int) -> list[float]:
    """The true value of the design after each batch."""
    values, rng = [], np.random.default_rng(seed_of(draw, task.name, "noise"))
    probe = [query(draw, -1 - i) for i in range(4)]
    for number in range(budget // (BATCH * SIZE)):
        queries = [query(draw, number * BATCH + i) for i in range(BATCH)]
        seed = seed_of(draw, number)
        drafts = play(searcher.propose(queries, SIZE, seed), no_model)
        groups = [
            TrialGroup(q, tuple(Trial(d, task.reward(d.graph, rng)) for d in each))
            for q, each in zip(queries, drafts, strict=True)
        ]
        play(searcher.learn(groups, seed), no_model)
        values.append(statistics.fmean(task.value(g) for g in searcher.design().graphs(probe)))
        if len(values) > STAYS and min(values[-STAYS - 1 :]) >= SHARE * task.value(task.best) - 1e-9:
            break
    return values


def no_model(request: object) -> str:
    raise AssertionError("no model is asked")


def needed(values: Sequence[float], best: float) -> int:
    """Samples until the value is 95 % of the best one and stays there; one batch more than there were if never."""
    below = [number for number, value in enumerate(values) if value < SHARE * best - 1e-9]
    return BATCH * SIZE * ((below[-1] + 1 if below else 0) + 1)


@dataclass(frozen=True)
class Run:
    """One searcher on one task: the name of each, a draw of all randomness, and the most samples."""

    task: str
    searcher: str
    draw: int
    budget: int

    def samples(self) -> int:
        """How many it needed; see `needed`."""
        task = BY_NAME[self.task]
        found = curve(task, SEARCHERS[self.searcher](task, self.draw), self.draw, self.budget)
        return min(self.budget, needed(found, task.value(task.best)))


def hrpo(settings: HrpoSettings) -> Callable[[Simulated, int], Searcher]:
    return lambda task, draw: Hrpo(Policy.start(SPACE, FEATURES, draw, joint=settings.joint), settings)


OURS = HrpoSettings()
PLAIN = replace(OURS, estimate=False, smooth=0.0, imagined=0, explore=0.0)
SEARCHERS: dict[str, Callable[[Simulated, int], Searcher]] = {
    "hrpo": hrpo(OURS),
    "edges": lambda task, draw: Edges(task.pool),
    "random": lambda task, draw: RandomSearch(SPACE),
    "fixed designs": lambda task, draw: BestOf(standard(ROLES)),
    "no action reward": hrpo(replace(OURS, action_reward=False)),
    "no group advantage": hrpo(replace(OURS, group_advantage=False)),
    "no exemption": hrpo(replace(OURS, exemption=0)),
    "roles and edges apart": hrpo(replace(OURS, joint=False)),
    "no estimate (plain)": hrpo(PLAIN),
}
BY_NAME = {task.name: task for task in TASKS}
RIVALS = ("hrpo", "edges", "random")


def samples_of(run: Run) -> int:
    return run.samples()


def main() -> int:
    short = quick()
    draws, few, budget = (2, 1, 320) if short else (DRAWS, ABLATED, BUDGET)
    runs = [
        Run(task, name, draw, budget)
        for task in BY_NAME
        for name in SEARCHERS
        for draw in range(draws if name in RIVALS else few)
    ]
    started = time.monotonic()
    with ProcessPoolExecutor(2, initializer=quiet) as pool:
        found = dict(zip(runs, pool.map(samples_of, runs, chunksize=1), strict=True))
    figures: dict[str, dict[str, float]] = {name: {} for name in SEARCHERS}
    for (task, name), each in grouped(found).items():
        figures[name][task] = statistics.median(each)
    holds = all(2 * figures["hrpo"][t] <= figures[rival][t] for t in BY_NAME for rival in RIVALS[1:])
    extra = {"budget": budget, "draws": draws, "draws_of_ablations": few}
    extra["seconds"] = round(time.monotonic() - started)
    return report("topology", {**figures, **extra}, BAR, short or holds)


def grouped(found: dict[Run, int]) -> dict[tuple[str, str], list[int]]:
    result: dict[tuple[str, str], list[int]] = {}
    for run, samples in found.items():
        result.setdefault((run.task, run.searcher), []).append(samples)
    return result


def quiet() -> None:
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())
