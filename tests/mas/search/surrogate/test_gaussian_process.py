"""What graphs are worth, from few trials of others."""

from typing import Any

import numpy as np
import pytest

from edgewise.mas.designs.graph_features import expected_cost, inner_graphs
from edgewise.mas.designs.interface import Draft, Query, Trial, TrialGroup
from edgewise.mas.designs.patterns import chain
from edgewise.mas.graph.graph import Graph, single
from edgewise.mas.search.surrogate import gaussian_process
from edgewise.mas.search.surrogate.gaussian_process import RewardSurrogate

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


def told(*groups: TrialGroup, **settings: Any) -> RewardSurrogate:
    found = RewardSurrogate(ROLES, ANSWERS, **settings)
    for each in groups:
        found.fit([each])
    return found


def worth(found: RewardSurrogate, graph: Graph) -> float:
    return float(found.predict([graph], [QUERY])[0])


def test_a_graph_that_ran_beside_the_drafts_counts_as_they_do() -> None:
    both = {single("solver"): 1.0, single("judge"): 0.0}
    beside = told(group({single("judge"): 0.0}, {single("solver"): 1.0}))
    assert worth(beside, single("solver")) == pytest.approx(worth(told(group(both)), single("solver")))


def test_where_room_is_short_rows_of_a_shape_are_joined_and_say_what_they_said_apart() -> None:
    rng, graphs = np.random.default_rng(1), [single(), single("judge"), FED, chain("planner", "solver")]
    trials = [group({graphs[int(rng.integers(4))]: float(rng.random())}) for _ in range(60)]
    apart, joined = told(*trials), told(*trials, window=10)
    assert joined.observed and apart.observed
    assert (len(apart.observed), float(joined.observed.counts.sum())) == (60, 60)
    assert len(joined.observed) <= 10
    assert joined.reward_std == pytest.approx(apart.reward_std)
    for graph in [*graphs, chain("solver", "judge")]:
        (mean, doubt), (same, alike) = (x.posterior([graph], QUERY) for x in (apart, joined))
        assert (same[0], alike[0, 0]) == (pytest.approx(mean[0]), pytest.approx(doubt[0, 0]))


def test_where_even_shapes_are_too_many_those_of_fewest_trials_go_the_oldest_first() -> None:
    once = [group({graph: 0.0}) for graph in (FED, single("planner"), single("critic"))]
    found = told(*[group({single("solver"): 1.0})] * 3, *once, window=3).observed
    assert found
    assert [len(graph) for graph in found.graphs] == [1, 1, 1]
    assert found.counts.tolist() == [3, 1, 1]


def test_the_graphs_inside_end_at_agents_that_answer() -> None:
    assert inner_graphs(ROLES, ANSWERS, FED) == (chain("planner", "solver"),)
    assert inner_graphs(ROLES, (), FED) == (single("planner"), chain("planner", "solver"))


def test_what_is_better_fed_is_expected_to_be_better(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = group({single("solver"): 0.0, chain("planner", "solver"): 1.0, chain("solver", "judge"): 0.0})
    knows = worth(told(seen, seen), FED)
    monkeypatch.setattr(gaussian_process, "FED", 0.0)
    monkeypatch.setattr(gaussian_process, "FED_DOUBT", 0.0)
    assert knows > worth(told(seen, seen), FED) + 0.05


def test_a_fit_in_few_numbers_says_what_the_fit_says_of_inner_answers() -> None:
    """With queries left aside a graph's answer is its value, but for its cost and the mean."""
    rng, graphs = (
        np.random.default_rng(0),
        [single(), FED, chain("planner", "solver"), chain("solver", "critic")],
    )
    rounds = [group({graph: float(rng.random()) for graph in graphs}) for _ in range(3)]
    found = told(*rounds, alike=0.0)
    found.before = gaussian_process.PrimalWeights.of(found.seen, found.dual / found.reward_std, len(ROLES))
    costs = expected_cost(FED) + found.seen.expected.mean()
    assert found._answer(FED) * found.reward_std == pytest.approx(worth(found, FED) + found.reward_std * costs)


def test_doubt_is_least_where_there_were_trials() -> None:
    found = told(*[group({single(): 1.0, single("judge"): 0.0})] * 5)
    doubt = found.posterior([single(), FED], QUERY)[1]
    assert 0 < doubt[0, 0] < doubt[1, 1]
