"""Graphs as values: what they are checked for, what follows from them, and their JSON."""

import json
import os
import pickle
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.mas.graph.graph import MAX_NODES, Graph, Loop, Node, single
from edgewise.toolkit.errors import GraphError
from tests.support.mas.graphs import graphs, law

HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["nodes", "edges", "loops", "exit", "format", "name", "role"]), inner)
    ),
    max_leaves=12,
)


def make_graph(edges: str, exit_: str, *loops: tuple[str, str, int]) -> Graph:
    """A graph of solvers: "a-b b-c" are its edges, a lone name a node without."""
    pairs = [tuple(part.split("-")) for part in edges.split()]
    names = dict.fromkeys(name for pair in pairs for name in pair)
    all_loops = tuple(Loop(source=a, target=b, rounds=n) for a, b, n in loops)
    linked = tuple((pair[0], pair[1]) for pair in pairs if len(pair) == 2)
    return Graph(tuple(Node(name=name, role="solver") for name in names), linked, exit_, all_loops)


# ---- laws ----------------------------------------------------------------------------------------------------


@law
@given(graphs())
def test_a_graph_round_trips_through_json(graph):
    again = Graph.from_json(json.loads(json.dumps(graph.to_json())))
    assert again.nodes == graph.nodes
    assert (again.version, again.to_json()) == (graph.version, graph.to_json())
    assert (again.predecessors, again.successors, again.levels) == (graph.predecessors, graph.successors, graph.levels)


@law
@given(graphs(), st.randoms())
def test_version_ignores_the_order_of_edges_and_loops(graph, rng: random.Random):
    edges, loops = list(graph.edges), list(graph.loops)
    rng.shuffle(edges)
    rng.shuffle(loops)
    again = Graph(graph.nodes, tuple(edges), graph.exit, tuple(loops))
    assert again.version == graph.version
    assert again.predecessors == graph.predecessors


@law
@given(graphs(), st.data())
def test_version_changes_with_role_model_and_prompt(graph, data):
    node = data.draw(st.sampled_from(graph.nodes))
    field, value = data.draw(st.sampled_from([("role", "else"), ("model", "m"), ("prompt", "?" * 20)]))
    nodes = tuple(n.model_copy(update={field: value}) if n is node else n for n in graph.nodes)
    assert Graph(nodes, graph.edges, graph.exit, graph.loops).version != graph.version


@law
@given(graphs())
def test_a_level_depends_on_the_level_right_before_it(graph):
    depth = {name: number for number, level in enumerate(graph.levels) for name in level}
    assert sorted(depth) == sorted(node.name for node in graph.nodes)
    for name, inputs in graph.predecessors.items():
        assert depth[name] == 1 + max((depth[other] for other in inputs), default=-1)
    assert graph.levels[0] == graph.entries
    assert graph.levels[-1] == (graph.exit,)


@law
@given(graphs())
def test_without_node_links_inputs_to_receivers(graph):
    for node in graph.nodes:
        smaller = graph.without_node(node.name)
        if smaller is None:
            assert node.name == graph.exit and len(graph.predecessors[node.name]) != 1
            continue
        members = {n.name for n in smaller.nodes}
        assert node.name not in members
        if node.name != graph.exit:
            assert members == {n.name for n in graph.nodes} - {node.name}
            inputs = set(graph.predecessors[node.name])
            assert all(inputs <= set(smaller.predecessors[other]) for other in graph.successors[node.name])


@law
@given(graphs())
def test_without_edge_keeps_edges_that_lead_to_the_exit(graph):
    for edge in graph.edges:
        smaller = graph.without_edge(edge)
        members = {n.name for n in smaller.nodes}
        assert edge not in smaller.edges
        assert set(smaller.edges) == {e for e in graph.edges if e != edge and set(e) <= members}
        assert smaller.exit == graph.exit


@law
@given(HOSTILE)
def test_any_json_is_a_graph_or_a_graph_error(data):
    try:
        Graph.from_json(data)
    except GraphError as error:
        assert str(error).endswith((".", "?"))


# ---- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edges", "exit_", "loops", "sentence"),
    [
        ("", "a", [], "at least one node"),
        ("a-b", "c", [], "The exit names a node 'c', and there is none; there is a, b"),
        ("solver-b", "solvr", [], "did you mean 'solver'"),
        ("a-b b-c c-a", "c", [], "run in a cycle, .* -> .*going back is a loop"),
        ("a-a", "a", [], "run in a cycle, a -> a"),
        ("a-b a-c", "c", [], "Node 'b' is unreachable from the exit 'c': nobody hears it"),
        ("a b", "b", [], "Node 'a' is unreachable"),
        ("a-b a-b", "b", [], "from 'a' to 'b' is there twice"),
        ("a-b", "b", [("x", "a", 1)], "The loop names a node 'x'"),
        ("a-b", "b", [("a", "b", 1)], "from 'a' back to 'b' does not go back"),
        ("a-b c-b b-d", "d", [("b", "a", 1)], "entered beside its target: 'b' hears 'c'"),
        ("a-b a-c b-c", "c", [("b", "a", 1)], "left beside its source: 'c' hears 'a'"),
        ("a-b b-c c-d", "d", [("b", "a", 1), ("c", "b", 1)], "Two loops share the node 'b'"),
    ],
)
def test_an_invalid_graph_raises_with_its_reason(edges, exit_, loops, sentence):
    with pytest.raises(GraphError, match=sentence):
        make_graph(edges, exit_, *loops)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 99, "new": 1}, "format 99, this version reads 1: upgrade"),
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"exit": None}, "exit: "),
        ({"nodes": [{"name": "1a", "role": "solver"}]}, "nodes.0.name"),
        ({"nodes": [{"name": "a"}]}, "nodes.0.role: Field required"),
        ({"nodes": [{"name": "a", "role": "solver"}] * 2}, "Two nodes have the name 'a'"),
        ({"nodes": [{"name": "a", "role": "r", "weight": -1}]}, "weight"),
        ({"loops": [{"source": "a", "target": "a", "rounds": 99}]}, "rounds: .*less than or equal to 8"),
        ({"loops": [{"source": "a", "target": "a", "rounds": 0}]}, "rounds: .*greater than or equal to 1"),
        ({"edges": [["a"]]}, "edges.0"),
        ({"nodes": [{"name": f"n{i}", "role": "r"} for i in range(MAX_NODES + 1)]}, "at most 200 nodes"),
    ],
)
def test_invalid_json_raises_with_its_place(change, sentence):
    good = {"format": 1, "nodes": [{"name": "a", "role": "solver"}], "exit": "a"}
    assert Graph.from_json(good) == single_named("a")
    with pytest.raises(GraphError, match=sentence):
        Graph.from_json({**good, **change})


def single_named(name: str) -> Graph:
    return Graph((Node(name=name, role="solver"),), (), name)


def test_the_largest_graph_is_checked_quickly():
    names = [f"n{i}" for i in range(MAX_NODES)]
    edges = tuple((a, b) for i, b in enumerate(names) for a in names[:i])
    graph = Graph(tuple(Node(name=name, role="solver") for name in names), edges, names[-1])
    assert len(graph.levels) == MAX_NODES


# ---- examples ------------------------------------------------------------------------------------------------


def test_a_loop_body_lies_between_target_and_source():
    graph = make_graph("p-a a-b a-c b-d c-d d-e", "e", ("d", "a", 2))
    assert graph.loop_body(graph.loops[0]) == ("a", "b", "c", "d")


def test_a_loop_is_dropped_with_its_node_or_edge():
    graph = make_graph("a-b b-c", "c", ("b", "a", 2))
    assert graph.without_node("b").loops == ()
    assert graph.without_node("c").loops == graph.loops
    assert graph.without_edge(("a", "b")) == make_graph("b-c", "c")


def test_one_agent_is_a_graph():
    graph = single("solver", model="openai/gpt-4o")
    assert (len(graph), graph.exit, graph.levels) == (1, "solver", (("solver",),))
    assert graph["solver"].model == "openai/gpt-4o"


def test_a_pickled_graph_is_equal_in_another_process() -> None:
    """Hashes of strings differ between processes, so none may travel along."""
    code = "import pickle, sys; from edgewise.mas.graph.graph import single; g = single(); hash(g); "
    command = [sys.executable, "-c", code + "sys.stdout.buffer.write(pickle.dumps(g))"]
    sent = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert pickle.loads(sent.stdout) in {single()}
