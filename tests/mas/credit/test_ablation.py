import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.mas.config import GraphConfig
from edgewise.mas.credit.ablation import add_emitted_rewards, list_ablated_graphs, measure_ablations, split_parts
from edgewise.mas.credit.evidence import DEFAULT_STRENGTH, MAX_STRENGTH, Case, Delta, Evidence, prior_strength
from edgewise.mas.designs.interface import Draft, Query
from edgewise.mas.graph.graph import Graph, Node, single
from edgewise.mas.runtime.node_text import INPUTS_TITLE
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
    """Net quality is the sum of planted numbers of the nodes and edges that are there; records the runs."""

    def __init__(self, nodes=None, edges=None, noise: float = 0.0):
        self.nodes, self.edges, self.noise = nodes or {}, edges or {}, noise
        self.runs: list[tuple[str, str, int]] = []

    def run(self, graph: Graph, example: Example, sample: int):
        self.runs.append((graph.version, example.id, sample))
        rng = np.random.default_rng([int(graph.version, 16), int(example.id[1:]), sample])
        total = sum(self.nodes.get(n.name, 0.0) for n in graph.nodes)
        return total + sum(self.edges.get(e, 0.0) for e in graph.edges) + self.noise * rng.normal()
        yield


def run_plan(plan):
    return play(plan, lambda request: "")


def measure_credit(world: World, graph: Graph, samples: int = 1) -> tuple[dict, dict]:
    """Credit of nodes and of edges, without shrinkage."""
    cases = [Case(graph, ROWS[0], sample) for sample in range(samples)]
    return split_parts(run_plan(measure_ablations(world.run, cases)).raw_means(graph))


def make_world(graph: Graph, seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    return World({n.name: rng.normal() for n in graph.nodes}, {e: rng.normal() for e in sorted(graph.edges)})


# ---- ablations -------------------------------------------------------------------------------------


@given(graphs(most=6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_node_credit_is_exact_without_noise(graph, seed):
    world = make_world(graph, seed)
    world.edges = {}
    nodes, _ = measure_credit(world, graph, samples=2)
    removable = {n.name for n in graph.nodes if graph.without_node(n.name) is not None}
    assert nodes == pytest.approx({name: world.nodes[name] for name in removable})


@given(graphs(most=6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_edge_credit_is_exact_where_no_node_depends_on_the_edge(graph, seed):
    world = make_world(graph, seed)
    _, edges = measure_credit(world, graph)
    independent = {edge for edge in graph.edges if len(graph.without_edge(edge)) == len(graph)}
    assert set(edges) == set(graph.edges)
    assert {e: edges[e] for e in independent} == pytest.approx({e: world.edges[e] for e in independent})


def test_idle_node_and_idle_edge_have_no_credit():
    nodes, edges = measure_credit(World({"a": 1.0, "c": 0.5}), CHAIN)
    assert nodes["b"] == 0 and edges["a", "b"] == 0
    assert nodes["a"] == 1.0


def test_single_agent_and_joining_exit_cannot_be_ablated():
    assert measure_credit(World(), single()) == ({}, {})
    assert "c" not in measure_credit(World(), CHAIN)[0]


def test_equal_smaller_graphs_run_once():
    pair = Graph(CHAIN.nodes[::2], (("a", "c"),), "c")
    ((left, parts),) = [x for x in list_ablated_graphs(pair) if x[0].exit == "c"]
    assert set(parts) == {"a", ("a", "c")} and len(left) == 1
    world = World()
    measure_credit(world, pair)
    assert len(world.runs) == len(set(world.runs)) == 3


# ---- a budget --------------------------------------------------------------------------------------


@given(st.lists(graphs(most=5, plain=True), min_size=1, max_size=3), st.integers(0, 15), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_runs_stay_within_the_limit_and_none_repeats(several, most, seed):
    world = World()
    cases = [Case(graph, row) for graph in several for row in ROWS[:2]]
    run_plan(measure_ablations(world.run, cases, max_runs=most, seed=seed))
    assert len(world.runs) <= most and len(set(world.runs)) == len(world.runs)


@given(st.permutations([Case(g, row) for g in (CHAIN, CHAIN.without_node("b")) for row in ROWS]), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_order_of_cases_does_not_matter(cases, most):
    evidence = run_plan(measure_ablations(World(noise=1.0).run, cases, max_runs=most, seed=1))
    assert evidence == run_plan(
        measure_ablations(World(noise=1.0).run, sorted(cases, key=lambda c: c.key), max_runs=most, seed=1)
    )


def test_finished_runs_are_not_repeated():
    world = World()
    without = CHAIN.without_node("b")
    done = {Case(CHAIN, ROWS[0]).key: 1.0, Case(without, ROWS[0]).key: 0.25}
    evidence = run_plan(measure_ablations(world.run, [Case(CHAIN, ROWS[0])], max_runs=0, done=done))
    assert not world.runs
    assert evidence.raw_means(CHAIN)["b"] == 0.75


def test_least_certain_part_is_measured_first():
    known = Evidence().with_deltas(Delta(Case(CHAIN, row), "a", 0.1 * n) for n, row in enumerate(ROWS))
    twin = Graph(
        (Node(name="x", role="solver"), Node(name="y", role="planner"), CHAIN["c"]), (("x", "c"), ("y", "c")), "c"
    )
    known = known.with_deltas(Delta(Case(twin, row), ("x", "c"), 0.1) for row in ROWS)
    done = {Case(twin, ROWS[0]).key: 0.0}
    for seed in range(5):
        after = run_plan(
            measure_ablations(World().run, [Case(twin, ROWS[0])], max_runs=1, seed=seed, known=known, done=done)
        )
        assert "y" in after.measured_parts(twin) and "x" not in after.measured_parts(twin)


# ---- pooling ---------------------------------------------------------------------------------------


def make_evidence(values: dict[str, Sequence[Sequence[float]]]) -> tuple[Evidence, dict[str, list[Graph]]]:
    """Evidence from differences by role, a list for each of its agents, each agent in a graph of its own."""
    deltas, made = [], {}
    for role, agents in values.items():
        pairs = [
            Graph((Node(name=f"{role}{n}", role=role), Node(name="end", role="judge")), ((f"{role}{n}", "end"),), "end")
            for n in range(len(agents))
        ]
        made[role] = pairs
        for n, (graph, xs) in enumerate(zip(pairs, agents, strict=True)):
            rows = [Example(f"r{i}", ()) for i in range(len(xs))]
            deltas += [Delta(Case(graph, row), f"{role}{n}", x) for row, x in zip(rows, xs, strict=True)]
    return Evidence().with_deltas(deltas), made


def test_one_bad_answer_does_not_outweigh_a_good_role():
    good = [[0.0, 1.0, 0.0, 1.0, 0.0]] * 6
    evidence, made = make_evidence({"solver": [*good, [-1.0]], "critic": [[0.0] * 5] * 4})
    assert evidence.raw_means(made["solver"][6])["solver6"] == -1
    assert evidence.shrunk_credit(made["solver"][6], "solver6") > 0


def test_single_difference_is_shrunk_towards_zero():
    evidence, made = make_evidence({"solver": [[-1.0]]})
    assert -0.6 < evidence.shrunk_credit(made["solver"][0], "solver0") < 0


def test_unmeasured_agent_gets_the_estimate_of_its_role():
    evidence, _ = make_evidence({"solver": [[1.0, 0.0] * 10] * 3, "critic": [[-1.0, 0.0] * 10] * 3})
    other = Graph((Node(name="new", role="critic"), Node(name="end", role="judge")), (("new", "end"),), "end")
    assert evidence.measured_parts(other) == ()
    assert -0.6 < evidence.shrunk_credit(other, "new") < -0.3


def test_nothing_is_shrunk_without_noise():
    evidence, made = make_evidence({"solver": [[0.5] * 4, [0.1] * 4], "critic": [[0.0] * 4]})
    guesses = [evidence.shrunk_credit(g, g.nodes[0].name) for pairs in made.values() for g in pairs]
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
def test_prior_strength_is_variance_within_over_between(families, expected):
    assert prior_strength(families) == pytest.approx(expected)


def test_samples_of_a_query_count_as_one_difference():
    world = World({"a": 0.5}, noise=0.1)
    cases = [Case(CHAIN, row, sample) for row in ROWS for sample in range(2)]
    evidence = run_plan(measure_ablations(world.run, cases))
    assert evidence.raw_means(CHAIN)["a"] == pytest.approx(0.5, abs=0.2)
    assert evidence.counts[CHAIN.version, "a"] == evidence.counts["solver",] == len(ROWS)
    assert evidence.counts["solver", "critic"] == len(ROWS)


# ---- process rewards -------------------------------------------------------------------------------


def test_emitted_rewards_are_added_to_node_credit():
    assert add_emitted_rewards({"a": 0.5, "b": 0.1}, {"a": 0.25, "c": -1.0}) == {"a": 0.75, "b": 0.1, "c": -1.0}


def test_emitted_reward_must_be_finite():
    with pytest.raises(RewardError, match="'a'"):
        add_emitted_rewards({}, {"a": float("nan")})


# ---- credit of a step ------------------------------------------------------------------------------


def make_spec(**settings) -> GraphSpec:
    rows = [{"id": f"q{n}", "n": n, "target": "right"} for n in range(6)]
    task = Task.from_rows(rows, prompt="Number {n}", id="id", splits={"train": 0.4, "validation": 0.3, "test": 0.3})
    rows = (*task.train, *task.validation, *task.test)
    queries = {row.id: Query(row.id, row.messages[-1].content, np.zeros(2, np.float32)) for row in rows}
    return GraphSpec(task, GraphConfig(model="scripted/x", **settings), queries=queries)


def model(request) -> str:
    """Only a reviser with an input knows the answer."""
    text = "\n".join(message.content for message in request.messages)
    return "RESULT: right" if "RESULT:" in text and INPUTS_TITLE in text else "wrong"


def test_trials_get_credit_and_pay_for_idle_agents():
    spec = make_spec(credit=4)
    row = spec.task.train[0]
    pair = Graph(
        (Node(name="solver", role="solver"), Node(name="reviser", role="reviser")), (("solver", "reviser"),), "reviser"
    )
    made = asyncio.run(drive(evaluate_drafts(spec, row, [Draft(pair), Draft(single())], 1), ScriptedClient(model)))
    (after,), _ = asyncio.run(drive(assign_credit(spec, [made], 1, Evidence()), ScriptedClient(model)))
    first, alone = after.trials.trials
    assert first.credit["reviser"] > 0 and first.credit["solver"] > 0
    assert first.parts["irrationality"] == 0 and not alone.credit
    assert first.parts["quality"] == 1 and first.reward > alone.reward


def test_repeated_row_is_measured_again_in_a_later_step():
    spec = make_spec(credit=4)
    pair, known = CHAIN.without_node("b"), Evidence()
    for step in (1, 2):
        plan = evaluate_drafts(spec, spec.task.train[0], [Draft(pair), Draft(single())], step)
        made = asyncio.run(drive(plan, ScriptedClient(model)))
        _, known = asyncio.run(drive(assign_credit(spec, [made], step, known), ScriptedClient(model)))
    assert sorted(d.case.sample for d in known.deltas if d.part == "c") == [1, 2]
    assert known.counts[pair.version, "c"] == 1


def test_evidence_is_carried_from_step_to_step():
    spec = make_spec(credit=0, inner=False)
    row = spec.task.train[0]
    pair = CHAIN.without_node("b")
    made = asyncio.run(drive(evaluate_drafts(spec, row, [Draft(pair)], 1), ScriptedClient(model)))
    known = Evidence().with_deltas([Delta(Case(pair, row), "a", -0.5)])
    (after,), evidence = asyncio.run(drive(assign_credit(spec, [made], 2, known), ScriptedClient(model)))
    assert set(after.trials.trials[0].credit) == {"a"}
    assert after.trials.trials[0].parts["irrationality"] == 1
    assert evidence == known


def test_inner_answers_serve_as_ablation_runs():
    spec, pair, client = make_spec(credit=0), CHAIN.without_node("b"), ScriptedClient(model)
    made = asyncio.run(drive(evaluate_drafts(spec, spec.task.train[0], [Draft(pair)], 1), client))
    requests = len(client.requests)
    (after,), evidence = asyncio.run(drive(assign_credit(spec, [made], 1, Evidence()), client))
    assert evidence.raw_means(pair)["c"] > 0.5 and set(after.trials.trials[0].credit) == {"c"}
    assert len(client.requests) == requests
