"""What a search for graphs will take, before its first call, and the smallest gains that its rows can show."""

from edgewise.mas.config import GraphConfig
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.gate import SIZING_ROWS
from edgewise.mas.training.role_proposals import PROBE_ROWS
from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.evaluation.statistics import minimum_detectable_gain
from edgewise.toolkit.run.forecast import REPLY_TOKENS, Forecast, estimate_dollars, count_halving_rollouts, mean_prompt_tokens, estimate_minutes
from edgewise.toolkit.task.task import Task

HEARD = 2
"""How many replies of others an agent hears, roughly: they go into its prompt."""


PROPOSING = 3
"""The most calls that proposing roles takes: a reply that can't be read is asked for again."""


def forecast(job: GraphSpec) -> Forecast:
    """
    The plan of a run in numbers; asks no model. Raises TaskError where there is nothing to learn from.

    As if every graph had as many agents as it may, and no two of a row had one in common: most runs take a third.
    """
    task, config = job.task, job.config
    if not task.train:
        raise TaskError("The task has no training rows to learn from; give splits a train share.")
    calls = _calls(job)
    said = min(REPLY_TOKENS, config.max_tokens)
    given = mean_prompt_tokens(task) + HEARD * said
    total = sum(calls.values())
    gated = config.gate == "on"
    rows = _gate_rows(task, config)
    return Forecast(
        {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
        calls,
        total * (given + said),
        estimate_dollars(config, calls, {"designer": job.designer, "judge": job.judge}, given, said),
        *estimate_minutes(config, total),
        minimum_detectable_gain(len(task.test), config.samples),
        minimum_detectable_gain(rows, config.samples, level=config.alpha, sides=1) if gated else None,
        2 + (calls["measuring"] + calls["gate"]) // config.agents,
    )


def _calls(job: GraphSpec) -> dict[str, int]:
    task, config = job.task, job.config
    runs = _runs(job)
    alone = {"graphs": config.steps * min(config.batch_size, len(task.train))}  # runs of one agent
    alone["gate"] = 2 * min(SIZING_ROWS, len(task.train)) * config.samples
    alone["measuring"] = len(task.test) * config.samples
    calls = {name: (count - alone[name]) * config.agents + alone[name] for name, count in runs.items()}
    if config.search in ("evolution", "lessons"):
        calls["designer"] = alone["graphs"] * (1 + config.group_size)
    if config.recruit:
        calls["designer"] = calls.get("designer", 0) + PROPOSING
    if task.reward.asks:
        # To say why an answer is wrong, the answers of its agents are graded too.
        calls["judge"] = sum(runs.values()) + len(task.test) * config.samples * config.agents
    return calls


def _runs(job: GraphSpec) -> dict[str, int]:
    """The most runs of graphs, those of one agent among them."""
    task, config = job.task, job.config
    batch = min(config.batch_size, len(task.train))
    sizing = min(SIZING_ROWS, len(task.train))
    fresh = min(max(0, len(task.train) - PROBE_ROWS), config.gate_rows)
    recruiting = min(PROBE_ROWS, len(task.train)) + config.recruit * 2 * fresh if config.recruit else 0
    return {
        "graphs": config.steps * (batch * (config.group_size + 1) + config.credit),
        "gate": (count_halving_rollouts(_gate_rows(task, config), 1) + 3 * sizing + recruiting) * config.samples,
        # One agent, the design, one agent at the tokens of the design.
        "measuring": 3 * len(task.test) * config.samples,
    }


def _gate_rows(task: Task, config: GraphConfig) -> int:
    return min(len(task.validation), config.gate_rows) if config.gate == "on" else 0
