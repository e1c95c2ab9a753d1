import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.mas.designs.interface import Draft, Query, Trial, TrialGroup
from edgewise.mas.designs.patterns import chain, debate, self_consistency, standard_graphs, star
from edgewise.mas.graph.construction import Space
from edgewise.mas.graph.graph import Graph, single
from edgewise.mas.graph.roles import CATALOGUE
from edgewise.mas.search.baselines import BestOf, EdgeReinforce, RandomSearch, sample_random_build
from tests.support.plans import play

SPACE = Space(("solver", "planner", "critic", "majority"), (0, 0, 1, 2), agents=4, moves=8)
QUERIES = [Query(f"q{i}", "", np.zeros(4, np.float32)) for i in range(2)]


def no_model(request) -> str:
    raise AssertionError("no model is asked")


def run_step(searcher, seed, reward, size=4):
    drafts = play(searcher.propose(QUERIES, size, seed), no_model)
    groups = [
        TrialGroup(q, tuple(Trial(d, reward(d.graph)) for d in ds)) for q, ds in zip(QUERIES, drafts, strict=True)
    ]
    play(searcher.learn(groups, seed), no_model)
    return drafts


def versions(drafts):
    return [[d.graph.version for d in group] for group in drafts]


def test_standard_patterns_have_their_shapes() -> None:
    assert chain("planner", "solver").edges == (("planner", "solver"),)
    assert self_consistency(3).predecessors["majority"] == ("solver", "solver-2", "solver-3")
    assert star(["planner", "critic"], "solver").exit == "solver"
    rounds = debate(2)
    assert [len(level) for level in rounds.levels] == [2, 2, 1]
    assert rounds.predecessors["debater-4"] == ("debater", "debater-2")


def test_standard_graphs_are_those_that_a_space_can_build() -> None:
    graphs = standard_graphs(SPACE)
    assert single("solver") in graphs and self_consistency(3) in graphs
    assert {n.role for g in graphs for n in g.nodes} <= set(SPACE.roles)


def test_standard_graphs_of_the_catalogue_end_with_an_answer() -> None:
    roles = [tuple(node.role for node in graph.nodes) for graph in standard_graphs(Space.from_roles(CATALOGUE, 5))]
    assert roles == [
        ("solver",),
        ("reasoner",),
        ("programmer",),
        ("solver", "solver", "solver", "majority"),
        ("planner", "solver"),
        ("solver", "critic", "reviser"),
        ("solver", "reasoner", "programmer", "judge"),
        ("solver", "solver", "debater", "debater", "judge"),
    ]
    assert max(map(len, standard_graphs(Space.from_roles(CATALOGUE, 4)))) == 4


@given(st.integers(0, 10_000))
@settings(max_examples=50)
def test_random_builds_are_allowed_in_the_space(seed: int) -> None:
    built = sample_random_build(SPACE, np.random.default_rng(seed))
    assert 1 <= len(built.graph) <= SPACE.agents
    for node in built.graph.nodes:
        assert len(built.graph.predecessors[node.name]) >= SPACE.min_inputs[SPACE.roles.index(node.role)]


MAKERS = {
    "random": lambda: RandomSearch(SPACE),
    "fixed": lambda: BestOf(standard_graphs(SPACE)),
    "edges": lambda: EdgeReinforce(("planner", "solver", "critic", "majority")),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_drafts_have_the_size_and_follow_the_seed(make) -> None:
    first, second = make(), make()
    for seed in range(3):
        drafts = run_step(first, seed, lambda g: len(g) / 10)
        assert [len(group) for group in drafts] == [4, 4]
        assert versions(drafts) == versions(run_step(second, seed, lambda g: len(g) / 10))
    assert first.design().version == second.design().version


@pytest.mark.parametrize("make", [MAKERS["random"], MAKERS["fixed"]], ids=["random", "fixed"])
def test_design_is_the_best_graph_that_was_tried(make) -> None:
    searcher, tried = make(), []

    def reward(graph: Graph) -> float:
        tried.append(graph)
        return len(graph) / 10

    for seed in range(8):
        run_step(searcher, seed, reward)
    assert len(searcher.design().graph) == max(map(len, tried))


def test_one_lucky_trial_does_not_beat_many_good_ones() -> None:
    lucky, steady = single("planner"), single("solver")
    searcher = BestOf((lucky, steady))
    trials = [(lucky, 1.0), (lucky, 0.0), *[(steady, 0.9)] * 20]
    groups = [TrialGroup(QUERIES[0], tuple(Trial(Draft(g), r) for g, r in trials))]
    play(searcher.learn(groups, 0), no_model)
    assert searcher.design().graph == steady


def test_edge_reinforce_learns_the_rewarded_edge() -> None:
    searcher = EdgeReinforce(("planner", "critic", "solver"))
    wanted = ("planner", "solver")
    for seed in range(60):
        run_step(searcher, seed, lambda g: float(wanted in g.edges) - 0.2 * len(g), size=8)
    assert searcher.design().graph.edges == (wanted,)


def test_edge_reinforce_ignores_drafts_of_others() -> None:
    searcher = EdgeReinforce(("planner", "solver"))
    play(searcher.learn([TrialGroup(QUERIES[0], (Trial(Draft(single()), 1.0),))], 0), no_model)
    assert not searcher.logits.any()
