"""What a search for graphs will take, before its first call, and the smallest gains that its rows can show."""

from mas.config import WiringConfig
from mas.job import Job
from mas.loop import SIZING
from toolkit.errors import TaskError
from toolkit.forecast import REPLY_TOKENS, Forecast, dollars, halving, prompt_tokens, time_of
from toolkit.statistics import smallest_gain
from toolkit.task import Task

HEARD = 2
"""How many replies of others an agent hears, roughly: they go into its prompt."""


def forecast(job: Job) -> Forecast:
    """
    The plan of a run in numbers; asks no model. Raises TaskError where there is nothing to learn from.

    As if every graph had as many agents as it may, and no two of a row had one in common: most runs take a third.
    """
    task, config = job.task, job.config
    if not task.train:
        raise TaskError("The task has no training rows to learn from; give splits a train share.")
    calls = _calls(job)
    said = min(REPLY_TOKENS, config.max_tokens)
    given = prompt_tokens(task) + HEARD * said
    total = sum(calls.values())
    gated = config.gate == "on"
    rows = _gate_rows(task, config)
    return Forecast(
        {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
        calls,
        total * (given + said),
        dollars(config, calls, {"designer": job.designer, "judge": job.judge}, given, said),
        *time_of(config, total),
        smallest_gain(len(task.test), config.samples),
        smallest_gain(rows, config.samples, level=config.alpha, sides=1) if gated else None,
        2 + (calls["measuring"] + calls["gate"]) // config.agents,
    )


def _calls(job: Job) -> dict[str, int]:
    task, config = job.task, job.config
    batch = min(config.batch_size, len(task.train))
    graphs = config.steps * batch * (config.group_size * config.agents + 1)
    credit = config.steps * config.credit * config.agents
    sizing = min(SIZING, len(task.train)) * (config.agents + 1) * config.samples
    gate = halving(_gate_rows(task, config), 1) * config.agents * config.samples
    # Three arms: one agent, the design, one agent at the tokens of the design.
    measuring = len(task.test) * config.samples * (2 * config.agents + 1)
    calls = {"graphs": graphs + credit, "gate": gate + 2 * sizing, "measuring": measuring}
    if config.search in ("evolution", "lessons") or config.recruit:
        calls["designer"] = config.steps * batch * (1 + config.group_size)
    if task.reward.asks:
        calls["judge"] = config.steps * batch * (config.group_size + 1) + gate + 3 * len(task.test)
    return calls


def _gate_rows(task: Task, config: WiringConfig) -> int:
    return min(len(task.validation), config.gate_rows) if config.gate == "on" else 0
