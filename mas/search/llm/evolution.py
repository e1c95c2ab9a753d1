"""
Graphs edited by a model, one parent and one change at a time (AFlow: Zhang et al. 2024, arXiv 2410.10762).

A pool holds graphs with their ratings. A parent is sampled from the best of them; the model sees it with its score,
the tasks of its lowest rewards and the changes tried before, and writes a changed graph. As in AFlow's code

    P(parent) = lambda / n + (1 - lambda) softmax(alpha (score - max)),   lambda 0.3, alpha 0.2, scores times 100

over the first graph and the `PARENTS` best. Unlike AFlow, a round has several children, which are written at the same
time and tried on the same queries, and scores are corrected for hard queries (`mas.search.llm.ranking`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.designs.interface import Draft, Query, TrialGroup
from edgewise.mas.graph.construction import Space
from edgewise.mas.graph.edits import canonicalize, random_edit
from edgewise.mas.graph.graph import Graph, single
from edgewise.mas.graph.roles import Roles
from edgewise.mas.search.llm import graph_writer, ranking
from edgewise.mas.search.llm.graph_writer import WrittenGraph
from edgewise.mas.search.llm.ranking import GraphRating, TrialRecord
from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.types import BilledTo, Message, Plan, Request, Sampling
from edgewise.toolkit.util.seeds import derive_seed

UNIFORM, SHARPNESS, PARENTS = 0.3, 0.2, 4
# One draft in so many tries a graph of the pool again: those with the highest upper bounds.
RETRY_SHARE = 4
MAX_FAILURES, MAX_TASK_CHARS = 3, 400
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
    Searches by edits of `model`, from one plain agent on.

    `problems` counts the replies that could not be used, by their problem; a random edit replaces a reply that could
    not be used twice.
    """

    space: Space
    roles: Roles
    model: str
    pool: dict[str, PoolEntry] = field(default_factory=dict)
    records: list[TrialRecord] = field(default_factory=list)
    tasks: dict[str, str] = field(default_factory=dict)
    credit: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if not self.pool:
            first = single(self.space.roles[0])
            self.pool = {first.version: PoolEntry(first)}

    # ---- the searcher ------------------------------------------------------------------------------

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """Return the same graphs for each query: those not tried yet, the most promising ones again, and new ones."""
        ratings = ranking.rate_graphs(self.records)
        promising = sorted(ratings, key=lambda version: -ratings[version].high)
        untried = [version for version in self.pool if version not in ratings]
        old = [*untried, *promising[: size // RETRY_SHARE]][:size]
        yield from self._add_children(size - len(old), ratings, seed)
        new = [version for version in self.pool if version not in ratings and version not in untried]
        # Promising graphs fill up where the model wrote too few.
        order = list(dict.fromkeys([*old, *new, *promising]))
        drafts = [Draft(self.pool[order[i % len(order)]].graph) for i in range(size)]
        return [drafts for _ in queries]

    def learn(self, groups: Sequence[TrialGroup], seed: int) -> Plan[None]:
        """Record rewards, the texts of queries, and the measured credit of agents."""
        self.records += ranking.list_records(groups)
        for group in groups:
            self.tasks[group.query.id] = group.query.text[:MAX_TASK_CHARS]
            for trial in group.trials:
                graph = trial.draft.graph
                self.pool.setdefault(graph.version, PoolEntry(graph))
                of_graph = self.credit.setdefault(graph.version, {})
                for node, value in trial.credit.items():
                    of_graph.setdefault(node, []).append(value)
        return
        yield

    def design(self) -> FixedDesign:
        """Return the graph with the best lower bound; the first one before any trial."""
        if not self.records:
            return FixedDesign(next(iter(self.pool.values())).graph)
        return FixedDesign(self.pool[ranking.best_rated(ranking.rate_graphs(self.records))].graph)

    # ---- children ----------------------------------------------------------------------------------

    def _add_children(self, count: int, ratings: Mapping[str, GraphRating], seed: int) -> Plan[None]:
        """Sample parents, and add a child of each to the pool."""
        first = next(iter(self.pool))
        best = sorted(ratings, key=lambda version: -ratings[version].mean)[:PARENTS]
        candidates = [version for version in dict.fromkeys([first, *best]) if version in ratings]
        rngs = [np.random.default_rng(derive_seed(seed, "evolve", n)) for n in range(count)]
        parents = [first] * count
        if candidates:
            p = parent_probabilities([ratings[version].mean for version in candidates])
            parents = [candidates[rng.choice(len(candidates), p=p)] for rng in rngs]
        written = yield [self._write_child(parent, ratings, n, seed) for n, parent in enumerate(parents)]

        # A random edit takes the place of a child that could not be used or that a sibling repeats.
        for parent, child, rng in zip(parents, written, rngs, strict=True):
            self.problems.update(child.problems)
            graph, change = child.graph, child.why
            if graph is None or graph.version in self.pool:
                graph = random_edit(self.pool[parent].graph, self.roles, self.space.agents, rng, self.pool)
                change = "a random edit"
            if graph is not None:
                self.pool[graph.version] = PoolEntry(graph, parent, change)

    def _write_child(
        self, parent: str, ratings: Mapping[str, GraphRating], number: int, seed: int
    ) -> Plan[WrittenGraph]:
        """Ask the model for a changed graph that is not in the pool."""
        system = TASK + graph_writer.render_instructions(self.roles, self.space.agents)
        user = self._describe_parent(parent, ratings)
        request = Request(
            self.model,
            (Message("system", system), Message("user", user)),
            replace(DESIGNING, seed=derive_seed(seed, "child", number)),
            sample=number,
            payer=BilledTo("designer"),
        )

        def accept(child: Graph) -> Graph:
            child = canonicalize(inherit_settings(child, self.pool[parent].graph))
            if child.version in self.pool:
                raise GraphError("This graph was tried already.")
            return child

        return (yield from graph_writer.request_graph(request, self.roles, self.space.agents, accept))

    def _describe_parent(self, parent: str, ratings: Mapping[str, GraphRating]) -> str:
        """Return the graph, its rating, the credit of its agents, its worst tasks, and its children so far."""

        def render_rating(rating: GraphRating) -> str:
            return f"mean reward {rating.mean:.2f} +- {rating.deviation:.2f} in {rating.trials} trials"

        parts = [f"# Team\n{graph_writer.render_graph(self.pool[parent].graph)}"]
        if parent in ratings:
            parts.append(f"# How it did\n{render_rating(ratings[parent])}")
        if credit := self.credit.get(parent):
            lines = [f"- {name}: {np.mean(values):+.3f}" for name, values in credit.items()]
            parts.append("# Reward that is lost without an agent\n" + "\n".join(lines))
        own = sorted((r for r in self.records if r.graph == parent), key=lambda r: r.reward)
        if worst := own[:MAX_FAILURES]:
            tasks = [f"## Reward {r.reward:.2f}\n{self.tasks[r.query]}" for r in worst]
            parts.append("\n\n".join(["# Tasks it did worst on", *tasks]))
        children = [(m.change, ratings[v]) for v, m in self.pool.items() if m.parent == parent and v in ratings]
        if children:
            lines = [f"- {change or 'a change'}: {render_rating(rating)}" for change, rating in children]
            parts.append("# Changes of this team that were tried\n" + "\n".join(lines))
        return "\n\n".join(parts)


def parent_probabilities(scores: Sequence[float]) -> np.ndarray:
    """Return AFlow's probabilities [n] of parents, by their scores from 0 to 1."""
    points = 100 * np.asarray(scores, float)
    soft = np.exp(SHARPNESS * (points - points.max()))
    return UNIFORM / len(points) + (1 - UNIFORM) * soft / soft.sum()


def inherit_settings(child: Graph, parent: Graph) -> Graph:
    """Return the child with what the model did not see of the parent's agents: model, tools, lessons, weight."""
    by_name = {(node.name, node.role): node for node in parent.nodes}
    nodes = []
    for node in child.nodes:
        original = by_name.get((node.name, node.role))
        nodes.append(original.model_copy(update={"prompt": node.prompt}) if original else node)
    return replace(child, nodes=tuple(nodes))
