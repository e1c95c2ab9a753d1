"""
Runs of graphs on rows, graded: many different graphs while learning, those of a design when measuring.

While learning, the drafts of a row and one plain agent share a seed. So agents in the same position of two graphs give
the same output and are paid once, and rewards differ by structure alone. The plain agent is the reference of the cost.
A run that failed or could not be graded counts as 0, as it does when measuring.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgewise.mas.credit.reward import Edge, compute_reward
from edgewise.mas.designs.fixed import EqualTokenBaseline
from edgewise.mas.designs.interface import Design, Draft, Trial, TrialGroup
from edgewise.mas.graph.graph import Graph, single
from edgewise.mas.runtime.graph_run import GraphRun, extract_inner_run, run_graph
from edgewise.mas.runtime.node import Team
from edgewise.mas.runtime.node_cache import NodeCache
from edgewise.mas.spec import GraphSpec
from edgewise.toolkit.evaluation.comparison import valid_reward
from edgewise.toolkit.tracking.events import RolloutFinished
from edgewise.toolkit.types import Example, Group, Plan, Rollout
from edgewise.toolkit.util.seeds import derive_seed

ROLE = "graph"
NodeCredit = Mapping[str, float]
EdgeCredit = Mapping[Edge, float]


@dataclass(frozen=True, slots=True)
class EvaluatedGraphs:
    """The drafts of a row with their trials; `runs` are those of the drafts in order, then the plain agent's."""

    row: Example
    trials: TrialGroup
    runs: tuple[GraphRun, ...]
    cache: NodeCache

    @property
    def group(self) -> Group:
        """The runs as a group of rollouts."""
        return group_rollouts(self.row, self.runs)

    @property
    def plain(self) -> Rollout:
        """The rollout of the plain agent."""
        return self.runs[-1].rollout


def run_and_grade(
    spec: GraphSpec, team: Team, graph: Graph, row: Example, *, sample: int = 0, **options: Any
) -> Plan[GraphRun]:
    """Run a graph and grade it, by the limits of the settings; `options` are those of `run_graph`."""
    options = {"limits": spec.limits, "process_reward": spec.process, **options}
    run = yield from run_graph(graph, team, row, sample=sample, **options)
    run = yield from grade_run(spec, row, run)
    yield RolloutFinished(run.rollout)
    return run


def grade_run(spec: GraphSpec, row: Example, run: GraphRun) -> Plan[GraphRun]:
    """Return a run with the score of the task's reward."""
    score = yield from spec.task.reward.grade(row, run.rollout, spec.judge)
    return replace(run, rollout=replace(run.rollout, score=score))


def reward_run(
    spec: GraphSpec, run: GraphRun, plain: Rollout, nodes: NodeCredit | None = None, edges: EdgeCredit | None = None
) -> tuple[float, dict[str, float]]:
    """Return the reward of a run and its parts, from the plain agent's rollout and the credit of its parts."""
    quality, tokens, reference = quality_of(run.rollout), count_tokens(run.rollout), count_tokens(plain)
    return compute_reward(spec.reward_weights, quality, tokens, reference, run.graph, nodes, edges, spec.roles)


# ---- learning --------------------------------------------------------------------------------------


def evaluate_drafts(spec: GraphSpec, row: Example, drafts: Sequence[Draft], step: int) -> Plan[EvaluatedGraphs]:
    """Run all drafts of a row and the plain agent, each different graph once, and grade their inner answers."""
    cache, team = NodeCache(), spec.build_team("rollout", spec.config.rollout_sampling)
    graphs = [*(draft.graph for draft in drafts), single()]
    # Graphs of equal versions would give equal runs, as all runs of the row have one seed.
    different = {graph.version: graph for graph in graphs}
    seed = derive_seed(spec.config.seed, step)
    results = yield [run_and_grade(spec, team, graph, row, seed=seed, cache=cache) for graph in different.values()]
    by_version = dict(zip(different, results, strict=True))
    runs = tuple(by_version[graph.version] for graph in graphs)
    plain = runs[-1]

    # Graphs that ran without being drafted: the plain agent, and, where grading asks no model, the graphs that end at
    # inner agents. Agents in the same position of two graphs gave the same answer, so each such graph counts once.
    drafted = {draft.graph.version for draft in drafts}
    extra = {} if plain.graph.version in drafted else {plain.graph.version: plain}
    if spec.config.inner and not spec.task.reward.asks:
        inner_runs = [
            extract_inner_run(run, node.name, row)
            for run in runs
            for node in run.graph.nodes
            if node.name != run.graph.exit and spec.catalogue[node.role].answers
        ]
        inner = {run.graph.version: run for run in inner_runs if run}
        new = [run for version, run in inner.items() if version not in drafted | set(extra)]
        graded = yield [grade_run(spec, row, run) for run in new]
        extra |= {run.graph.version: run for run in graded}

    def make_trial(draft: Draft, run: GraphRun) -> Trial:
        return Trial(draft, *reward_run(spec, run, plain.rollout))

    trials = tuple(map(make_trial, drafts, runs))
    extra_trials = tuple(make_trial(Draft(run.graph), run) for run in extra.values())
    return EvaluatedGraphs(row, TrialGroup(spec.query_of(row), trials, extra_trials), runs, cache)


# ---- measuring -------------------------------------------------------------------------------------


def measure_design(
    spec: GraphSpec, design: Design, rows: Sequence[Example], payer: str = "measure"
) -> Plan[list[Group]]:
    """Return groups of `samples` rollouts on rows, each with the design's graph for the row, sampled as in use."""
    runs = yield from run_design(spec, design, rows, payer)
    return [group_rollouts(row, of_row) for row, of_row in zip(rows, runs, strict=True)]


def run_design(
    spec: GraphSpec, design: Design, rows: Sequence[Example], payer: str = "measure"
) -> Plan[list[list[GraphRun]]]:
    """Return the same as graph runs: `samples` of them for each row."""
    team = spec.build_team(payer, spec.config.eval_sampling)
    options = {"seed": derive_seed(spec.config.seed, 0), "version": design.version, "limits": spec.limits}
    # The baseline shall use its tokens: a limit on a run would cut its drafts short.
    if isinstance(design, EqualTokenBaseline):
        options["limits"] = replace(spec.limits, calls=None, tokens=None, usd=None)

    def sample_row(graph: Graph, row: Example) -> Plan[list[GraphRun]]:
        samples = range(spec.config.samples)
        return (yield [run_and_grade(spec, team, graph, row, sample=sample, **options) for sample in samples])

    graphs = design.graphs([spec.query_of(row) for row in rows])
    return (yield [sample_row(graph, row) for graph, row in zip(graphs, rows, strict=True)])


def group_rollouts(row: Example, runs: Sequence[GraphRun]) -> Group:
    """Return runs of a row as a group of rollouts."""
    return Group(row, ROLE, tuple(run.rollout for run in runs))


def quality_of(rollout: Rollout) -> float:
    """Return the reward of a rollout, 0 for one without a valid reward."""
    return valid_reward(rollout) or 0.0


def count_tokens(rollout: Rollout) -> int:
    """Return the tokens of a rollout with its subrollouts; four bytes a token where the provider reported none."""
    total = 0
    for step in rollout.steps:
        # Some providers report no usage; about four bytes a token holds for English text.
        total += sum(map(count_tokens, step.subrollouts))
        if step.usage is not None:
            total += step.usage.total
        else:
            total += sum(len(message.content.encode()) for message in (*step.prompt, step.completion)) // 4
    return total
