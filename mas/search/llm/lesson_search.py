"""
Lessons on how to build a team: MasHost's comparison of the graphs of one query, in words instead of gradients.

A model designs graphs for each query from the roles and a library of lessons. Graphs of one query with different
rewards are compared, winners against losers, and the comparison becomes operations on the library, as in Training-Free
GRPO (arXiv 2510.08191; `experience.distil.distiller`, `experience.library.operations`).

The resulting design calls no model: a table with the best graph for each kind of query.
"""

from collections import Counter
from collections.abc import Sequence
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
from edgewise.mas.graph.edits import canonicalize, random_edit
from edgewise.mas.graph.graph import Graph, single
from edgewise.mas.graph.roles import Roles
from edgewise.mas.search.llm import ranking
from edgewise.mas.search.llm.graph_writer import WrittenGraph, render_instructions, request_graph
from edgewise.mas.search.llm.ranking import TrialRecord
from edgewise.toolkit.types import BilledTo, Example, Message, Plan, Request, Rollout, Sampling, Score, Step
from edgewise.toolkit.util.seeds import derive_seed

DESIGNING = Sampling(temperature=0.7, max_tokens=1024)
DISTILLING = Sampling(temperature=0.0, max_tokens=2048)
MAX_LESSONS, MAX_LESSON_TOKENS = 32, 3000
# Designs of a query that the model is asked for at most; the other drafts are random edits of them.
DESIGNS = 4
# Kinds of query that the design tells apart at most.
MAX_KINDS = 8

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
    Searches by lessons; `model` designs graphs and distils lessons.

    `guard` checks lessons before they enter the library; it must know the training rows. `encoder` is the name of the
    encoder of the queries' features. `problems` counts replies that could not be used and lessons that were refused,
    by their problem.
    """

    space: Space
    roles: Roles
    model: str
    encoder: str = ""
    guard: Guard | None = field(default_factory=Guard.from_examples)
    library: Library = field(default_factory=Library)
    graphs: dict[str, Graph] = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)
    records: list[TrialRecord] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    steps: int = 0

    # ---- the searcher ------------------------------------------------------------------------------

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """Return different graphs for each query: the design's, those of the model, and random edits of these."""

        def write_graphs(query: Query) -> Plan[list[WrittenGraph]]:
            return (yield [self._write_graph(query, n, seed) for n in range(min(DESIGNS, size))])

        designed = self.design().graphs(queries)
        written = yield [write_graphs(query) for query in queries]
        drafts = []
        for query, first, replies in zip(queries, designed, written, strict=True):
            self.problems.update(problem for reply in replies for problem in reply.problems)
            graphs = [first, *(reply.graph for reply in replies if reply.graph is not None)]
            by_version = {graph.version: graph for graph in graphs}

            # Each once, then edits of them in turn; where no edit is new, the same ones again.
            parents, rng = (list(by_version.values()), np.random.default_rng(derive_seed(seed, "edits", query.id)))
            for turn in range(size - len(parents)):
                parent = parents[turn % len(parents)]
                edit = random_edit(parent, self.roles, self.space.agents, rng, by_version) or parent
                by_version[edit.version] = edit
            different = list(by_version.values())
            drafts.append([Draft(different[i % len(different)]) for i in range(size)])
        return drafts

    def learn(self, groups: Sequence[TrialGroup], seed: int) -> Plan[None]:
        """Record the rewards, compare the graphs of each query, and apply the lessons to the library."""
        self.steps += 1
        self.records += ranking.list_records(groups)
        for group in groups:
            self.features[group.query.id] = group.query.features
            self.graphs.update((t.draft.graph.version, t.draft.graph) for t in group.trials)

        # Only groups whose rewards differ have something to compare.
        mixed = [group for group in groups if len({trial.reward for trial in group.trials}) > 1]
        comparisons = yield [self._compare_graphs(group) for group in mixed]
        proposals = [op for comparison in comparisons for op in comparison.proposals]

        # One reply over all proposals; if it can't be read, they are applied as they stand.
        distiller = self._distiller
        try:
            final = yield from distil.update_library(distiller, self.library, proposals)
        except UnreadableReply as error:
            self.problems[str(error)] += 1
            final = proposals
        library, outcomes = operations.apply(
            self.library, final, born=self.steps, words=distiller.words, guard=self.guard
        )
        self.problems.update(outcome.reason for outcome in outcomes if not outcome.applied)
        self.library = library.fit_budget(MAX_LESSONS, MAX_LESSON_TOKENS)

    def design(self) -> Design:
        """Return the best graph of each kind of query, shrunk towards the ratings over all kinds."""
        if not self.records:
            return FixedDesign(single(self.space.roles[0]))
        centres, kinds = cluster_queries(np.stack(list(self.features.values())), MAX_KINDS)
        kind_of = dict(zip(self.features, kinds.tolist(), strict=True))
        # Ratings of a kind have few records each, so the ratings over all kinds are their expectation.
        expected = {version: rating.mean for version, rating in ranking.rate_graphs(self.records).items()}
        choices = []
        for kind in range(len(centres)):
            own = [record for record in self.records if kind_of[record.query] == kind]
            choices.append(self.graphs[ranking.best_rated(ranking.rate_graphs(own, expected))])
        return ClusteredDesign.from_centres(centres, choices, self.encoder)

    # ---- requests ----------------------------------------------------------------------------------

    @property
    def _distiller(self) -> Distiller:
        return Distiller(self.model, DISTILLING, compare_prompt=COMPARE)

    def _write_graph(self, query: Query, number: int, seed: int) -> Plan[WrittenGraph]:
        """Ask the model for a graph for a query."""
        system = Message("system", TASK + render_instructions(self.roles, self.space.agents))
        messages = self.library.insert_lessons((system, Message("user", f"# Task\n{query.text}")))
        sampling = replace(DESIGNING, seed=derive_seed(seed, "design", query.id, number))
        payer = BilledTo("designer", example=query.id)
        request = Request(self.model, messages, sampling, sample=number, payer=payer)
        return (yield from request_graph(request, self.roles, self.space.agents, canonicalize))

    def _compare_graphs(self, group: TrialGroup) -> Plan[Comparison]:
        """Ask the model what the graphs of one query teach; each is a rollout whose answer describes the graph."""
        example = Example(group.query.id, (Message("user", group.query.text),))
        rollouts = []
        for number, trial in enumerate(group.trials):
            feedback = ", ".join(f"{name} {value:.3g}" for name, value in trial.parts.items())
            score = Score(round(trial.reward, 3), dict(trial.parts), feedback=feedback)
            step = Step(example.messages, Message("assistant", describe_trial(trial)))
            version = trial.draft.graph.version
            rollouts.append(Rollout(example.id, "graph", number, (step,), "stop", score, version=version, seed=number))
        summaries = [rollout.answer for rollout in rollouts]
        try:
            return (yield from distil.compare_summaries(self._distiller, example, rollouts, summaries, self.library))
        except UnreadableReply as error:
            self.problems[str(error)] += 1
            return Comparison()


def describe_trial(trial: Trial) -> str:
    """Return a graph in words, with the measured credit of its agents."""
    graph = trial.draft.graph
    nodes = (graph[name] for name in graph.order)
    lines = [f"{len(graph)} agents; {graph.exit} answers"]
    lines += [
        f"- {node.name} ({node.role}) hears {', '.join(graph.predecessors[node.name]) or 'nobody'}" for node in nodes
    ]
    lines += [f"- {x.source} sends back to {x.target}, at most {x.rounds} times" for x in graph.loops]
    if credit := ", ".join(f"{name} {value:+.3g}" for name, value in trial.credit.items()):
        lines.append(f"Reward that is lost without an agent: {credit}")
    return "\n".join(lines)
