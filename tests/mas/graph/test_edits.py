"""Random edits keep to the rules, and equal teams have equal versions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.mas.graph.edits import canonicalize, check_team, random_edit
from edgewise.mas.graph.graph import Graph, Loop, Node, single
from edgewise.mas.graph.roles import CATALOGUE
from edgewise.toolkit.errors import GraphError
from tests.support.mas.planted import ROLES, chain


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (chain("solver", "wizard"), "no role 'wizard'"),
        (chain("solver", "majority"), "hears 1; a majority must hear 2"),
        (chain("solver", "planner"), "gives no answer, as a planner gives a plan"),
        (chain(*["solver"] * 5), "has 5 agents; at most 4"),
        (chain("solver", "solver", loops=(Loop(source="n1", target="n0", rounds=2),)), "has no end"),
    ],
)
def test_check_team_refuses_a_team_that_cannot_work(graph: Graph, reason: str) -> None:
    with pytest.raises(GraphError, match=reason):
        check_team(graph, CATALOGUE, 4)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_random_edits_give_new_valid_teams(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph, known = single(), {single().version}
    for _ in range(8):
        graph = random_edit(graph, ROLES, 4, rng, known)
        assert graph is not None and graph.version not in known
        check_team(graph, ROLES, 4)
        assert canonicalize(graph) == graph and Graph.from_json(graph.to_json()) == graph
        known.add(graph.version)


def test_random_edits_reach_a_vote() -> None:
    reached: set[str] = set()
    for seed in range(60):
        rng, graph = np.random.default_rng(seed), single()
        for _ in range(4):
            graph = random_edit(graph, ROLES, 4, rng) or graph
            reached.add(graph[graph.exit].role)
    assert "majority" in reached


def test_random_edit_is_none_if_no_edit_is_left() -> None:
    only = {"solver": CATALOGUE["solver"]}
    assert random_edit(single(), only, 1, np.random.default_rng(0)) is None


def test_canonicalize_ignores_names_and_order() -> None:
    nodes = (Node(name="z", role="planner"), Node(name="a", role="solver"), Node(name="b", role="solver", weight=2))
    one = Graph((*nodes, Node(name="v", role="weighted")), (("z", "a"), ("a", "v"), ("b", "v")), "v")
    two = Graph(
        tuple(n.model_copy(update={"name": n.name * 2}) for n in reversed(one.nodes)),
        tuple((a * 2, b * 2) for a, b in one.edges),
        "vv",
    )
    assert one.version != two.version and canonicalize(one).version == canonicalize(two).version
