"""Forecast of a search for graphs: calls, tokens, cost, time, and the smallest gains that its rows can show."""

from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.gate import SIZING_ROWS
from edgewise.mas.training.role_proposals import PROBE_ROWS
from edgewise.mas.two_level.system import TwoLevelSpec
from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.evaluation.statistics import minimum_detectable_gain
from edgewise.toolkit.run.forecast import (
    Forecast,
    count_halving_rollouts,
    count_rows,
    estimate_dollars,
    estimate_minutes,
    estimate_tokens,
)

RECEIVED_REPLIES = 2
"""Replies of other agents in the prompt of an agent, roughly."""
PROPOSAL_CALLS = 3
"""The most calls that propose roles: a reply that can't be parsed is requested again."""


def forecast(spec: GraphSpec) -> Forecast:
    """
    Forecast a search without calling a model.

    Counts as if every graph had the maximum of agents and shared none with another graph of its row: most runs take a
    third. Raises TaskError for a task without training rows.
    """
    task, config = spec.task, spec.config
    if not task.train:
        raise TaskError("The task has no training rows to learn from; give splits a train share.")
    is_gated = config.gate == "on"
    gate_rows = min(len(task.validation), config.gate_rows) if is_gated else 0
    calls = count_calls(spec, gate_rows)
    total = sum(calls.values())
    prompt, reply = estimate_tokens(task, config)
    prompt += RECEIVED_REPLIES * reply
    return Forecast(
        count_rows(task),
        calls,
        total * (prompt + reply),
        estimate_dollars(config, calls, {"designer": spec.designer, "judge": spec.judge}, prompt, reply),
        *estimate_minutes(config, total),
        minimum_detectable_gain(len(task.test), config.samples),
        minimum_detectable_gain(gate_rows, config.samples, level=config.alpha, sides=1) if is_gated else None,
        2 + (calls["measuring"] + calls["gate"]) // config.agents,
    )


def count_calls(spec: GraphSpec, gate_rows: int) -> dict[str, int]:
    """Return the most calls by role."""
    task, config = spec.task, spec.config
    train, test = len(task.train), len(task.test)
    batch, sizing = min(config.batch_size, train), min(SIZING_ROWS, train)

    # Runs of graphs, among them runs of a single agent as the baseline.
    proposing = min(PROBE_ROWS, train) + config.recruit * 2 * min(max(0, train - PROBE_ROWS), config.gate_rows)
    at_gate = count_halving_rollouts(gate_rows, 1) + 3 * sizing + (proposing if config.recruit else 0)
    runs = {
        "graphs": config.steps * (batch * (config.group_size + 1) + config.credit),
        "gate": at_gate * config.samples,
        # One agent, the design, and one agent with the tokens of the design.
        "measuring": 3 * test * config.samples,
    }
    single = {"graphs": config.steps * batch, "gate": 2 * sizing * config.samples, "measuring": test * config.samples}
    calls = {part: (runs[part] - single[part]) * config.agents + single[part] for part in runs}

    # Models that design, propose roles or grade.
    if config.search in ("evolution", "lessons"):
        calls["designer"] = single["graphs"] * (1 + config.group_size)
    if config.recruit:
        calls["designer"] = calls.get("designer", 0) + PROPOSAL_CALLS
    if task.reward.asks:
        # The analysis of failures also grades the answers of all agents of the design.
        calls["judge"] = sum(runs.values()) + test * config.samples * config.agents
    return calls


def forecast_two_levels(spec: TwoLevelSpec) -> Forecast:
    """
    Forecast learning at two levels without calling a model.

    Counts as if every planner called its sub-agents as often as it may, and every comparison had signal. Raises
    TaskError for a task without training rows.
    """
    task, config = spec.task, spec.config
    if not task.train:
        raise TaskError("The task has no training rows to learn from; give splits a train share.")
    gate_rows = min(len(task.validation), config.gate_rows) if spec.is_gated else 0
    steps = config.epochs * spec.steps_per_epoch

    # One rollout: the planner asks, receives, and answers; each call is one rollout of a sub-agent.
    subs = 0 if config.learn == "single" else config.delegations
    calls_each = 1 if config.learn == "single" else 2 + subs
    rollouts = config.epochs * len(task.train) * config.group_size
    levels = len(spec.learning_levels)
    comparisons = config.epochs * len(task.train) * (levels + (config.siblings if levels > 1 else 0))
    candidates = 3
    at_gate = steps * count_halving_rollouts(gate_rows, candidates) * config.samples
    measured = 2 * len(task.test) * config.samples
    calls = {
        "rollouts": rollouts * calls_each,
        "distiller": comparisons + steps * levels,
        "gate": at_gate * calls_each,
        "measuring": measured * calls_each,
    }
    judged = (rollouts + at_gate + measured) if task.reward.asks else 0
    judged += rollouts * subs if levels > 1 and spec.expert.asks else 0
    if judged:
        calls["judge"] = judged

    prompt, reply = estimate_tokens(task, config)
    total = sum(calls.values())
    distiller = config.distiller or config.model
    return Forecast(
        count_rows(task),
        calls,
        total * (prompt + reply),
        estimate_dollars(config, calls, {"distiller": distiller, "judge": spec.judge}, prompt, reply),
        *estimate_minutes(config, total),
        minimum_detectable_gain(len(task.test), config.samples),
        minimum_detectable_gain(gate_rows, config.samples, level=config.alpha / steps / candidates, sides=1)
        if spec.is_gated
        else None,
        # One group without a delegation, its comparison and the update, the gate and both measurements.
        config.group_size + 2 + measured + 2 * gate_rows * config.samples,
    )
