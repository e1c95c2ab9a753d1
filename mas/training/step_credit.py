"""Credit of nodes and edges for the trials of a step."""

from collections.abc import Sequence
from dataclasses import replace

from edgewise.mas.credit.ablation import Credit, add_emitted_rewards, measure_ablations
from edgewise.mas.credit.evidence import Case, Evidence
from edgewise.mas.credit.reward import compute_reward, net_quality, net_quality_of
from edgewise.mas.graph.graph import Graph
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.trials import EvaluatedGraphs, count_tokens, quality_of, run_and_grade
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
    by_row = {row_trials.row.id: row_trials for row_trials in evaluated}
    seed, team = derive_seed(spec.config.seed, step), spec.build_team("rollout", spec.config.rollout_sampling)

    def quality(row_trials: EvaluatedGraphs, rollout: Rollout) -> float:
        reference = count_tokens(row_trials.plain)
        return net_quality(spec.reward_weights, quality_of(rollout), count_tokens(rollout), reference)

    def run(graph: Graph, example: Example, sample: int) -> Plan[float]:
        # `sample` is the step here: it has a seed of its own, under which its trials ran as sample 0.
        row_trials, version = by_row[example.id], graph.version
        result = yield from run_and_grade(
            spec, team, graph, example, sample=0, seed=seed, version=version, cache=row_trials.cache
        )
        return quality(row_trials, result.rollout)

    # Runs that the step made anyway: drafts, the plain agent, and graphs that end at inner agents.
    cases, done = [], {}
    for row_trials in evaluated:
        row, trials = row_trials.row, row_trials.trials
        cases += [Case(trial.draft.graph, row, step) for trial in trials.trials]
        for made in row_trials.runs:
            done[Case(made.graph, row, step).key] = quality(row_trials, made.rollout)
        for trial in trials.extra_trials:
            done[Case(trial.draft.graph, row, step).key] = net_quality_of(spec.reward_weights, trial.parts)
    evidence = yield from measure_ablations(
        run, cases, max_runs=spec.config.credit, seed=seed, known=known, done=done
    )

    # Rewards again, as irrationality depends on credit.
    credited = []
    for row_trials in evaluated:
        reference, trials = count_tokens(row_trials.plain), []
        for trial, made in zip(row_trials.trials.trials, row_trials.runs, strict=False):
            graph, tokens = trial.draft.graph, count_tokens(made.rollout)
            parts = {part: evidence.shrunk_credit(graph, part) for part in evidence.measured_parts(graph)}
            credit = Credit.from_parts(parts)
            nodes = add_emitted_rewards(credit.nodes, made.rewards)
            reward, reward_parts = compute_reward(
                spec.reward_weights,
                quality_of(made.rollout),
                tokens,
                reference,
                graph,
                nodes,
                credit.edges,
                spec.roles,
            )
            trials.append(
                replace(trial, reward=reward, parts=reward_parts, credit=nodes, edge_credit=credit.edges)
            )
        credited.append(replace(row_trials, trials=replace(row_trials.trials, trials=tuple(trials))))
    return credited, evidence
