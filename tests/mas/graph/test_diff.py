"""What differs between two graphs."""

import json

from hypothesis import given

from edgewise.mas.graph.diff import diff
from edgewise.mas.graph.graph import Graph, Loop, Node
from tests.support.mas.graphs import graphs, law


def graph(*nodes: Node, edges="", exit_="", loops=()) -> Graph:
    pairs = tuple(tuple(pair.split("-")) for pair in edges.split())
    return Graph(nodes, pairs, exit_ or nodes[-1].name, loops)  # type: ignore[arg-type]


A, B = Node(name="a", role="solver"), Node(name="b", role="critic")
C = Node(name="c", role="reviser", model="m", lessons=("Count.",))


def test_every_kind_of_change_is_one_line():
    before = graph(A, B, edges="a-b")
    changed = A.model_copy(update={"role": "reasoner", "prompt": "Think\nhard.", "tools": ("python",)})
    after = graph(changed, B, C, edges="a-b b-c", loops=(Loop(source="b", target="a", rounds=2),))
    assert [change.line() for change in diff(before, after)] == [
        "~ node a: role solver becomes reasoner",
        "~ node a: prompt the role's becomes Think hard.",
        "~ node a: tools the role's becomes [python]",
        "+ node c (reviser; model m; lessons [Count.])",
        "+ edge b -> c",
        "+ loop b -> a (at most 2 rounds)",
        "~ exit b becomes c",
    ]
    assert [change.line() for change in diff(after, before)] == [
        "- node c (reviser; model m; lessons [Count.])",
        "~ node a: role reasoner becomes solver",
        "~ node a: prompt Think hard. becomes the role's",
        "~ node a: tools [python] becomes the role's",
        "- edge b -> c",
        "- loop b -> a (at most 2 rounds)",
        "~ exit c becomes b",
    ]


def test_a_loop_may_have_other_rounds():
    loops = [(Loop(source="b", target="a", rounds=n),) for n in (1, 3)]
    one, other = (graph(A, B, edges="a-b", loops=some) for some in loops)
    assert [change.line() for change in diff(one, other)] == ["~ loop b -> a: rounds 1 becomes 3"]


@law
@given(graphs(6), graphs(6))
def test_diff_is_empty_exactly_if_versions_are_equal(one, other):
    assert diff(one, one) == ()
    assert (diff(one, other) == ()) == (one.version == other.version)


@law
@given(graphs(6), graphs(6))
def test_an_addition_is_a_removal_the_other_way_round(one, other):
    there = sorted(change.line()[2:] for change in diff(one, other) if change.line()[0] == "+")
    back = sorted(change.line()[2:] for change in diff(other, one) if change.line()[0] == "-")
    assert there == back
    json.dumps([change.to_json() for change in diff(one, other)])
