import numpy as np
import pytest

from edgewise.mas.designs.graph_features import hash_shape
from edgewise.mas.designs.interface import Draft, Query, Trial, TrialGroup
from edgewise.mas.designs.patterns import chain, star
from edgewise.mas.graph.construction import Space
from edgewise.mas.graph.graph import Graph, Node, single
from edgewise.mas.search.surrogate.explorer import Explorer
from edgewise.mas.search.surrogate.gaussian_process import RewardSurrogate

SPACE = Space(("solver", "planner", "critic", "judge"), (0, 0, 1, 2), agents=4, moves=8)
QUERY = Query("q", "", np.ones(4, np.float32))


@pytest.fixture
def explorer() -> Explorer:
    return Explorer(SPACE, RewardSurrogate(SPACE.roles))


def tell(explorer: Explorer, rewards: dict[Graph, float]) -> None:
    group = TrialGroup(QUERY, tuple(Trial(Draft(graph), reward) for graph, reward in rewards.items()))
    explorer.estimate.fit([group])
    explorer.update_elite([group])


def versions(drafts: list[Draft]) -> list[str]:
    return [draft.graph.version for draft in drafts]


def test_before_any_trial_the_usual_designs_are_tried(explorer: Explorer) -> None:
    found = explorer.propose(QUERY, 3, seed=1)
    assert [draft.graph for draft in found] == [draft.graph for draft in explorer.designs[:3]]


def test_the_first_draft_joins_two_graphs_and_no_draft_is_there_twice(explorer: Explorer) -> None:
    tell(explorer, {single("solver"): 0.0, chain("planner", "solver"): 1.0, chain("solver", "critic"): 0.0})
    for seed in range(10):
        drafts = explorer.propose(QUERY, 6, seed)
        shapes = [hash_shape(SPACE.roles, draft.graph) for draft in drafts]
        assert drafts[0].graph[drafts[0].graph.exit].role == "judge"
        assert len({*shapes}) == 6
        assert not {*shapes[:3]} & explorer.tried  # the join, and the fresh ones behind it


def test_names_make_no_other_graph(explorer: Explorer) -> None:
    renamed = Graph((Node(name="x", role="planner"), Node(name="y", role="solver")), (("x", "y"),), "y")
    tell(explorer, {chain("planner", "solver"): 1.0, renamed: 1.0})
    assert len(explorer.tried) == len(explorer.elite) == 1


def test_the_same_seed_thinks_of_the_same(explorer: Explorer) -> None:
    tell(explorer, {single("solver"): 0.0, chain("planner", "solver"): 1.0})
    first, again, other = (versions(explorer.propose(QUERY, 6, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_where_nothing_can_be_joined_all_drafts_are_edits(explorer: Explorer) -> None:
    tell(explorer, {single("solver"): 1.0})
    assert len(explorer.propose(QUERY, 6, seed=1)) == 6


def test_the_best_are_kept_and_one_for_each_role_of_the_exit(explorer: Explorer) -> None:
    explorer.keep = 1
    judged = star(["solver", "planner"], "judge")
    for _ in range(20):
        tell(explorer, {single("solver"): 0.0, chain("planner", "solver"): 1.0, judged: 0.2})
    assert [draft.graph for draft in explorer.best] == [chain("planner", "solver")]
    assert {draft.graph[draft.graph.exit].role for draft in explorer.elite} == {"solver", "judge"}
