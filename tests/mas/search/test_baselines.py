import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.mas.designs.interface import Query, Trial, TrialGroup
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


def step(searcher, seed, reward, size=4):
    drafts = play(searcher.propose(QUERIES, size, seed), no_model)
    groups = [
        TrialGroup(q, tuple(Trial(d, reward(d.graph)) for d in ds))
        for q, ds in zip(QUERIES, drafts, strict=True)
    ]
    play(searcher.learn(groups, seed), no_model)
    return drafts


def versions(drafts):
    return [[d.graph.version for d in each] for each in drafts]


def test_fixed_designs_have_their_shapes() -> None:
    assert chain("planner", "solver").edges == (("planner", "solver"),)
    assert self_consistency(3).predecessors["majority"] == ("solver", "solver-2", "solver-3")
    assert star(["planner", "critic"], "solver").exit == "solver"
    rounds = debate(2)
    assert [len(level) for level in rounds.levels] == [2, 2, 1]
    assert rounds.predecessors["debater-4"] == ("debater", "debater-2")


def test_standard_designs_are_those_that_a_space_can_build() -> None:
    found = standard_graphs(SPACE)
    assert single("solver") in found and self_consistency(3) in found
    assert {n.role for g in found for n in g.nodes} <= set(SPACE.roles)


def test_the_catalogue_has_the_usual_designs_and_none_that_ends_without_an_answer() -> None:
    found = [tuple(node.role for node in graph.nodes) for graph in standard_graphs(Space.from_roles(CATALOGUE, 5))]
    assert found == [
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
def test_random_moves_build_graphs_that_the_space_allows(seed: int) -> None:
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
def test_a_searcher_gives_as_many_drafts_as_asked_and_the_same_for_the_same_seed(make) -> None:
    first, second = make(), make()
    for seed in range(3):
        drafts = step(first, seed, lambda g: len(g) / 10)
        assert [len(each) for each in drafts] == [4, 4]
        assert versions(drafts) == versions(step(second, seed, lambda g: len(g) / 10))
    assert first.design().version == second.design().version


@pytest.mark.parametrize("make", [MAKERS["random"], MAKERS["fixed"]], ids=["random", "fixed"])
def test_the_best_graph_that_was_tried_is_kept(make) -> None:
    searcher, tried = make(), []

    def reward(graph: Graph) -> float:
        tried.append(graph)
        return len(graph) / 10

    for seed in range(8):
        step(searcher, seed, reward)
    assert len(searcher.design().graph) == max(map(len, tried))


def test_one_lucky_trial_does_not_beat_a_graph_that_was_good_often() -> None:
    lucky, steady = single("planner"), single("solver")
    searcher = BestOf((lucky, steady))
    trials = [(lucky, 1.0), (lucky, 0.0), *[(steady, 0.9)] * 20]
    groups = [TrialGroup(QUERIES[0], tuple(Trial(_draft(g), r) for g, r in trials))]
    play(searcher.learn(groups, 0), no_model)
    assert searcher.design().graph == steady


def _draft(graph):
    from edgewise.mas.designs.interface import Draft

    return Draft(graph)


def test_edges_start_at_a_half_and_learn_which_ones_pay() -> None:
    searcher = EdgeReinforce(("planner", "critic", "solver"))
    wanted = ("planner", "solver")
    for seed in range(60):
        step(searcher, seed, lambda g: float(wanted in g.edges) - 0.2 * len(g), size=8)
    assert searcher.design().graph.edges == (wanted,)


def test_edges_that_were_not_drawn_by_it_teach_nothing() -> None:
    searcher = EdgeReinforce(("planner", "solver"))
    play(searcher.learn([TrialGroup(QUERIES[0], (Trial(_draft(single()), 1.0),))], 0), no_model)
    assert not searcher.logits.any()
