"""
What a graph run is worth: quality, less what it costs beyond one agent, less what in it is idle.

MasHost (arXiv 2506.08507) names the three parts and gives no formula, so this one is a reconstruction; `formula` says
it with its numbers. Everything is measured: irrationality is the share of agents and edges without worth (see
`mas.credit.ablation`), and only where none was measured does the structure have to tell.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from edgewise.mas.graph.graph import Graph
from edgewise.mas.graph.roles import CATALOGUE, Roles
from edgewise.toolkit.errors import ConfigError

Edge = tuple[str, str]

JOINS = 2
"""A role that must hear this many weighs answers against each other, so that equal ones before it are no waste."""


@dataclass(frozen=True, slots=True)
class RewardWeights:
    """
    How much the other parts count beside quality, both at least 0.

    `cost` is for each multiple of one agent's tokens beyond the first, `rationality` for a graph that is idle as a
    whole. They are small, so that they decide between graphs of like quality. Raises ConfigError for others.
    """

    cost: float = 0.02
    rationality: float = 0.05

    def __post_init__(self) -> None:
        for name, value in (("cost", self.cost), ("rationality", self.rationality)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"The weight of {name} must be a number from 0 on, not {value!r}.")


def render_formula(weights: RewardWeights) -> str:
    """The reward in one line, with its numbers."""
    return (
        f"reward = quality - {weights.cost:g} x (tokens / tokens of one plain agent on the same query - 1) "
        f"- {weights.rationality:g} x (share of measured agents and edges whose credit is not above 0)"
    )


def relative_cost(tokens: float, reference: float) -> float:
    """
    Tokens beyond one agent's, in multiples of it: 0 for as many, 1 for twice as many, below 0 for fewer.

    `tokens` are those of all agents, those included whose words were taken from another run: in use they are paid.
    `reference` is what one plain agent (`mas.graph.graph.single`) used on the same query with the same seed. It is linear,
    as the rival at equal tokens is: where a second vote is not free, a tenth is not either. Without a reference (the
    plain agent broke) nothing can be told, and it is 0.
    """
    return tokens / reference - 1.0 if reference > 0 else 0.0


def net_quality(weights: RewardWeights, quality: float, tokens: float, reference: float) -> float:
    """Quality less cost: the unit of credit. Irrationality follows from credit, so it is no part of it."""
    return net_quality_of(weights, {"quality": quality, "resources": relative_cost(tokens, reference)})


def net_quality_of(weights: RewardWeights, parts: Mapping[str, float]) -> float:
    """The same, from the parts of a reward as `reward` names them."""
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
    The reward of a run and its parts by name: "quality", "resources" and "irrationality", as they are unweighted.

    `credit` and `edge_credit` hold the agents and edges that were measured.
    """
    idle = compute_irrationality(graph, credit or {}, edge_credit or {}, roles)
    parts = {"quality": quality, "resources": relative_cost(tokens, reference), "irrationality": idle}
    return net_quality_of(weights, parts) - weights.rationality * idle, parts


def compute_irrationality(
    graph: Graph, credit: Mapping[str, float], edge_credit: Mapping[Edge, float], roles: Roles = CATALOGUE
) -> float:
    """The share of measured agents and edges whose credit is not above 0; where none was measured, `redundancy`."""
    measured = (*credit.values(), *edge_credit.values())
    if not measured:
        return compute_redundancy(graph, roles)
    return sum(value <= 0 for value in measured) / len(measured)


def compute_redundancy(graph: Graph, roles: Roles = CATALOGUE) -> float:
    """
    The share of agents that do what another does: the same in all but name, with the same inputs and hearers.

    Those heard by one that weighs several answers (a vote, a judge) are not counted: there it is the point.
    """
    twins = Counter(
        (node.model_copy(update={"name": "", "weight": 1.0}), graph.predecessors[node.name], graph.successors[node.name])
        for node in graph.nodes
        if not any(_joins(graph, hearer, roles) for hearer in graph.successors[node.name])
    )
    return sum(count - 1 for count in twins.values()) / len(graph)


def _joins(graph: Graph, name: str, roles: Roles) -> bool:
    role = roles.get(graph[name].role)
    return role is not None and role.hears >= JOINS
