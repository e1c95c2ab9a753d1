import numpy as np
import pytest

from edgewise.mas.designs.graph_features import extract_features, hash_shape
from edgewise.mas.graph.construction import Move, Space, build
from edgewise.mas.graph.graph import Graph, Node
from edgewise.mas.search.surrogate.mutations import graft, join, mutate, list_prunings, list_role_changes

SPACE = Space(("solver", "planner", "critic", "majority"), (0, 0, 1, 2), agents=4, moves=8)
SOLVER, PLANNER, CRITIC, MAJORITY, EXIT = 0, 1, 2, 3, 5
PLANNED = (Move(PLANNER), Move(SOLVER, (0,)), Move(EXIT))
CHECKED = (Move(SOLVER), Move(CRITIC, (0,)), Move(EXIT))
VOTE = (Move(SOLVER), Move(SOLVER), Move(MAJORITY, (0, 1)), Move(EXIT))


def graph(moves) -> Graph:
    return build(SPACE, moves).graph


def edges(moves) -> set[tuple[str, str]]:
    return set(graph(moves).edges)


def test_a_part_of_one_graph_takes_the_place_of_an_agent_of_another() -> None:
    found = [edges(graft(SPACE, CHECKED, PLANNED, np.random.default_rng(seed))) for seed in range(20)]
    assert {("planner", "solver"), ("solver", "critic")} in found


def test_agents_that_say_the_same_become_one_when_grafted() -> None:
    found = {graft(SPACE, VOTE, PLANNED, np.random.default_rng(seed)) for seed in range(40)}
    assert all(sum(node.role == "planner" for node in graph(moves).nodes) <= 1 for moves in found)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m, r: graft(SPACE, m, VOTE, r),
        lambda m, r: join(SPACE, m, VOTE, r),
        lambda m, r: mutate(SPACE, m, r),
    ],
)
def test_edits_stay_within_the_space(edit) -> None:
    rng, moves = np.random.default_rng(0), CHECKED
    for _ in range(200):
        moves = edit(moves, rng)
        assert 1 <= len(graph(moves)) <= SPACE.agents


def test_an_agent_that_hears_two_graphs_joins_them_and_what_they_share_is_there_once() -> None:
    critic = (Move(PLANNER), Move(SOLVER, (0,)), Move(CRITIC, (1,)), Move(EXIT))
    found = join(SPACE, critic, PLANNED, np.random.default_rng(0))
    shared = {("planner", "solver"), ("solver", "critic")}
    assert edges(found) == shared | {("solver", "majority"), ("critic", "majority")}


def test_a_graph_is_not_joined_with_itself_nor_where_no_role_hears_two() -> None:
    rng, few = np.random.default_rng(0), Space(SPACE.roles[:3], (0, 0, 1), agents=4, moves=8)
    assert join(SPACE, PLANNED, PLANNED, rng) == PLANNED
    planned = (*PLANNED[:-1], Move(few.exit_action))
    assert join(few, planned, (Move(SOLVER), Move(few.exit_action)), rng) == planned


def test_pruned_graphs_are_all_that_have_a_part_less() -> None:
    chain = (Move(PLANNER), Move(SOLVER, (0,)), Move(CRITIC, (0, 1)), Move(EXIT))
    found = {frozenset(edges(moves)) for moves in list_prunings(SPACE, chain)}
    agents = [{("solver", "critic")}, {("planner", "critic")}]
    wires = [
        {("solver", "critic"), ("planner", "critic")},
        {("planner", "critic")},
        {("planner", "solver"), ("solver", "critic")},
    ]
    assert found == {frozenset(each) for each in [*agents, *wires]}


def test_recast_graphs_are_all_in_which_one_agent_has_another_role() -> None:
    roles = {tuple(move.action for move in moves[:-1]) for moves in list_role_changes(SPACE, PLANNED)}
    assert roles == {(SOLVER, SOLVER), (PLANNER, PLANNER), (PLANNER, CRITIC)}


def test_one_agent_cannot_be_pruned() -> None:
    assert list_prunings(SPACE, (Move(SOLVER), Move(EXIT))) == []


def wired(*links) -> Graph:
    """A graph of edges between names, ended by the last one named; a role is a name up to its number."""
    names = dict.fromkeys(name for link in links for name in link)
    nodes = tuple(Node(name=name, role=name.split("-")[0]) for name in names)
    return Graph(nodes, links, links[-1][1])


def test_the_names_and_order_of_agents_make_no_other_shape() -> None:
    one = wired(("solver", "majority"), ("planner", "majority"))
    two = wired(("planner-7", "majority-2"), ("solver-3", "majority-2"))
    assert hash_shape(SPACE.roles, one) == hash_shape(SPACE.roles, two)
    assert np.allclose(extract_features(SPACE.roles, one), extract_features(SPACE.roles, two))


def test_one_planner_for_two_is_another_shape_than_a_planner_each() -> None:
    ends = (("solver", "majority"), ("solver-2", "majority"))
    shared = wired(("planner", "solver"), ("planner", "solver-2"), *ends)
    apart = wired(("planner", "solver"), ("planner-2", "solver-2"), *ends)
    assert hash_shape(SPACE.roles, shared) != hash_shape(SPACE.roles, apart)
