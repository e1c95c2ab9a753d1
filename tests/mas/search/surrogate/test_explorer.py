import numpy as np
import pytest

from edgewise.mas.designs.graph_features import hash_shape
from edgewise.mas.designs.interface import Draft, Query, Trial, TrialGroup
from edgewise.mas.designs.patterns import chain, star
from edgewise.mas.graph.construction import Space
from edgewise.mas.graph.graph import Graph, Node, single
from edgewise.mas.search.surrogate import explorer as explorer_module
from edgewise.mas.search.surrogate.explorer import Explorer
from edgewise.mas.search.surrogate.gaussian_process import RewardSurrogate

SPACE = Space(("solver", "planner", "critic", "judge"), (0, 0, 1, 2), agents=4, moves=8)
QUERY = Query("q", "", np.ones(4, np.float32))


@pytest.fixture
def explorer() -> Explorer:
    return Explorer(SPACE, RewardSurrogate(SPACE.roles))


def learn(explorer: Explorer, rewards: dict[Graph, float]) -> None:
    group = TrialGroup(QUERY, tuple(Trial(Draft(graph), reward) for graph, reward in rewards.items()))
    explorer.surrogate.fit([group])
    explorer.update_elite([group])


def versions(drafts: list[Draft]) -> list[str]:
    return [draft.graph.version for draft in drafts]


def test_standard_graphs_are_proposed_before_any_trial(explorer: Explorer) -> None:
    drafts = explorer.propose(QUERY, 3, seed=1)
    assert [draft.graph for draft in drafts] == [draft.graph for draft in explorer.standard[:3]]


def test_first_draft_is_a_join_and_no_shape_repeats(explorer: Explorer) -> None:
    learn(explorer, {single("solver"): 0.0, chain("planner", "solver"): 1.0, chain("solver", "critic"): 0.0})
    for seed in range(10):
        drafts = explorer.propose(QUERY, 6, seed)
        shapes = [hash_shape(SPACE.roles, draft.graph) for draft in drafts]
        assert drafts[0].graph[drafts[0].graph.exit].role == "judge"
        assert len({*shapes}) == 6
        assert not {*shapes[:3]} & explorer.tried  # the join, and the fresh ones behind it


def test_names_of_agents_do_not_change_the_shape(explorer: Explorer) -> None:
    renamed = Graph((Node(name="x", role="planner"), Node(name="y", role="solver")), (("x", "y"),), "y")
    learn(explorer, {chain("planner", "solver"): 1.0, renamed: 1.0})
    assert len(explorer.tried) == len(explorer.elite) == 1


def test_equal_seeds_propose_equal_drafts(explorer: Explorer) -> None:
    learn(explorer, {single("solver"): 0.0, chain("planner", "solver"): 1.0})
    first, again, other = (versions(explorer.propose(QUERY, 6, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_all_drafts_are_edits_where_nothing_can_be_joined(explorer: Explorer) -> None:
    learn(explorer, {single("solver"): 1.0})
    assert len(explorer.propose(QUERY, 6, seed=1)) == 6


def test_elite_has_the_best_and_one_for_each_role_of_the_exit(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer_module, "ELITE", 1)
    judged = star(["solver", "planner"], "judge")
    for _ in range(20):
        learn(explorer, {single("solver"): 0.0, chain("planner", "solver"): 1.0, judged: 0.2})
    assert [draft.graph for draft in explorer.best] == [chain("planner", "solver")]
    assert {draft.graph[draft.graph.exit].role for draft in explorer.elite} == {"solver", "judge"}
