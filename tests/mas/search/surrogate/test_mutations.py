import numpy as np
import pytest

from edgewise.mas.designs.graph_features import extract_features, hash_shape
from edgewise.mas.graph.construction import Move, Space, build
from edgewise.mas.graph.graph import Graph, Node
from edgewise.mas.search.surrogate.mutations import graft, join, list_prunings, list_role_changes, mutate

SPACE = Space(("solver", "planner", "critic", "majority"), (0, 0, 1, 2), agents=4, moves=8)
SOLVER, PLANNER, CRITIC, MAJORITY, EXIT = 0, 1, 2, 3, 5
PLANNED = (Move(PLANNER), Move(SOLVER, (0,)), Move(EXIT))
CHECKED = (Move(SOLVER), Move(CRITIC, (0,)), Move(EXIT))
VOTE = (Move(SOLVER), Move(SOLVER), Move(MAJORITY, (0, 1)), Move(EXIT))


def graph(moves) -> Graph:
    return build(SPACE, moves).graph


def edges(moves) -> set[tuple[str, str]]:
    return set(graph(moves).edges)


def test_graft_replaces_an_agent_by_a_part_of_another_graph() -> None:
    found = [edges(graft(SPACE, CHECKED, PLANNED, np.random.default_rng(seed))) for seed in range(20)]
    assert {("planner", "solver"), ("solver", "critic")} in found


def test_graft_merges_equal_agents() -> None:
    found = {graft(SPACE, VOTE, PLANNED, np.random.default_rng(seed)) for seed in range(40)}
    assert all(sum(node.role == "planner" for node in graph(moves).nodes) <= 1 for moves in found)


@pytest.mark.parametrize(
    "edit",
    [lambda m, r: graft(SPACE, m, VOTE, r), lambda m, r: join(SPACE, m, VOTE, r), lambda m, r: mutate(SPACE, m, r)],
)
def test_edits_stay_within_the_space(edit) -> None:
    rng, moves = np.random.default_rng(0), CHECKED
    for _ in range(200):
        moves = edit(moves, rng)
        assert 1 <= len(graph(moves)) <= SPACE.agents


def test_join_shares_the_agents_that_both_graphs_have() -> None:
    critic = (Move(PLANNER), Move(SOLVER, (0,)), Move(CRITIC, (1,)), Move(EXIT))
    found = join(SPACE, critic, PLANNED, np.random.default_rng(0))
    shared = {("planner", "solver"), ("solver", "critic")}
    assert edges(found) == shared | {("solver", "majority"), ("critic", "majority")}


def test_join_needs_two_graphs_and_a_role_with_two_inputs() -> None:
    rng, few = np.random.default_rng(0), Space(SPACE.roles[:3], (0, 0, 1), agents=4, moves=8)
    assert join(SPACE, PLANNED, PLANNED, rng) == PLANNED
    planned = (*PLANNED[:-1], Move(few.exit_action))
    assert join(few, planned, (Move(SOLVER), Move(few.exit_action)), rng) == planned


def test_prunings_are_all_graphs_with_one_part_less() -> None:
    chain = (Move(PLANNER), Move(SOLVER, (0,)), Move(CRITIC, (0, 1)), Move(EXIT))
    found = {frozenset(edges(moves)) for moves in list_prunings(SPACE, chain)}
    agents = [{("solver", "critic")}, {("planner", "critic")}]
    wires = [
        {("solver", "critic"), ("planner", "critic")},
        {("planner", "critic")},
        {("planner", "solver"), ("solver", "critic")},
    ]
    assert found == {frozenset(edges) for edges in [*agents, *wires]}


def test_role_changes_are_all_graphs_with_one_other_role() -> None:
    roles = {tuple(move.action for move in moves[:-1]) for moves in list_role_changes(SPACE, PLANNED)}
    assert roles == {(SOLVER, SOLVER), (PLANNER, PLANNER), (PLANNER, CRITIC)}


def test_single_agent_has_no_prunings() -> None:
    assert list_prunings(SPACE, (Move(SOLVER), Move(EXIT))) == []


def wired(*links) -> Graph:
    """A graph of edges between names, ended by the last one named; a role is a name up to its number."""
    names = dict.fromkeys(name for link in links for name in link)
    nodes = tuple(Node(name=name, role=name.split("-")[0]) for name in names)
    return Graph(nodes, links, links[-1][1])


def test_names_and_order_of_agents_do_not_change_the_shape() -> None:
    one = wired(("solver", "majority"), ("planner", "majority"))
    two = wired(("planner-7", "majority-2"), ("solver-3", "majority-2"))
    assert hash_shape(SPACE.roles, one) == hash_shape(SPACE.roles, two)
    assert np.allclose(extract_features(SPACE.roles, one), extract_features(SPACE.roles, two))


def test_shared_and_separate_planners_have_different_shapes() -> None:
    ends = (("solver", "majority"), ("solver-2", "majority"))
    shared = wired(("planner", "solver"), ("planner", "solver-2"), *ends)
    apart = wired(("planner", "solver"), ("planner-2", "solver-2"), *ends)
    assert hash_shape(SPACE.roles, shared) != hash_shape(SPACE.roles, apart)
