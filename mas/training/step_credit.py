"""Credit of nodes and edges for the trials of a step."""

from collections.abc import Sequence
from dataclasses import replace

from edgewise.mas.credit.ablation import add_emitted_rewards, measure_ablations, split_parts
from edgewise.mas.credit.evidence import Case, Evidence
from edgewise.mas.credit.reward import net_quality, net_quality_of
from edgewise.mas.designs.interface import Trial
from edgewise.mas.graph.graph import Graph
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.trials import EvaluatedGraphs, count_tokens, quality_of, reward_run, run_and_grade
from edgewise.toolkit.types import Example, Plan, Rollout
from edgewise.toolkit.util.seeds import derive_seed


def assign_credit(
    spec: GraphSpec, evaluated: Sequence[EvaluatedGraphs], step: int, known: Evidence
) -> Plan[tuple[list[EvaluatedGraphs], Evidence]]:
    """
    Return the trials of a step with the credit of their parts, and the evidence after it.

    At most `credit` runs are made beside those of the trials. A trial has the shrunk credit of each part of its graph
    that was ever measured in this graph (other graphs count by the shrinkage), with the rewards that its run emitted:

        credit(part)  = E[net quality with it - net quality without it]      (`mas.credit.evidence`)
        reward        = net quality - rationality weight x share of measured parts with credit <= 0
    """
    # Credit is net quality lost by an ablation, so runs of a row are compared at the cost of its own plain agent.
    by_row = {row_trials.row.id: row_trials for row_trials in evaluated}
    seed, team = derive_seed(spec.config.seed, step), spec.build_team("rollout", spec.config.rollout_sampling)

    def quality(row_trials: EvaluatedGraphs, rollout: Rollout) -> float:
        reference = count_tokens(row_trials.plain)
        return net_quality(spec.reward_weights, quality_of(rollout), count_tokens(rollout), reference)

    def run(graph: Graph, example: Example, sample: int) -> Plan[float]:
        # `sample` is the step here: it has a seed of its own, under which its trials ran as sample 0.
        row_trials = by_row[example.id]
        made = yield from run_and_grade(spec, team, graph, example, seed=seed, cache=row_trials.cache)
        return quality(row_trials, made.rollout)

    # Runs that the step made anyway: drafts, the plain agent, and graphs that end at inner agents.
    cases, done = [], {}
    for row_trials in evaluated:
        row, trials = row_trials.row, row_trials.trials
        cases += [Case(trial.draft.graph, row, step) for trial in trials.trials]
        for made in row_trials.runs:
            done[Case(made.graph, row, step).key] = quality(row_trials, made.rollout)
        for trial in trials.extra_trials:
            done[Case(trial.draft.graph, row, step).key] = net_quality_of(spec.reward_weights, trial.parts)
    evidence = yield from measure_ablations(run, cases, max_runs=spec.config.credit, seed=seed, known=known, done=done)

    # Rewards again, as irrationality depends on credit.
    credited = []
    for row_trials in evaluated:
        trials = []
        for trial, made in zip(row_trials.trials.trials, row_trials.runs, strict=False):
            graph = trial.draft.graph
            credit = {part: evidence.shrunk_credit(graph, part) for part in evidence.measured_parts(graph)}
            nodes, edges = split_parts(credit)
            nodes = add_emitted_rewards(nodes, made.rewards)
            reward, parts = reward_run(spec, made, row_trials.plain, nodes, edges)
            trials.append(Trial(trial.draft, reward, parts, nodes, edges))
        credited.append(replace(row_trials, trials=replace(row_trials.trials, trials=tuple(trials))))
    return credited, evidence
