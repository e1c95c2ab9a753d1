"""
Graphs run on rows and graded: many different ones while learning, those of a design to measure.

The drafts of a row and one plain agent share a seed, so agents that stand alike in two graphs say the same and are
paid once, and rewards differ by structure alone. The plain agent is the reference of the cost. A run that broke, or
that could not be graded, counts as 0, as it does when measuring (`toolkit.evaluation.comparison`): no answer is worth nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgewise.mas.credit.reward import compute_reward
from edgewise.mas.designs.fixed import EqualTokenBaseline
from edgewise.mas.designs.interface import Design, Draft, Trial, TrialGroup
from edgewise.mas.graph.graph import Graph, single
from edgewise.mas.runtime.context import GraphLimits
from edgewise.mas.runtime.graph_run import GraphRun, extract_inner_run, run_graph
from edgewise.mas.runtime.node import Team
from edgewise.mas.runtime.node_cache import NodeCache
from edgewise.mas.spec import GraphSpec
from edgewise.toolkit.evaluation.comparison import valid_reward
from edgewise.toolkit.tracking.events import RolloutFinished
from edgewise.toolkit.types import Example, Group, Plan, Rollout
from edgewise.toolkit.util.seeds import derive_seed

ROLE = "graph"


@dataclass(frozen=True, slots=True)
class EvaluatedGraphs:
    """The drafts of a row and how they did; `runs` are theirs in order, then the plain agent's."""

    row: Example
    trials: TrialGroup
    runs: tuple[GraphRun, ...]
    shared: NodeCache

    @property
    def group(self) -> Group:
        """The runs as a group of rollouts."""
        return group_rollouts(self.row, self.runs)


def run_and_grade(
    job: GraphSpec,
    team: Team,
    graph: Graph,
    row: Example,
    *,
    sample: int,
    seed: int,
    version: str,
    shared: NodeCache | None,
    limits: GraphLimits | None = None,
) -> Plan[GraphRun]:
    """One graded run of a graph, by the job's limits if not by others."""
    run = yield from run_graph(
        graph,
        team,
        row,
        sample=sample,
        seed=seed,
        limits=limits or job.limits,
        cache=shared,
        version=version,
        process_reward=job.process,
    )
    run = yield from _graded(job, row, run)
    yield RolloutFinished(run.rollout)
    return run


def _graded(job: GraphSpec, row: Example, run: GraphRun) -> Plan[GraphRun]:
    score = yield from job.task.reward.grade(row, run.rollout, job.judge)
    return replace(run, rollout=replace(run.rollout, score=score))


def evaluate_drafts(job: GraphSpec, row: Example, drafts: Sequence[Draft], step: int) -> Plan[EvaluatedGraphs]:
    """All drafts of a row, and the plain agent, each different graph once; what ended inside of them as well."""
    shared, team = NodeCache(), job.build_team("rollout", job.config.rollout_sampling)
    graphs = [*(draft.graph for draft in drafts), single()]
    different = {graph.version: graph for graph in graphs}
    seed = derive_seed(job.config.seed, step)
    found = yield [
        run_and_grade(job, team, graph, row, sample=0, seed=seed, version=version, shared=shared)
        for version, graph in different.items()
    ]
    by_version = dict(zip(different, found, strict=True))
    runs = tuple(by_version[graph.version] for graph in graphs)
    reference = count_tokens(runs[-1].rollout)
    trials = tuple(_trial(job, draft, run, reference) for draft, run in zip(drafts, runs, strict=False))
    beside = yield from _beside(job, row, runs)
    more = tuple(_trial(job, Draft(run.graph), run, reference) for run in beside)
    return EvaluatedGraphs(row, TrialGroup(job.query_of(row), trials, more), runs, shared)


def _beside(job: GraphSpec, row: Example, runs: Sequence[GraphRun]) -> Plan[list[GraphRun]]:
    """
    The plain agent's run where it is no draft, and, where grading asks no model, what inner agents answered, graded.

    Agents that stand alike in two graphs said the same, so it counts once.
    """
    drafted, plain = {run.graph.version for run in runs[:-1]}, runs[-1]
    found = {} if plain.graph.version in drafted else {plain.graph.version: plain}
    if not job.config.inner or job.task.reward.asks:
        return list(found.values())
    ended = [extract_inner_run(run, name, row) for run in runs for name in _answering(job, run.graph)]
    smaller = {run.graph.version: run for run in ended if run}
    new = [run for version, run in smaller.items() if version not in drafted | set(found)]
    return [*found.values(), *(yield [_graded(job, row, run) for run in new])]


def _answering(job: GraphSpec, graph: Graph) -> list[str]:
    """The inner agents of a graph that answer the task."""
    return [n.name for n in graph.nodes if n.name != graph.exit and job.catalogue[n.role].answers]


def _trial(job: GraphSpec, draft: Draft, run: GraphRun, reference: int) -> Trial:
    quality = valid_reward(run.rollout) or 0.0
    value, parts = compute_reward(
        job.reward_weights, quality, count_tokens(run.rollout), reference, draft.graph, roles=job.roles
    )
    return Trial(draft, value, parts)


def measure_design(
    job: GraphSpec, design: Design, rows: Sequence[Example], payer: str = "measure"
) -> Plan[list[Group]]:
    """Groups of `samples` runs on rows, each with the graph that the design has for it, with the settings of use."""
    found = yield from run_design(job, design, rows, payer)
    return [group_rollouts(row, runs) for row, runs in zip(rows, found, strict=True)]


def run_design(
    job: GraphSpec, design: Design, rows: Sequence[Example], payer: str = "measure"
) -> Plan[list[list[GraphRun]]]:
    """The same as graph runs: `samples` of them for each row."""
    team = job.build_team(payer, job.config.eval_sampling)
    graphs = design.graphs([job.query_of(row) for row in rows])
    free = isinstance(design, EqualTokenBaseline)
    limits = replace(job.limits, calls=None, tokens=None, usd=None) if free else job.limits
    return (
        yield [
            _sampled(job, team, graph, row, design.version, limits)
            for graph, row in zip(graphs, rows, strict=True)
        ]
    )


def group_rollouts(row: Example, runs: Sequence[GraphRun]) -> Group:
    """Runs of a row as a group of rollouts."""
    return Group(row, ROLE, tuple(run.rollout for run in runs))


def _sampled(
    job: GraphSpec, team: Team, graph: Graph, row: Example, version: str, limits: GraphLimits
) -> Plan[list[GraphRun]]:
    how: dict[str, Any] = {"seed": derive_seed(job.config.seed, 0), "version": version, "limits": limits}
    return (
        yield [
            run_and_grade(job, team, graph, row, sample=sample, shared=None, **how)
            for sample in range(job.config.samples)
        ]
    )


def count_tokens(run: Rollout) -> int:
    """Tokens of a run with all that it delegated; four bytes a token where the provider reported none."""
    total = 0
    for step in run.steps:
        total += sum(count_tokens(call) for call in step.subrollouts)
        if step.usage is not None:
            total += step.usage.total
        else:
            total += sum(len(m.content.encode()) for m in (*step.prompt, step.completion)) // 4
    return total
