"""
Simulated tasks for agent graphs: what an agent says is as good as its role, and as what it hears.

    q(agent) = own + sum over those it hears of lift(role, heard) * q(heard)

clipped to [0, 0.95]. The best two of those that it hears lift it, for serial roles the best one; two of a role do so
only where `REPEATS` says it; every other one that it hears distracts. A debater that has heard debaters is an echo. The
run is right with probability q of the exit where its role answers; the reward is that coin minus `COST` for each
agent. The true value is the same without the coin.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgewise.mas.designs.patterns import chain, debate
from edgewise.mas.graph.construction import Space
from edgewise.mas.graph.graph import Graph, Node

ROLES = (
    "solver",
    "reasoner",
    "planner",
    "programmer",
    "researcher",
    "debater",
    "critic",
    "verifier",
    "reviser",
    "summariser",
    "judge",
    "majority",
)
HEARS = (0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2)
SPACE = Space(ROLES, HEARS, agents=6, moves=12)
COST, DISTRACTION = 0.03, 0.02
NO_ANSWER = {"planner", "critic"}
"""Roles whose word is no answer: as the exit they are hardly ever right."""
SERIAL = {"critic", "verifier", "reviser", "summariser"}
REPEATS = {("debater", "debater"), ("judge", "debater")} | {("majority", x) for x in ("solver", "reasoner", "debater")}


@dataclass(frozen=True)
class Simulated:
    """A task: how good roles are alone, what hearing whom adds, and the best graph."""

    name: str
    own: dict[str, float]
    lift: dict[tuple[str, str], float]
    best: Graph
    pool: tuple[str, ...]
    """Agents for a searcher of edges: every role once, and more where the best graph has more; in a good order."""

    def value(self, graph: Graph) -> float:
        """What a run of the graph gets in the mean."""
        chance: dict[str, float] = {}
        for name in graph.order:
            chance[name] = self._chance(graph, name, chance)
        role = graph[graph.exit].role
        right = chance[graph.exit] if role not in NO_ANSWER else 0.05
        return right - COST * len(graph)

    def _chance(self, graph: Graph, name: str, chance: dict[str, float]) -> float:
        role, lifted = graph[name].role, []
        total = self.own.get(role, 0.0)
        for heard in sorted(graph.predecessors[name], key=lambda other: -chance[other]):
            other = graph[heard].role
            lift = self.lift.get((role, other), 0.0)
            echo = role == other and any(graph[x].role == role for x in graph.predecessors[heard])
            again = other in lifted and (role, other) not in REPEATS
            if not lift or echo or again or len(lifted) == (1 if role in SERIAL else 2):
                total -= DISTRACTION
            else:
                total += lift * chance[heard]
                lifted.append(other)
        return float(np.clip(total, 0.0, 0.95))

    def beside(self, graphs: Sequence[Graph], rng: np.random.Generator) -> list[tuple[Graph, float]]:
        """
        The graphs that end at inner agents whose roles answer, each once, with what one run of it gets.

        These coins are drawn apart from those of the graphs around them.
        """
        smaller = {
            inner.version: inner
            for graph in graphs
            for node in graph.nodes
            if node.name != graph.exit and node.role not in NO_ANSWER
            for inner in [graph.subgraph_to(node.name)]
        }
        drafted = {graph.version for graph in graphs}
        return [(graph, self.reward(graph, rng)) for key, graph in smaller.items() if key not in drafted]

    def reward(self, graph: Graph, rng: np.random.Generator) -> float:
        """One run."""
        value = self.value(graph)
        right = value + COST * len(graph)
        return float(rng.random() < right) - COST * len(graph)


ALONE = {"solver": 0.35, "reasoner": 0.40, "programmer": 0.30, "researcher": 0.20, "debater": 0.30, "planner": 0.9}

CHAIN = Simulated(
    "chain",
    ALONE | {"critic": 0.2, "reviser": 0.2},
    {
        ("programmer", "planner"): 0.35,
        ("reasoner", "planner"): 0.10,
        ("critic", "programmer"): 0.80,
        ("critic", "reasoner"): 0.60,
        ("critic", "solver"): 0.50,
        ("reviser", "critic"): 1.05,
        ("reviser", "programmer"): 0.50,
        ("reviser", "reasoner"): 0.50,
        ("verifier", "programmer"): 0.90,
        ("verifier", "reviser"): 0.95,
        ("verifier", "reasoner"): 0.90,
        ("majority", "solver"): 0.55,
        ("majority", "reasoner"): 0.55,
        ("judge", "reasoner"): 0.55,
        ("judge", "programmer"): 0.55,
    },
    chain("planner", "programmer", "critic", "reviser"),
    (
        "planner",
        "solver",
        "reasoner",
        "researcher",
        "debater",
        "programmer",
        "majority",
        "judge",
        "verifier",
        "summariser",
        "critic",
        "reviser",
    ),
)

_DIAMOND = ("planner", "programmer", "researcher", "judge")
DIAMOND = Simulated(
    "diamond",
    ALONE | {"programmer": 0.25, "judge": 0.1},
    {
        ("programmer", "planner"): 0.30,
        ("researcher", "planner"): 0.35,
        ("reasoner", "planner"): 0.05,
        ("judge", "programmer"): 0.75,
        ("judge", "researcher"): 0.75,
        ("judge", "reasoner"): 0.40,
        ("judge", "solver"): 0.40,
        ("majority", "solver"): 0.55,
        ("majority", "reasoner"): 0.55,
        ("verifier", "programmer"): 0.95,
        ("reviser", "critic"): 0.90,
        ("critic", "programmer"): 0.70,
        ("critic", "reasoner"): 0.60,
    },
    Graph(
        tuple(Node(name=role, role=role) for role in _DIAMOND),
        (("planner", "programmer"), ("planner", "researcher"), ("programmer", "judge"), ("researcher", "judge")),
        "judge",
    ),
    (
        "planner",
        "solver",
        "reasoner",
        "debater",
        "programmer",
        "researcher",
        "critic",
        "reviser",
        "verifier",
        "summariser",
        "majority",
        "judge",
    ),
)

DEBATE = Simulated(
    "debate",
    ALONE | {"judge": 0.1},
    {
        ("debater", "debater"): 0.50,
        ("judge", "debater"): 0.60,
        ("judge", "reasoner"): 0.40,
        ("judge", "solver"): 0.40,
        ("judge", "programmer"): 0.40,
        ("majority", "debater"): 0.45,
        ("majority", "solver"): 0.50,
        ("majority", "reasoner"): 0.50,
        ("verifier", "reasoner"): 0.90,
        ("verifier", "debater"): 0.90,
        ("reviser", "critic"): 0.90,
        ("critic", "debater"): 0.60,
        ("programmer", "planner"): 0.10,
    },
    debate(2),
    (
        "planner",
        "solver",
        "reasoner",
        "programmer",
        "researcher",
        "debater",
        "debater",
        "debater",
        "debater",
        "critic",
        "reviser",
        "verifier",
        "summariser",
        "majority",
        "judge",
    ),
)

TASKS = (CHAIN, DIAMOND, DEBATE)
