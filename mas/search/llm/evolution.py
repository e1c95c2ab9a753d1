"""
Graphs edited by a model, one parent and one change at a time (AFlow: Zhang et al. 2024, arXiv 2410.10762).

A pool of graphs with what is thought of each. A parent is drawn from the best of them, a model is shown it with its
score, the tasks that it did worst on and what was tried on it before, and writes a changed graph. As in AFlow's code

    P(parent) = lambda / n + (1 - lambda) softmax(alpha (score - max)),   lambda 0.3, alpha 0.2, scores times 100

over the first graph and the `PARENTS` best. Unlike AFlow a round has several children, which are written at the same
time and tried on the same queries, and scores are seen apart from how hard the queries were (`mas.search.llm.ranking`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.designs.interface import Draft, Query, TrialGroup
from edgewise.mas.graph.construction import Space
from edgewise.mas.graph.edits import random_edit, canonicalize
from edgewise.mas.graph.graph import Graph, single
from edgewise.mas.graph.roles import Roles
from edgewise.mas.search.llm import ranking
from edgewise.mas.search.llm.graph_writer import WrittenGraph, request_graph, render_instructions, render_graph
from edgewise.mas.search.llm.ranking import TrialRecord, GraphRating
from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.types import BilledTo, Message, Plan, Request, Sampling
from edgewise.toolkit.util.seeds import derive_seed

UNIFORM, SHARPNESS, PARENTS = 0.3, 0.2, 4
AGAIN = 4
"""One draft in so many tries a graph of the pool again: the most promising ones."""
FAILURES, CLIPPED = 3, 400
DESIGNING = Sampling(temperature=0.7, max_tokens=1024)

TASK = """\
You improve a team of agents that work on tasks. You are shown a team, how it did, and what was tried on it. Change \
one thing that should raise its mean reward on all such tasks: add, remove or replace an agent, change who hears whom, \
add or drop a loop, or write a better prompt for one agent. Do not repeat a change that was tried.

"""


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """A graph of the pool, the version of the graph that it was made from ("" for none), and the change."""

    graph: Graph
    parent: str = ""
    change: str = ""


@dataclass
class Evolution:
    """
    Searches by a model's edits. `model` writes them; `start` are the first graphs, one agent where there is none.

    `problems` counts the replies that could not be used, by what was wrong; a random edit takes the place of one that
    could not be used twice.
    """

    space: Space
    roles: Roles
    model: str
    start: tuple[Graph, ...] = ()
    sampling: Sampling = DESIGNING
    pool: dict[str, PoolEntry] = field(default_factory=dict)
    records: list[TrialRecord] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    worth: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if not self.pool:
            first = self.start or (single(self.space.roles[0]),)
            self.pool = {graph.version: PoolEntry(graph) for graph in first}

    # ---- the searcher ------------------------------------------------------------------------------

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """The same graphs for each query: those not tried yet, the most promising ones again, and new ones."""
        known = ranking.rate_graphs(self.records)
        promising = sorted(known, key=lambda version: -known[version].high)
        untried = [version for version in self.pool if version not in known]
        old = [*untried, *promising[: size // AGAIN]][:size]
        yield from self._grow(size - len(old), known, seed)
        new = [version for version in self.pool if version not in known and version not in untried]
        turn = list(dict.fromkeys([*old, *new, *promising]))
        drafts = [Draft(self.pool[turn[i % len(turn)]].graph) for i in range(size)]
        return [drafts for _ in queries]

    def learn(self, groups: Sequence[TrialGroup], seed: int) -> Plan[None]:
        """Remember rewards, the texts of queries, and what agents were measured to be worth."""
        self.records += ranking.list_records(groups)
        for group in groups:
            self.texts[group.query.id] = group.query.text[:CLIPPED]
            for trial in group.trials:
                self.pool.setdefault(trial.draft.graph.version, PoolEntry(trial.draft.graph))
                found = self.worth.setdefault(trial.draft.graph.version, {})
                for node, value in trial.credit.items():
                    found.setdefault(node, []).append(value)
        return
        yield

    def design(self) -> FixedDesign:
        """The graph that is most likely good; the first one before any trial."""
        best = ranking.best_rated(ranking.rate_graphs(self.records)) if self.records else next(iter(self.pool))
        return FixedDesign(self.pool[best].graph)

    # ---- children ----------------------------------------------------------------------------------

    def _grow(self, children: int, known: Mapping[str, GraphRating], seed: int) -> Plan[None]:
        """Put so many new graphs into the pool."""
        rngs = [np.random.default_rng(derive_seed(seed, "evolve", n)) for n in range(children)]
        parents = [self._parent(known, rng) for rng in rngs]
        written = yield [self._child(parent, known, n, seed) for n, parent in enumerate(parents)]
        for parent, child, rng in zip(parents, written, rngs, strict=True):
            self.problems.update(child.problems)
            self._join(parent, child, rng)

    def _join(self, parent: str, child: WrittenGraph, rng: np.random.Generator) -> None:
        """Take a child into the pool; in place of none, or of one like its sister, a random edit."""
        graph, why = child.graph, child.why
        if graph is None or graph.version in self.pool:
            graph = random_edit(self.pool[parent].graph, self.roles, self.space.agents, rng, self.pool)
            why = "a random edit"
        if graph is not None:
            self.pool[graph.version] = PoolEntry(graph, parent, why)

    def _parent(self, known: Mapping[str, GraphRating], rng: np.random.Generator) -> str:
        first = next(iter(self.pool))
        best = sorted(known, key=lambda version: -known[version].mean)[:PARENTS]
        among = [version for version in dict.fromkeys([first, *best]) if version in known]
        if not among:
            return first
        return among[rng.choice(len(among), p=parent_probabilities([known[version].mean for version in among]))]

    def _child(self, parent: str, known: Mapping[str, GraphRating], number: int, seed: int) -> Plan[WrittenGraph]:
        graph = self.pool[parent].graph
        messages = (
            Message("system", TASK + render_instructions(self.roles, self.space.agents)),
            Message("user", self._told(parent, known)),
        )
        sampling = replace(self.sampling, seed=derive_seed(seed, "child", number))
        request = Request(self.model, messages, sampling, sample=number, payer=BilledTo("designer"))

        def new(child: Graph) -> Graph:
            child = canonicalize(inherit_settings(child, graph))
            if child.version in self.pool:
                raise GraphError("This graph was tried already.")
            return child

        return (yield from request_graph(request, self.roles, self.space.agents, new))

    def _told(self, parent: str, known: Mapping[str, GraphRating]) -> str:
        """What the model is shown of a graph."""
        parts = [f"# Team\n{render_graph(self.pool[parent].graph)}"]
        if parent in known:
            parts.append(f"# How it did\n{_scored(known[parent])}")
        if worth := self.worth.get(parent):
            lines = [f"- {name}: {np.mean(values):+.3f}" for name, values in worth.items()]
            parts.append("# Reward that is lost without an agent\n" + "\n".join(lines))
        if worst := sorted((r for r in self.records if r.graph == parent), key=lambda r: r.reward)[:FAILURES]:
            tasks = [f"## Reward {r.reward:.2f}\n{self.texts[r.query]}" for r in worst]
            parts.append("\n\n".join(["# Tasks it did worst on", *tasks]))
        tried = [(m.change, known[v]) for v, m in self.pool.items() if m.parent == parent and v in known]
        if tried:
            lines = [f"- {change or 'a change'}: {_scored(outcome)}" for change, outcome in tried]
            parts.append("# Changes of this team that were tried\n" + "\n".join(lines))
        return "\n\n".join(parts)


def parent_probabilities(scores: Sequence[float]) -> np.ndarray:
    """(n,) AFlow's chances of parents by their scores from 0 to 1."""
    points = 100 * np.asarray(scores, float)
    soft = np.exp(SHARPNESS * (points - points.max()))
    return UNIFORM / len(points) + (1 - UNIFORM) * soft / soft.sum()


def inherit_settings(child: Graph, parent: Graph) -> Graph:
    """The child, with what its agents have of the parent's that is not written: model, tools, lessons, weight."""
    known = {(node.name, node.role): node for node in parent.nodes}
    nodes = tuple(
        known[node.name, node.role].model_copy(update={"prompt": node.prompt})
        if (node.name, node.role) in known
        else node
        for node in child.nodes
    )
    return replace(child, nodes=nodes)


def _scored(found: GraphRating) -> str:
    return f"mean reward {found.mean:.2f} +- {found.deviation:.2f} in {found.trials} trials"
