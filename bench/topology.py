"""
How many sampled graphs a searcher needs until its design is as good as 95 % of the best graph, and stays so.

Three simulated tasks with a known best topology (bench/simulated_graphs.py). Every searcher gets batches of `BATCH`
queries with `SIZE` graphs each, and a reward for each graph with the noise of one answer. After each batch the
design's true value is noted, as a mean over four other queries. A run that is not there at the end of the budget
counts as the budget and one batch, which can only flatter the rivals. HRPO and its ablations have half the budget: what
takes longer fails the bar however long the rivals take. Each run is printed as it ends, and each draw's figure is in
the report.

What searchers know beforehand differs. HRPO begins with the usual designs (`mas.designs.patterns.standard_graphs`),
and so do the fixed ones; the best graph of the debate task is one of them. REINFORCE on edges has every role as an
agent, more of one where the best graph has more, in a good order and with the right exit, and no limit on agents.
Random search knows nothing. A sample is a graph that is run. HRPO also learns from what the inner agents of that run
answered, which is graded at no call more; its rivals, `no_inner` and `paper_only` do not. `paper_only` is HRPO
without all measures that save samples, the usual designs among them.

`--draws N --budget N` for a smaller run than that of the bar, `--only chain hrpo` for some tasks and searchers.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: threads only get in each other's way

import numpy as np
from common import report
from simulated_graphs import SPACE, TASKS, Simulated

from edgewise.mas.designs.interface import Draft, Query, Searcher, Trial, TrialGroup
from edgewise.mas.designs.patterns import standard_graphs
from edgewise.mas.search.baselines import BestOf, EdgeReinforce, RandomSearch
from edgewise.mas.search.policy.hrpo import Hrpo, HrpoSettings
from edgewise.mas.search.policy.network import NetworkPolicy
from edgewise.toolkit.util.seeds import derive_seed
from tests.support.plans import play

BATCH, SIZE, FEATURES, SHARE = 4, 8, 32, 0.95
DRAWS, ABLATED, BUDGET = 10, 3, 6400
STAYS = 10
"""Batches that a design must stay good for; a run that did ends."""
BAR = "HRPO in at most half the samples of REINFORCE on edges and of random search, median of 10 seeds, on each task"


def query(draw: int, number: int) -> Query:
    """Queries of one kind: their features are like each other's (a cosine of about 0.8)."""
    rng, kind = (np.random.default_rng(derive_seed(draw, "query", n)) for n in (number, "kind"))
    features = kind.normal(size=FEATURES) + 0.5 * rng.normal(size=FEATURES)
    return Query(f"q{number}", "", (features / np.linalg.norm(features)).astype(np.float32))


def curve(task: Simulated, searcher: Searcher, draw: int, budget: int, inner: bool = True) -> list[float]:
    """The true value of the design after each batch."""
    values, rng = [], np.random.default_rng(derive_seed(draw, task.name, "noise"))
    probe = [query(draw, -1 - i) for i in range(4)]
    for number in range(budget // (BATCH * SIZE)):
        queries = [query(draw, number * BATCH + i) for i in range(BATCH)]
        seed = derive_seed(draw, number)
        drafts = play(searcher.propose(queries, SIZE, seed), no_model)
        groups = [tried(task, q, each, rng, inner) for q, each in zip(queries, drafts, strict=True)]
        play(searcher.learn(groups, seed), no_model)
        values.append(statistics.fmean(task.value(g) for g in searcher.design().graphs(probe)))
        if len(values) > STAYS and min(values[-STAYS - 1 :]) >= SHARE * task.value(task.best) - 1e-9:
            break
    return values


def tried(task: Simulated, query: Query, drafts: Sequence[Draft], rng: np.random.Generator, inner: bool) -> TrialGroup:
    """
    The trials of a query and, with `inner`, those of inner answers, as `mas.training.trials.evaluate_drafts` does.
    """
    trials = tuple(Trial(draft, task.reward(draft.graph, rng)) for draft in drafts)
    found = task.beside([draft.graph for draft in drafts], rng) if inner else []
    return TrialGroup(query, trials, tuple(Trial(Draft(graph), reward) for graph, reward in found))


def no_model(request: object) -> str:
    raise AssertionError("no model is asked")


def needed(values: Sequence[float], best: float) -> int:
    """Samples until the value is 95 % of the best one and stays there; one batch more than there were if never."""
    below = [number for number, value in enumerate(values) if value < SHARE * best - 1e-9]
    return BATCH * SIZE * ((below[-1] + 1 if below else 0) + 1)


def hrpo(draw: int, joint: bool = True, **changes: object) -> Hrpo:
    return Hrpo(NetworkPolicy.start(SPACE, FEATURES, draw, joint=joint), replace(HrpoSettings(), **changes))


RIVALS: dict[str, Callable[[Simulated, int], Searcher]] = {
    "edges": lambda task, draw: EdgeReinforce(task.pool),
    "random": lambda task, draw: RandomSearch(SPACE),
    "fixed": lambda task, draw: BestOf(standard_graphs(SPACE)),
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "no_action_reward": {"action_reward": False},
    "no_group_advantage": {"group_advantage": False},
    "no_exemption": {"exemption": 0},
    "not_joint": {"joint": False},
    "no_inner": {},
    "not_settled": {"settle": 0},
    "paper_only": {"estimate": False, "smooth": 0.0, "explore": 0.0, "imagined": 0, "settle": 0},
}
BLIND = ("no_inner", "paper_only")
"""Those that are not told what inner agents answered; rivals make no use of it."""


def measured(job: tuple[Simulated, str, int, int]) -> tuple[int, float]:
    """Samples needed by a searcher on a task in one draw, and what its last design is worth of the best."""
    import torch

    torch.set_num_threads(1)
    task, name, draw, budget = job
    make = RIVALS.get(name) or (lambda task, draw: hrpo(draw, **ABLATIONS.get(name, {})))
    values = curve(task, make(task, draw), draw, budget, inner=name not in BLIND)
    best = task.value(task.best)
    return needed(values, best), values[-1] / best


Table = dict[str, dict[str, dict[str, Any]]]


def table(names: Sequence[str], tasks: Sequence[Simulated], draws: int, budget: int) -> Table:
    """For each searcher and task: samples needed and the last design's share of the best, by draw and their medians."""
    jobs = [(task, name, draw, budget) for name in names for task in tasks for draw in range(draws)]
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    with ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for (task, name, draw, _), result in zip(jobs, pool.map(measured, jobs), strict=True):
            found.setdefault((name, task.name), []).append(result)
            print(f"{name} {task.name} {draw}: {result[0]} samples, {result[1]:.2f} at the end", flush=True)
    return {name: {task.name: summary(found[name, task.name]) for task in tasks} for name in names}


def summary(runs: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """The medians over draws, and what each needed."""
    samples, shares = zip(*runs, strict=True)
    return {"samples": statistics.median(samples), "share": round(statistics.median(shares), 3), "each": list(samples)}


def options() -> argparse.Namespace:
    """The arguments, those that `--quick` sets among them."""
    names = [*RIVALS, "hrpo", *ABLATIONS]
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--only", nargs="*", default=[], choices=[*(task.name for task in TASKS), *names])
    given = parser.parse_args()
    if given.quick:
        given.draws, given.budget = 1, 480
    given.tasks = [task for task in TASKS if task.name in given.only] or list(TASKS)
    given.searchers = [name for name in names if name in given.only] or names
    return given


def holds(rows: Table, budget: int) -> bool:
    """Whether HRPO reached the bar on every task; False where it or a rival was not run on one."""
    names = ("hrpo", "edges", "random")
    if any(task.name not in rows.get(name, {}) for name in names for task in TASKS):
        return False
    return all(
        2 * rows["hrpo"][task.name]["samples"] <= min(budget, rows[rival][task.name]["samples"])
        for task in TASKS
        for rival in names[1:]
    )


def main() -> int:
    given, rows = options(), Table()
    ablated = min(given.draws, ABLATED)
    for names, draws, budget in (
        (RIVALS, given.draws, given.budget),
        (("hrpo",), given.draws, given.budget // 2),
        (ABLATIONS, ablated, given.budget // 2),
    ):
        asked = [name for name in names if name in given.searchers]
        rows |= table(asked, given.tasks, draws, budget) if asked else {}
    figures = {"samples_at_most": given.budget, "draws": given.draws, "draws_of_ablations": ablated, **rows}
    return report("topology", figures, BAR, holds(rows, given.budget))


if __name__ == "__main__":
    sys.exit(main())
