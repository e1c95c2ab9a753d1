"""
Lessons on how to build a team: MasHost's comparison of the graphs of one query, in words instead of gradients.

A model designs graphs for each query from the roles and a library of lessons. Graphs of one query with different
rewards are compared, winners against losers, and lessons are drawn from that by the operations that Training-Free
GRPO has (arXiv 2510.08191; `experience.distil.distiller`, `experience.library.operations`).

The design that comes out asks no model: a table with the best graph for each kind of query that was seen.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgewise.experience.distil import distiller as distil
from edgewise.experience.distil.distiller import Comparison, Distiller, UnreadableReply
from edgewise.experience.guard.guard import Guard
from edgewise.experience.library import operations
from edgewise.experience.library.library import Library
from edgewise.mas.designs.clustered import ClusteredDesign, cluster_queries
from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.designs.interface import Design, Draft, Query, Trial, TrialGroup
from edgewise.mas.graph.construction import Space
from edgewise.mas.graph.edits import random_edit, canonicalize
from edgewise.mas.graph.graph import Graph, single
from edgewise.mas.graph.roles import Roles
from edgewise.mas.search.llm import ranking
from edgewise.mas.search.llm.graph_writer import WrittenGraph, request_graph, render_instructions
from edgewise.mas.search.llm.ranking import TrialRecord
from edgewise.toolkit.types import BilledTo, Example, Message, Plan, Request, Rollout, Sampling, Score, Step
from edgewise.toolkit.util.seeds import derive_seed

DESIGNING = Sampling(temperature=0.7, max_tokens=1024)
DISTILLING = Sampling(temperature=0.0, max_tokens=2048)
LESSONS, TOKENS = 32, 3000

TASK = """\
You design a team of agents for the task that you are shown. Do not solve the task.

"""
COMPARE = """\
You compare several teams of agents that worked on the same task, and write lessons on how to build a team for other \
tasks of the same kind. Say what in the structure separates the teams of high reward from those of low reward: which \
roles are there, who hears whom, who answers at the end, how many agents there are. A lesson names a condition that \
can be seen in the task and says exactly which roles to use then and how to connect them. It must be general: never \
mention this task's names or numbers, nor the numbers of attempts.
Propose at most {operations} operations; each lesson has at most {words} words. Propose nothing that the current \
lessons already say; mend or delete a current lesson that misled a team.
"""


@dataclass
class LessonSearch:
    """
    Searches by lessons. `model` designs, and distils too unless a `distiller` is given.

    `asked` is how many designs of a query the model is asked for at most; the other drafts are random edits of them.
    `kinds` is how many kinds of query the design tells apart at most. `guard` checks lessons before they enter; give
    one that knows the training rows. `encoder` is the name of what made the queries' features. `problems` counts
    replies that could not be used, and lessons that were not taken, by what was wrong.
    """

    space: Space
    roles: Roles
    model: str
    encoder: str = ""
    distiller: Distiller | None = None
    guard: Guard | None = field(default_factory=Guard.from_examples)
    asked: int = 4
    kinds: int = 8
    sampling: Sampling = DESIGNING
    library: Library = field(default_factory=Library)
    graphs: dict[str, Graph] = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)
    records: list[TrialRecord] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    steps: int = 0

    # ---- the searcher ------------------------------------------------------------------------------

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """Different graphs for each query: what the table has, what the model designs, and random edits of these."""
        usual = self.design().graphs(queries)
        written = yield [self._designs(query, min(self.asked, size), seed) for query in queries]
        found = []
        for query, first, designs in zip(queries, usual, written, strict=True):
            self.problems.update(problem for each in designs for problem in each.problems)
            rng = np.random.default_rng(derive_seed(seed, "edits", query.id))
            graphs = [first, *(each.graph for each in designs if each.graph is not None)]
            found.append([Draft(graph) for graph in self._different(graphs, size, rng)])
        return found

    def learn(self, groups: Sequence[TrialGroup], seed: int) -> Plan[None]:
        """Remember the rewards, compare the graphs of each query, and bring the lessons into the library."""
        self.steps += 1
        self.records += ranking.list_records(groups)
        for group in groups:
            self.features[group.query.id] = group.query.features
            self.graphs.update((t.draft.graph.version, t.draft.graph) for t in group.trials)
        mixed = [group for group in groups if len({trial.reward for trial in group.trials}) > 1]
        compared = yield [self._compared(group) for group in mixed]
        yield from self._update([op for each in compared for op in each.proposals])

    def design(self) -> Design:
        """The best graph of each kind of query, and of all where the kind is not enough to tell."""
        if not self.records:
            return FixedDesign(single(self.space.roles[0]))
        centres, kinds = cluster_queries(np.stack(list(self.features.values())), self.kinds)
        kind_of = dict(zip(self.features, kinds.tolist(), strict=True))
        expected = {version: found.mean for version, found in ranking.rate_graphs(self.records).items()}
        choices = []
        for kind in range(len(centres)):
            own = [record for record in self.records if kind_of[record.query] == kind]
            choices.append(self.graphs[ranking.best_rated(ranking.rate_graphs(own, expected))])
        return ClusteredDesign.from_centres(centres, choices, self.encoder)

    # ---- designs -----------------------------------------------------------------------------------

    def _designs(self, query: Query, count: int, seed: int) -> Plan[list[WrittenGraph]]:
        return (yield [self._designed(query, n, seed) for n in range(count)])

    def _designed(self, query: Query, number: int, seed: int) -> Plan[WrittenGraph]:
        """One graph for a query from the model."""
        told = Message("system", TASK + render_instructions(self.roles, self.space.agents))
        messages = self.library.insert_lessons((told, Message("user", f"# Task\n{query.text}")))
        sampling = replace(self.sampling, seed=derive_seed(seed, "design", query.id, number))
        payer = BilledTo("designer", example=query.id)
        request = Request(self.model, messages, sampling, sample=number, payer=payer)
        return (yield from request_graph(request, self.roles, self.space.agents, canonicalize))

    def _different(self, graphs: Sequence[Graph], size: int, rng: np.random.Generator) -> list[Graph]:
        """`size` graphs: the given ones, each once, then random edits of them in turn."""
        found = {graph.version: graph for graph in graphs}
        given = list(found.values())
        for turn in range(size - len(found)):
            parent = given[turn % len(given)]
            edit = self._edited(parent, rng, found)
            found[edit.version] = edit
        filled = list(found.values())
        return [filled[i % len(filled)] for i in range(size)]

    def _edited(self, parent: Graph, rng: np.random.Generator, known: Collection[str]) -> Graph:
        return random_edit(parent, self.roles, self.space.agents, rng, known) or parent

    # ---- lessons -----------------------------------------------------------------------------------

    @property
    def _distiller(self) -> Distiller:
        given = self.distiller or Distiller(self.model, DISTILLING)
        return replace(given, comparing=COMPARE)

    def _compared(self, group: TrialGroup) -> Plan[Comparison]:
        """What the graphs of one query teach."""
        example = Example(group.query.id, (Message("user", group.query.text),))
        runs = [_as_run(example, number, trial) for number, trial in enumerate(group.trials)]
        summaries = [run.answer for run in runs]
        try:
            return (yield from distil.compare_summaries(self._distiller, example, runs, summaries, self.library))
        except UnreadableReply as error:
            self.problems[str(error)] += 1
            return Comparison()

    def _update(self, proposals: Sequence[operations.Operation]) -> Plan[None]:
        """One round over all proposals; they are taken as they stand where the model's reply can't be read."""
        try:
            final = yield from distil.update_library(self._distiller, self.library, proposals)
        except UnreadableReply as error:
            self.problems[str(error)] += 1
            final = proposals
        library, outcomes = operations.apply(
            self.library, final, born=self.steps, words=self._distiller.words, guard=self.guard
        )
        self.problems.update(each.reason for each in outcomes if not each.applied)
        self.library = library.fit_budget(LESSONS, TOKENS)


def _as_run(example: Example, number: int, trial: Trial) -> Rollout:
    """A trial as a run whose answer is the graph, so that the distiller of experience can compare it."""
    graph = trial.draft.graph
    said = Message("assistant", describe_trial(trial))
    parts = ", ".join(f"{name} {value:.3g}" for name, value in trial.parts.items())
    score = Score(round(trial.reward, 3), dict(trial.parts), feedback=parts)
    step = Step(example.messages, said)
    return Rollout(example.id, "graph", number, (step,), "stop", score, version=graph.version, seed=number)


def describe_trial(trial: Trial) -> str:
    """A graph in words, and what its agents were measured to be worth."""
    graph = trial.draft.graph
    lines = [
        f"- {node.name} ({node.role}) hears {', '.join(graph.predecessors[node.name]) or 'nobody'}"
        for node in (graph[name] for name in graph.order)
    ]
    lines += [f"- {x.source} sends back to {x.target}, at most {x.rounds} times" for x in graph.loops]
    worth = ", ".join(f"{name} {value:+.3g}" for name, value in trial.credit.items())
    measured = [f"Reward that is lost without an agent: {worth}"] if worth else []
    return "\n".join([f"{len(graph)} agents; {graph.exit} answers", *lines, *measured])
