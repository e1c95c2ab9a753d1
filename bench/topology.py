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
    return values


def no_model(request: object) -> str:
    raise AssertionError("no model is asked")


def needed(values: Sequence[float], best: float) -> int:
    """Samples until the value is 95 % of the best one and stays there; one batch more than there were if never."""
    below = [number for number, value in enumerate(values) if value < SHARE * best - 1e-9]
    return BATCH * SIZE * ((below[-1] + 1 if below else 0) + 1)
