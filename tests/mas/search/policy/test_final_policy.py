"""The final policy is trained towards the graphs with the best lower bounds."""

import numpy as np
import pytest

from edgewise.mas.designs.graph_features import hash_shape
from edgewise.mas.designs.interface import Draft, Query, Trial, TrialGroup
from edgewise.mas.designs.patterns import chain
from edgewise.mas.graph.construction import Space, build, moves_for
from edgewise.mas.graph.graph import Graph, single
from edgewise.mas.search.policy.final_policy import settle_policy
from edgewise.mas.search.policy.network import NetworkPolicy
from edgewise.mas.search.policy.tabular import TabularPolicy
from edgewise.mas.search.surrogate.gaussian_process import RewardSurrogate

SPACE = Space(("solver", "planner", "critic", "majority"), (0, 0, 1, 2), agents=3, moves=6)
QUERIES = [Query(f"q{i}", "", np.eye(4, dtype=np.float32)[i]) for i in range(2)]
PLANNED = chain("planner", "solver")
POLICIES = [
    NetworkPolicy.start(SPACE, 4, 0),
    NetworkPolicy.start(SPACE, 4, 0, joint=False),
    TabularPolicy(SPACE, key="by_features"),
]


def draft(graph: Graph) -> Draft:
    return Draft(graph, build(SPACE, moves_for(SPACE, graph)))


def fit(rewards: dict[str, dict[Graph, float]], times: int = 20) -> RewardSurrogate:
    surrogate = RewardSurrogate(SPACE.roles, query_weight=0.9)
    for _ in range(times):
        surrogate.fit([TrialGroup(q, tuple(Trial(draft(g), r) for g, r in rewards[q.id].items())) for q in QUERIES])
    return surrogate


def shapes(graphs: list[Graph]) -> list[int]:
    return [hash_shape(SPACE.roles, graph) for graph in graphs]


@pytest.mark.parametrize("policy", POLICIES, ids=["joint", "apart", "tabular"])
def test_likeliest_graph_becomes_the_best_lower_bound(policy) -> None:
    rewards = {"q0": {PLANNED: 1.0, single("planner"): 0.0}, "q1": {PLANNED: 0.0, single("planner"): 1.0}}
    known = [draft(PLANNED), draft(single("planner"))]
    settled = settle_policy(policy, fit(rewards), known, QUERIES, 200)
    assert shapes(settled.graphs(QUERIES)) == shapes([PLANNED, single("planner")])
    assert settled.version != policy.version


def test_one_lucky_trial_has_no_good_lower_bound() -> None:
    often = {q.id: {PLANNED: 0.9, single("planner"): 0.2} for q in QUERIES}
    surrogate, lucky = fit(often), chain("planner", "critic")
    surrogate.fit([TrialGroup(QUERIES[0], (Trial(draft(lucky), 1.0),))])
    settled = settle_policy(POLICIES[0], surrogate, [draft(PLANNED), draft(lucky)], QUERIES, 200)
    assert shapes(settled.graphs(QUERIES)) == shapes([PLANNED, PLANNED])


def test_settled_policy_does_not_change() -> None:
    rewards = {q.id: {PLANNED: 1.0, single("planner"): 0.0} for q in QUERIES}
    once = settle_policy(POLICIES[0], fit(rewards), [draft(PLANNED)], QUERIES, 200)
    assert settle_policy(once, fit(rewards), [draft(PLANNED)], QUERIES, 200).version == once.version
    assert settle_policy(POLICIES[0], fit(rewards), [draft(PLANNED)], QUERIES, 0).version == POLICIES[0].version
