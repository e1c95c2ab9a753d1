import pytest

from edgewise.mas.credit.reward import (
    RewardWeights,
    compute_irrationality,
    compute_redundancy,
    compute_reward,
    render_formula,
)
from edgewise.mas.graph.graph import Graph, Node, single
from edgewise.toolkit.errors import ConfigError

PAIR = Graph((Node(name="a", role="solver"), Node(name="b", role="reviser")), (("a", "b"),), "b")


def fan(role: str, exit_role: str, **different) -> Graph:
    """Two agents of a role before one exit."""
    nodes = (Node(name="a", role=role), Node(name="b", role=role, **different), Node(name="c", role=exit_role))
    return Graph(nodes, (("a", "c"), ("b", "c")), "c")


def test_reward_is_quality_less_cost_less_irrationality():
    value, parts = compute_reward(
        RewardWeights(0.1, 0.5), 1.0, 300, 100, PAIR, {"a": 0.3, "b": 0.0}, {("a", "b"): 0.2, ("x", "y"): -1}
    )
    assert parts == {"quality": 1.0, "resources": 2.0, "irrationality": 0.5}
    assert value == pytest.approx(1.0 - 0.1 * 2 - 0.5 * 0.5)


@pytest.mark.parametrize(("tokens", "expected"), [(50, 1.01), (100, 1.0), (200, 0.98), (1100, 0.8)])
def test_cost_is_linear_in_tokens(tokens, expected):
    assert compute_reward(RewardWeights(), 1.0, tokens, 100, single())[0] == pytest.approx(expected)


def test_cost_is_zero_without_a_reference():
    assert compute_reward(RewardWeights(), 0.5, 100, 0, single())[0] == 0.5


def test_formula_contains_its_numbers():
    assert "0.02" in render_formula(RewardWeights()) and "0.07" in render_formula(RewardWeights(rationality=0.07))


def test_measured_credit_replaces_redundancy():
    twins = fan("planner", "solver")
    assert compute_irrationality(twins, {}, {}) == pytest.approx(1 / 3)
    assert compute_irrationality(twins, {"a": 0.1, "b": 0.1}, {}) == 0


@pytest.mark.parametrize(
    ("graph", "share"),
    [
        (single(), 0),
        (PAIR, 0),
        (fan("planner", "reviser"), 1 / 3),
        (fan("planner", "reviser", prompt="another"), 0),
        (fan("solver", "majority"), 0),
        (fan("solver", "judge"), 0),
    ],
)
def test_twins_are_redundant_unless_weighed_against_each_other(graph, share):
    assert compute_redundancy(graph) == pytest.approx(share)


@pytest.mark.parametrize("wrong", [{"cost": -0.1}, {"rationality": float("nan")}, {"cost": float("inf")}])
def test_weights_must_be_finite_and_not_negative(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RewardWeights(**wrong)
