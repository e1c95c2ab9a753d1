"""What graphs are worth, from few trials of others."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from mas import estimate
from mas.baselines import chain
from mas.estimate import Estimate, inner_ones
from mas.graph import Graph, single
from mas.search import Draft, Query, Trial, TrialGroup

ROLES = ("solver", "planner", "critic", "judge")
ANSWERS = (True, False, False, True)
QUERY = Query("q", "", np.ones(4, np.float32))
FED = chain("planner", "solver", "judge")


def group(rewards: dict[Graph, float], beside: dict[Graph, float] | None = None) -> TrialGroup:
    trials, more = (
        tuple(Trial(Draft(graph), reward) for graph, reward in each.items())
        for each in (rewards, beside or {})
    )
    return TrialGroup(QUERY, trials, more)


def told(*groups: TrialGroup, **settings: Any) -> Estimate:
    found = Estimate(ROLES, ANSWERS, **settings)
    for each in groups:
        found.add([each])
    return found


def worth(found: Estimate, graph: Graph) -> float:
    return float(found.value([graph], [QUERY])[0])


def test_a_graph_that_ran_beside_the_drafts_counts_as_they_do() -> None:
    both = {single("solver"): 1.0, single("judge"): 0.0}
    beside = told(group({single("judge"): 0.0}, {single("solver"): 1.0}))
    assert worth(beside, single("solver")) == pytest.approx(worth(told(group(both)), single("solver")))


def test_where_the_window_is_full_few_of_the_trials_beside_are_enough_and_drafts_stay() -> None:
    beside = group({FED: 0.0}, {single("solver"): 1.0})
    assert Counter(map(len, told(*[beside] * 20).graphs)) == {len(FED): 20, 1: 20}
    full = told(*[beside] * 20, window=30)
    assert Counter(map(len, full.graphs)) == {len(FED): 20, 1: 10}
    assert Counter(map(len, told(*[beside] * 40, window=30).graphs)) == {len(FED): 22, 1: estimate.ENOUGH}


def test_where_the_window_is_full_the_last_drafts_stay() -> None:
    drafts = [group({single("solver"): float(n)}) for n in range(20)]
    assert told(*drafts, window=5).rewards.tolist() == [15, 16, 17, 18, 19]


def test_the_graphs_inside_end_at_agents_that_answer() -> None:
    assert inner_ones(ROLES, ANSWERS, FED) == (chain("planner", "solver"),)
    assert inner_ones(ROLES, (), FED) == (single("planner"), chain("planner", "solver"))


def test_what_is_better_fed_is_expected_to_be_better(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = group({single("solver"): 0.0, chain("planner", "solver"): 1.0, chain("solver", "judge"): 0.0})
    knows = worth(told(seen, seen), FED)
    monkeypatch.setattr(estimate, "FED", 0.0)
    monkeypatch.setattr(estimate, "FED_DOUBT", 0.0)
    assert knows > worth(told(seen, seen), FED) + 0.05


def test_a_fit_in_few_numbers_says_what_the_fit_says_of_inner_answers() -> None:
    """With queries left aside a graph's answer is its value, but for its cost and the mean."""
    rng, graphs = (
        np.random.default_rng(0),
        [single(), FED, chain("planner", "solver"), chain("solver", "critic")],
    )
    rounds = [group({graph: float(rng.random()) for graph in graphs}) for _ in range(3)]
    found = told(*rounds, alike=0.0)
    found.before = estimate.Weights.of(found.seen, found.dual / found.spread, len(ROLES))
    costs = estimate._cost(FED) + found.seen.expected.mean()
    assert found._answer(FED) * found.spread == pytest.approx(worth(found, FED) + found.spread * costs)


def test_doubt_is_least_where_there_were_trials() -> None:
    found = told(*[group({single(): 1.0, single("judge"): 0.0})] * 5)
    doubt = found.posterior([single(), FED], QUERY)[1]
    assert 0 < doubt[0, 0] < doubt[1, 1]
