"""
Whether measured credit finds what agents and edges contribute: simulated graphs with planted contributions.

A world has 24 random graphs of 4 to 7 agents in 14 roles. Each agent and each edge adds to the chance of a right
answer: a part that its role (or pair of roles) has everywhere, a third of them nothing at all, and a part of its own.
How much it adds differs by query, from nothing to twice as much, and queries differ in difficulty. An answer is right
or wrong, drawn anew for every graph, query and sample: no noise is taken away by shared seeds, as it would be in use.

The planted contribution of a part is what goes with it by the planted numbers: an agent with its own edges and its
tokens, an edge with the agents that are heard through it alone. `raw` is the mean of each part's own differences,
without pooling or shrinkage. `own` is the correlation with the number of the part itself, without what goes with it:
leaving out cannot tell the two apart, so `own_at_best` is what it would be without noise. `edges_alone` are those
that no agent is heard through alone, where both are the same. All runs count, those of whole graphs too.
"""

import statistics
import sys
from dataclasses import dataclass

import numpy as np
from common import quick, report

from edgewise.mas.credit.ablation import measure_ablations
from edgewise.mas.credit.evidence import Case, Evidence, Part
from edgewise.mas.credit.reward import RewardWeights, net_quality
from edgewise.mas.graph.graph import Graph, Node
from edgewise.mas.graph.roles import CATALOGUE
from edgewise.toolkit.types import Example, Message, Plan
from edgewise.toolkit.util.seeds import derive_seed
from tests.support.plans import play

ROLES = tuple(CATALOGUE)[:14]
GRAPHS, QUERIES, STEPS = 24, 240, 4
RUNS_PER_PART = (5, 20, 80, 160)
QUICK = (20, 160)
WEIGHTS = RewardWeights()
ROLE_SPREAD, OWN_SPREAD, EDGE_SPREAD, DIFFICULTY = 0.12, 0.05, 0.08, 0.15
IDLE = 1 / 3


@dataclass(frozen=True)
class World:
    """Planted numbers by name: of agents, of edges, tokens of agents, and how queries differ."""

    number: int
    graphs: tuple[Graph, ...]
    agents: dict[str, float]
    edges: dict[tuple[str, str], float]
    tokens: dict[str, float]
    swing: dict[Part, np.ndarray]
    difficulty: np.ndarray

    def total(self, graph: Graph) -> float:
        """The worth of a graph by the planted numbers, but for a constant."""
        added = sum(self.agents[n.name] for n in graph.nodes) + sum(self.edges.get(e, 0.0) for e in graph.edges)
        return net_quality(WEIGHTS, added, self._tokens(graph), 1.0)

    def _tokens(self, graph: Graph) -> float:
        return sum(self.tokens[node.name] for node in graph.nodes)

    def run(self, graph: Graph, example: Example, sample: int) -> Plan[float]:
        """One answer, right or wrong."""
        query = int(example.id)
        added = [self.agents[n.name] * self.swing[n.name][query] for n in graph.nodes]
        added += [self.edges[e] * self.swing[e][query] for e in graph.edges if e in self.edges]
        chance = float(np.clip(0.4 + self.difficulty[query] + sum(added), 0.02, 0.98))
        drawn = derive_seed(self.number, graph.version, query, sample) / 2**31
        return net_quality(WEIGHTS, float(drawn < chance), self._tokens(graph), 1.0)
        yield


def random_graph(rng: np.random.Generator, number: int) -> Graph:
    """Agents in a row, each hears some before it, and each but the last is heard by one after it."""
    size = int(rng.integers(4, 8))
    nodes = tuple(Node(name=f"g{number}n{i}", role=str(rng.choice(ROLES))) for i in range(size))
    pairs = {(i, j) for j in range(size) for i in range(j) if rng.random() < 0.3}
    pairs |= {(i, int(rng.integers(i + 1, size))) for i in range(size - 1) if not any(a == i for a, _ in pairs)}
    edges = tuple((nodes[i].name, nodes[j].name) for i, j in sorted(pairs))
    return Graph(nodes, edges, nodes[-1].name)


def planted(rng: np.random.Generator, kinds: list, spread: float, names: list) -> dict:
    """A number for each name: that of its kind, and one of its own unless the kind is idle."""
    shared = {each: 0.0 if rng.random() < IDLE else rng.normal(0, spread) for each in sorted(set(kinds))}
    own = rng.normal(0, OWN_SPREAD, len(names))
    return {n: shared[k] + (x if shared[k] else 0.0) for n, k, x in zip(names, kinds, own, strict=True)}


def world(number: int) -> World:
    rng = np.random.default_rng(number)
    graphs = tuple(random_graph(rng, n) for n in range(GRAPHS))
    nodes = [(node.name, node.role) for graph in graphs for node in graph.nodes]
    edges = [(e, (g[e[0]].role, g[e[1]].role)) for g in graphs for e in g.edges]
    names = [*(name for name, _ in nodes), *(edge for edge, _ in edges)]
    return World(
        number,
        graphs,
        planted(rng, [role for _, role in nodes], ROLE_SPREAD, [name for name, _ in nodes]),
        planted(rng, [kind for _, kind in edges], EDGE_SPREAD, [edge for edge, _ in edges]),
        {name: rng.uniform(0.5, 2.0) for name, _ in nodes},
        {name: rng.uniform(0, 2, QUERIES) for name in names},
        rng.normal(0, DIFFICULTY, QUERIES),
    )


def parts_of(found: World) -> list[tuple[Graph, Part, float, float]]:
    """Every part that can be left out, with what goes with it and its own number."""
    parts = []
    for graph in found.graphs:
        for node in graph.nodes:
            if (left := graph.without_node(node.name)) is not None:
                parts.append((graph, node.name, found.total(graph) - found.total(left), found.agents[node.name]))
        for edge in graph.edges:
            left = graph.without_edge(edge)
            parts.append((graph, edge, found.total(graph) - found.total(left), found.edges[edge]))
    return parts


def learn(found: World, runs: int) -> Evidence:
    """What is known after so many runs, in steps with queries of their own."""
    evidence, size = Evidence(), QUERIES // STEPS
    for step in range(STEPS):
        rows = [Example(str(q), (Message("user", ""),)) for q in range(step * size, (step + 1) * size)]
        cases = [Case(graph, row) for graph in found.graphs for row in rows]
        made = measure_ablations(found.run, cases, max_runs=runs // STEPS, seed=step, known=evidence)
        evidence = play(made, lambda request: "")
    return evidence


def correlation(a: list[float], b: list[float]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic) if len(set(a)) > 1 else 0.0


def figures_of(number: int, per_part: int) -> dict[str, float]:
    """Correlations in one world."""
    found = world(number)
    parts = parts_of(found)
    evidence = learn(found, per_part * len(parts))
    result = {}
    for sort, nodes in (("agents", True), ("edges", False)):
        chosen = [each for each in parts if isinstance(each[1], str) == nodes]
        guess = [evidence.shrunk_credit(graph, part) for graph, part, _, _ in chosen]
        raw = [evidence.raw_means(graph).get(part, 0.0) for graph, part, _, _ in chosen]
        result[sort] = correlation(guess, [with_all for _, _, with_all, _ in chosen])
        result[f"{sort}_raw"] = correlation(raw, [with_all for _, _, with_all, _ in chosen])
        own = [number for _, _, _, number in chosen]
        result[f"{sort}_own"] = correlation(guess, own)
        result[f"{sort}_own_at_best"] = correlation([with_all for _, _, with_all, _ in chosen], own)
    alone = [x for x in parts if not isinstance(x[1], str) and len(x[0].without_edge(x[1])) == len(x[0])]
    guess = [evidence.shrunk_credit(graph, part) for graph, part, _, _ in alone]
    return {**result, "edges_alone": correlation(guess, [own for _, _, _, own in alone])}


def main() -> int:
    worlds, sizes = (2, QUICK) if quick() else (10, RUNS_PER_PART)
    figures = {}
    for size in sizes:
        every = [figures_of(number, size) for number in range(worlds)]
        figures[f"{size}_runs_a_part"] = {
            name: round(statistics.median(each[name] for each in every), 3) for name in every[0]
        }
        print(size, figures[f"{size}_runs_a_part"], file=sys.stderr)
    last = figures[f"{sizes[-1]}_runs_a_part"]
    figures |= {"worlds": worlds, "parts_a_world": statistics.median(len(parts_of(world(n))) for n in range(worlds))}
    holds = min(last["agents"], last["edges"]) >= 0.8
    return report("credit", figures, "rank correlation of measured credit >= 0.8", holds)


if __name__ == "__main__":
    sys.exit(main())
