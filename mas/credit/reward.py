"""
Reward of a graph run: quality, less the cost beyond one agent, less the share of idle parts.

MasHost (arXiv 2506.08507) names the three parts and gives no formula, so this one is a reconstruction;
`render_formula` prints it with its numbers. All parts are measured: irrationality is the share of agents and edges
without credit (see `mas.credit.ablation`). Only where none was measured, the structure of the graph stands in for it.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from edgewise.mas.graph.graph import Graph
from edgewise.mas.graph.roles import CATALOGUE, Roles
from edgewise.toolkit.errors import ConfigError

Edge = tuple[str, str]

# A role with so many inputs or more weighs answers against each other, so equal agents before it are no waste.
MIN_JOINED = 2


@dataclass(frozen=True, slots=True)
class RewardWeights:
    """
    Weights of the other parts beside quality, both at least 0.

    `cost` is for each multiple of one agent's tokens beyond the first, `rationality` for a graph that is idle as a
    whole. The defaults are small, so that they decide between graphs of like quality. Raises ConfigError for a weight
    that is negative or not finite.
    """

    cost: float = 0.02
    rationality: float = 0.05

    def __post_init__(self) -> None:
        for name, value in (("cost", self.cost), ("rationality", self.rationality)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"The weight of {name} must be a number from 0 on, not {value!r}.")


def render_formula(weights: RewardWeights) -> str:
    """Return the reward in one line, with its numbers."""
    return (
        f"reward = quality - {weights.cost:g} x (tokens / tokens of one plain agent on the same query - 1) "
        f"- {weights.rationality:g} x (share of measured agents and edges whose credit is not above 0)"
    )


def relative_cost(tokens: float, reference: float) -> float:
    """
    Return the tokens beyond one agent's, in multiples of it: 0 for as many, 1 for twice as many, below 0 for fewer.

    `tokens` are those of all agents, including agents whose output was reused from another run: in use they are paid.
    `reference` is what one plain agent (`mas.graph.graph.single`) used on the same query with the same seed. Without
    one (the plain agent failed) the cost is unknown and counts as 0.
    """
    # Linear, as the baseline at equal tokens is: where a second vote is not free, a tenth is not either.
    return tokens / reference - 1.0 if reference > 0 else 0.0


def net_quality(weights: RewardWeights, quality: float, tokens: float, reference: float) -> float:
    """Return quality less cost, the unit of credit. Irrationality follows from credit, so it is no part of it."""
    return net_quality_of(weights, {"quality": quality, "resources": relative_cost(tokens, reference)})


def net_quality_of(weights: RewardWeights, parts: Mapping[str, float]) -> float:
    """Return the net quality from the parts of a reward, as `compute_reward` names them."""
    return parts["quality"] - weights.cost * parts["resources"]


def compute_reward(
    weights: RewardWeights,
    quality: float,
    tokens: float,
    reference: float,
    graph: Graph,
    credit: Mapping[str, float] | None = None,
    edge_credit: Mapping[Edge, float] | None = None,
    roles: Roles = CATALOGUE,
) -> tuple[float, dict[str, float]]:
    """
    Return the reward of a run, and its unweighted parts: "quality", "resources" and "irrationality".

    `credit` and `edge_credit` hold the agents and edges that were measured.
    """
    idle = compute_irrationality(graph, credit or {}, edge_credit or {}, roles)
    parts = {"quality": quality, "resources": relative_cost(tokens, reference), "irrationality": idle}
    return net_quality_of(weights, parts) - weights.rationality * idle, parts


def compute_irrationality(
    graph: Graph, credit: Mapping[str, float], edge_credit: Mapping[Edge, float], roles: Roles = CATALOGUE
) -> float:
    """Return the share of measured agents and edges with no credit above 0; without measurements the redundancy."""
    credits = (*credit.values(), *edge_credit.values())
    if not credits:
        return compute_redundancy(graph, roles)
    return sum(value <= 0 for value in credits) / len(credits)


def compute_redundancy(graph: Graph, roles: Roles = CATALOGUE) -> float:
    """
    Return the share of agents that repeat another: equal in all but name, with the same inputs and successors.

    Agents before one that weighs several answers (a vote, a judge) don't count: there repetition is the point.
    """
    twins: Counter[object] = Counter()
    for node in graph.nodes:
        successors = graph.successors[node.name]
        if not any((role := roles.get(graph[x].role)) and role.hears >= MIN_JOINED for x in successors):
            anonymous = node.model_copy(update={"name": "", "weight": 1.0})
            twins[anonymous, graph.predecessors[node.name], successors] += 1
    return sum(count - 1 for count in twins.values()) / len(graph)
