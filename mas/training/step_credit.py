"""Credit of nodes and edges in the groups of a step."""

from collections.abc import Sequence
from dataclasses import replace

from edgewise.mas.credit.ablation import Credit, measure_ablations, add_emitted_rewards
from edgewise.mas.credit.evidence import Case, Evidence
from edgewise.mas.credit.reward import compute_reward, net_quality, net_quality_of
from edgewise.mas.graph.graph import Graph
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.trials import EvaluatedGraphs, run_and_grade, count_tokens
from edgewise.toolkit.evaluation.comparison import valid_reward
from edgewise.toolkit.types import Example, Plan, Rollout
from edgewise.toolkit.util.seeds import derive_seed


def assign_credit(
    job: GraphSpec, found: Sequence[EvaluatedGraphs], step: int, known: Evidence
) -> Plan[tuple[list[EvaluatedGraphs], Evidence]]:
    """
    The trials of a step with the credit of their parts, and what is known after it.

    At most `credit` runs are made beside those of the trials. `known` is what earlier steps found. A trial's credit is
    the guess for each part of its graph that was ever measured in it, with what the run emitted; parts of other graphs
    with equal roles have their say in it.
    """
    rows, seed = {each.row.id: each for each in found}, derive_seed(job.config.seed, step)
    team = job.build_team("rollout", job.config.rollout_sampling)

    def run(graph: Graph, example: Example, sample: int) -> Plan[float]:
        # Here a step is a sample: it has a seed of its own, under which its trials ran as sample 0.
        each, named = rows[example.id], graph.version
        made = yield from run_and_grade(
            job, team, graph, example, sample=0, seed=seed, version=named, shared=each.shared
        )
        return _worth(job, each, made.rollout)

    cases = [Case(trial.draft.graph, each.row, step) for each in found for trial in each.trials.trials]
    done = {
        Case(x.graph, each.row, step).key: _worth(job, each, x.rollout) for each in found for x in each.runs
    }
    done |= {
        Case(t.draft.graph, each.row, step).key: net_quality_of(job.reward_weights, t.parts)
        for each in found
        for t in each.trials.extra_trials
    }
    evidence = yield from measure_ablations(run, cases, max_runs=job.config.credit, seed=seed, known=known, done=done)
    return [_with_credit(job, each, evidence) for each in found], evidence


def _worth(job: GraphSpec, each: EvaluatedGraphs, rollout: Rollout) -> float:
    quality, reference = valid_reward(rollout) or 0.0, count_tokens(each.runs[-1].rollout)
    return net_quality(job.reward_weights, quality, count_tokens(rollout), reference)


def _with_credit(job: GraphSpec, each: EvaluatedGraphs, evidence: Evidence) -> EvaluatedGraphs:
    """A row's trials with credit, and their rewards with what is idle in them."""
    reference = count_tokens(each.runs[-1].rollout)
    trials = []
    for trial, made in zip(each.trials.trials, each.runs, strict=False):
        graph = trial.draft.graph
        guesses = Credit.from_parts({part: evidence.shrunk_credit(graph, part) for part in evidence.measured_parts(graph)})
        nodes = add_emitted_rewards(guesses.nodes, made.rewards)
        quality, tokens = valid_reward(made.rollout) or 0.0, count_tokens(made.rollout)
        value, parts = compute_reward(job.reward_weights, quality, tokens, reference, graph, nodes, guesses.edges, job.roles)
        trials.append(replace(trial, reward=value, parts=parts, credit=nodes, edge_credit=guesses.edges))
    return replace(each, trials=replace(each.trials, trials=tuple(trials)))
