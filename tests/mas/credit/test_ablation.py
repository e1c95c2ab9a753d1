import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.mas.config import GraphConfig
from edgewise.mas.credit.ablation import Credit, measure_credit, measure_ablations, list_ablated_graphs, add_emitted_rewards
from edgewise.mas.credit.evidence import MAX_STRENGTH, DEFAULT_STRENGTH, Case, Delta, Evidence, prior_strength
from edgewise.mas.designs.interface import Draft, Query
from edgewise.mas.graph.graph import Graph, Node, single
from edgewise.mas.runtime.node import HEARD
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.step_credit import assign_credit
from edgewise.mas.training.trials import evaluate_drafts
from edgewise.toolkit.errors import RewardError
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Example, Message
from tests.support.mas.graphs import graphs
from tests.support.plans import play

ROWS = [Example(f"q{n}", (Message("user", str(n)),)) for n in range(4)]
CHAIN = Graph(
    tuple(Node(name=n, role=r) for n, r in (("a", "solver"), ("b", "critic"), ("c", "reviser"))),
    (("a", "b"), ("b", "c"), ("a", "c")),
    "c",
)


class World:
    """Worth by what is there; it counts the runs."""

    def __init__(self, nodes=None, edges=None, noise: float = 0.0):
        self.nodes, self.edges, self.noise = nodes or {}, edges or {}, noise
        self.runs: list[tuple[str, str, int]] = []

    def run(self, graph: Graph, example: Example, sample: int):
        self.runs.append((graph.version, example.id, sample))
        rng = np.random.default_rng([int(graph.version, 16), int(example.id[1:]), sample])
        there = sum(self.nodes.get(n.name, 0.0) for n in graph.nodes)
        return there + sum(self.edges.get(e, 0.0) for e in graph.edges) + self.noise * rng.normal()
        yield


def found(plan):
    return play(plan, lambda request: "")


def planted(graph: Graph, seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    return World({n.name: rng.normal() for n in graph.nodes}, {e: rng.normal() for e in sorted(graph.edges)})


# ---- leaving out -----------------------------------------------------------------------------------


@given(graphs(most=6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_what_nodes_add_is_found_exactly_where_nothing_is_random(graph, seed):
    world = planted(graph, seed)
    world.edges = {}
    credit = found(measure_credit(world.run, graph, ROWS[0], samples=2))
    can_go = {n.name for n in graph.nodes if graph.without(n.name) is not None}
    assert credit.nodes == pytest.approx({name: world.nodes[name] for name in can_go})


@given(graphs(most=6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_what_edges_add_is_found_exactly_where_no_agent_hangs_on_them(graph, seed):
    world = planted(graph, seed)
    credit = found(measure_credit(world.run, graph, ROWS[0]))
    alone = {edge for edge in graph.edges if len(graph.without_edge(edge)) == len(graph)}
    assert set(credit.edges) == set(graph.edges)
    assert {e: credit.edges[e] for e in alone} == pytest.approx({e: world.edges[e] for e in alone})


def test_an_idle_node_and_an_idle_edge_have_no_credit():
    credit = found(measure_credit(World({"a": 1.0, "c": 0.5}).run, CHAIN, ROWS[0]))
    assert credit.nodes["b"] == 0 and credit.edges["a", "b"] == 0
    assert credit.nodes["a"] == 1.0


def test_one_agent_and_an_exit_that_hears_several_cannot_be_left_out():
    assert found(measure_credit(World().run, single(), ROWS[0])) == Credit()
    assert "c" not in found(measure_credit(World().run, CHAIN, ROWS[0])).nodes


def test_equal_smaller_graphs_run_once():
    pair = Graph(CHAIN.nodes[::2], (("a", "c"),), "c")
    ((left, parts),) = [x for x in list_ablated_graphs(pair) if x[0].exit == "c"]
    assert set(parts) == {"a", ("a", "c")} and len(left) == 1
    world = World()
    found(measure_credit(world.run, pair, ROWS[0]))
    assert len(world.runs) == len(set(world.runs)) == 3


# ---- a budget --------------------------------------------------------------------------------------


@given(st.lists(graphs(most=5, plain=True), min_size=1, max_size=3), st.integers(0, 15), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_no_more_runs_are_made_than_allowed_and_none_twice(several, most, seed):
    world = World()
    cases = [Case(graph, row) for graph in several for row in ROWS[:2]]
    found(measure_ablations(world.run, cases, most=most, seed=seed))
    assert len(world.runs) <= most and len(set(world.runs)) == len(world.runs)


@given(
    st.permutations([Case(g, row) for g in (CHAIN, CHAIN.without_node("b")) for row in ROWS]), st.integers(0, 9)
)
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_cases_is_no_matter(cases, most):
    made = found(measure_ablations(World(noise=1.0).run, cases, most=most, seed=1))
    assert made == found(
        measure_ablations(World(noise=1.0).run, sorted(cases, key=lambda c: c.key), most=most, seed=1)
    )


def test_what_has_run_already_costs_nothing():
    world = World()
    without = CHAIN.without_node("b")
    done = {Case(CHAIN, ROWS[0]).key: 1.0, Case(without, ROWS[0]).key: 0.25}
    evidence = found(measure_ablations(world.run, [Case(CHAIN, ROWS[0])], most=0, done=done))
    assert not world.runs
    assert evidence.part(CHAIN, "b").mean == 0.75


def test_what_is_least_known_is_measured_first():
    known = Evidence().with_deltas(Delta(Case(CHAIN, row), "a", 0.1 * n) for n, row in enumerate(ROWS))
    twin = Graph(
        (Node(name="x", role="solver"), Node(name="y", role="planner"), CHAIN["c"]),
        (("x", "c"), ("y", "c")),
        "c",
    )
    known = known.with_deltas(Delta(Case(twin, row), ("x", "c"), 0.1) for row in ROWS)
    done = {Case(twin, ROWS[0]).key: 0.0}
    for seed in range(5):
        after = found(measure_ablations(World().run, [Case(twin, ROWS[0])], most=1, seed=seed, known=known, done=done))
        assert "y" in after.parts(twin) and "x" not in after.parts(twin)


# ---- pooling ---------------------------------------------------------------------------------------


def roles(values: dict[str, Sequence[Sequence[float]]]) -> tuple[Evidence, dict[str, list[Graph]]]:
    """Differences by role, a list for each of its agents, every agent in a graph of its own."""
    deltas, made = [], {}
    for role, agents in values.items():
        pairs = [
            Graph(
                (Node(name=f"{role}{n}", role=role), Node(name="end", role="judge")),
                ((f"{role}{n}", "end"),),
                "end",
            )
            for n in range(len(agents))
        ]
        made[role] = pairs
        for n, (graph, xs) in enumerate(zip(pairs, agents, strict=True)):
            rows = [Example(f"r{i}", ()) for i in range(len(xs))]
            deltas += [Delta(Case(graph, row), f"{role}{n}", x) for row, x in zip(rows, xs, strict=True)]
    return Evidence().with_deltas(deltas), made


def test_one_unlucky_answer_condemns_no_agent_of_a_good_role():
    good = [[0.0, 1.0, 0.0, 1.0, 0.0]] * 6
    evidence, made = roles({"solver": [*good, [-1.0]], "critic": [[0.0] * 5] * 4})
    assert evidence.raw_estimate(made["solver"][6], "solver6").mean == -1
    assert evidence.shrunk_credit(made["solver"][6], "solver6") > 0


def test_a_single_difference_counts_little():
    evidence, made = roles({"solver": [[-1.0]]})
    assert -0.6 < evidence.shrunk_credit(made["solver"][0], "solver0") < 0


def test_an_agent_that_was_not_measured_has_the_guess_for_its_role():
    evidence, _ = roles({"solver": [[1.0, 0.0] * 10] * 3, "critic": [[-1.0, 0.0] * 10] * 3})
    other = Graph((Node(name="new", role="critic"), Node(name="end", role="judge")), (("new", "end"),), "end")
    assert evidence.measured_parts(other) == ()
    assert -0.6 < evidence.shrunk_credit(other, "new") < -0.3


def test_without_noise_nothing_is_drawn():
    evidence, made = roles({"solver": [[0.5] * 4, [0.1] * 4], "critic": [[0.0] * 4]})
    guesses = [evidence.shrunk_credit(g, g.nodes[0].name) for each in made.values() for g in each]
    assert guesses == pytest.approx([0.5, 0.1, 0.0])


@pytest.mark.parametrize(
    ("families", "expected"),
    [
        ([[[1.0], [0.0]]], DEFAULT_STRENGTH),
        ([[[1.0, 2.0]]], DEFAULT_STRENGTH),
        ([], DEFAULT_STRENGTH),
        ([[[1.0, 1.0], [3.0, 3.0]]], 0.0),
        ([[[0.0, 2.0], [0.0, 2.0]]], MAX_STRENGTH),
        # Within groups 2; between them (2 x 2 x 3^2 - 2) / 2 = 17.
        ([[[0.0, 2.0], [6.0, 8.0]]], 2 / 17),
    ],
)
def test_how_much_a_role_counts_follows_from_the_spread(families, expected):
    assert prior_strength(families) == pytest.approx(expected)


def test_estimates_come_with_an_interval_over_queries_and_a_count():
    world = World({"a": 0.5}, noise=0.1)
    cases = [Case(CHAIN, row, sample) for row in ROWS for sample in range(2)]
    evidence = found(measure_ablations(world.run, cases))
    known = evidence.part(CHAIN, "a")
    assert known.count == len(ROWS) and known.low < 0.5 < known.high
    assert evidence.kinds["solver",].count == len(ROWS)
    assert ("solver", "critic") in evidence.kinds


# ---- process rewards -------------------------------------------------------------------------------


def test_what_was_emitted_is_added_to_a_nodes_credit():
    assert add_emitted_rewards({"a": 0.5, "b": 0.1}, {"a": 0.25, "c": -1.0}) == {"a": 0.75, "b": 0.1, "c": -1.0}


def test_no_number_cannot_be_emitted():
    with pytest.raises(RewardError, match="'a'"):
        add_emitted_rewards({}, {"a": float("nan")})


# ---- in a search -----------------------------------------------------------------------------------


def job(**settings) -> GraphSpec:
    rows = [{"id": f"q{n}", "n": n, "target": "right"} for n in range(6)]
    task = Task.from_rows(
        rows, prompt="Number {n}", id="id", splits={"train": 0.4, "validation": 0.3, "test": 0.3}
    )
    every = (*task.train, *task.validation, *task.test)
    queries = {row.id: Query(row.id, row.messages[-1].content, np.zeros(2, np.float32)) for row in every}
    return GraphSpec(task, GraphConfig(model="scripted/x", **settings), queries=queries)


def model(request) -> str:
    """Only a reviser knows, and only if it heard somebody."""
    text = "\n".join(message.content for message in request.messages)
    return "RESULT: right" if "RESULT:" in text and HEARD in text else "wrong"


def test_trials_get_the_credit_of_their_agents_and_what_is_idle_costs():
    job_ = job(credit=4)
    row = job_.task.train[0]
    pair = Graph(
        (Node(name="solver", role="solver"), Node(name="reviser", role="reviser")),
        (("solver", "reviser"),),
        "reviser",
    )
    made = asyncio.run(drive(evaluate_drafts(job_, row, [Draft(pair), Draft(single())], 1), ScriptedClient(model)))
    (after,), _ = asyncio.run(drive(assign_credit(job_, [made], 1, Evidence()), ScriptedClient(model)))
    first, alone = after.trials.trials
    assert first.credit["reviser"] > 0 and first.credit["solver"] > 0
    assert first.parts["irrationality"] == 0 and not alone.credit
    assert first.parts["quality"] == 1 and first.reward > alone.reward


def test_a_row_that_comes_again_in_a_later_step_is_measured_again():
    job_ = job(credit=4)
    pair, known = CHAIN.without_node("b"), Evidence()
    for step in (1, 2):
        plan = evaluate_drafts(job_, job_.task.train[0], [Draft(pair), Draft(single())], step)
        made = asyncio.run(drive(plan, ScriptedClient(model)))
        _, known = asyncio.run(drive(assign_credit(job_, [made], step, known), ScriptedClient(model)))
    assert sorted(d.case.sample for d in known.deltas if d.part == "c") == [1, 2]
    assert known.raw_estimate(pair, "c").count == 1


def test_what_is_known_is_carried_from_step_to_step():
    job_ = job(credit=0, inner=False)
    row = job_.task.train[0]
    pair = CHAIN.without_node("b")
    made = asyncio.run(drive(evaluate_drafts(job_, row, [Draft(pair)], 1), ScriptedClient(model)))
    known = Evidence().with_deltas([Delta(Case(pair, row), "a", -0.5)])
    (after,), evidence = asyncio.run(drive(assign_credit(job_, [made], 2, known), ScriptedClient(model)))
    assert set(after.trials.trials[0].credit) == {"a"}
    assert after.trials.trials[0].parts["irrationality"] == 1
    assert evidence == known


def test_what_ended_inside_of_a_trial_needs_no_run_to_be_compared_with():
    job_, pair, client = job(credit=0), CHAIN.without_node("b"), ScriptedClient(model)
    made = asyncio.run(drive(evaluate_drafts(job_, job_.task.train[0], [Draft(pair)], 1), client))
    asked = len(client.requests)
    (after,), evidence = asyncio.run(drive(assign_credit(job_, [made], 1, Evidence()), client))
    assert evidence.raw_estimate(pair, "c").mean > 0.5 and set(after.trials.trials[0].credit) == {"c"}
    assert len(client.requests) == asked
