"""What a run will take, before its first call, and the smallest gains that its rows can show."""

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.proposers import gepa
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training.gate import gate_rows
from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.evaluation.statistics import minimum_detectable_gain
from edgewise.toolkit.run.forecast import REPLY_TOKENS, Forecast, estimate_dollars, count_halving_rollouts, mean_prompt_tokens, estimate_minutes

LIBRARY_TOKENS = 300
"""Of a library in a prompt: rough, and shown as such."""
UNPOOLED = 4
"""Candidate libraries of a step, where lessons are not pooled."""


def forecast(job: ExperienceSpec) -> Forecast:
    """The plan of a run in numbers; asks no model. Raises TaskError where there is nothing to learn from."""
    task, config = job.task, job.config
    if not task.train:
        raise TaskError("The task has no training rows to learn from; give splits a train share.")
    calls = _calls(job)
    total = sum(calls.values())
    shown = max(LIBRARY_TOKENS, min(job.start_library.tokens, config.prompt_tokens))
    given, said = mean_prompt_tokens(task) + shown, min(REPLY_TOKENS, config.max_tokens)
    rows = {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)}
    accepting = 2 * len(gate_rows(job)) * config.samples if job.is_gated else 0
    return Forecast(
        rows,
        calls,
        total * (given + said),
        estimate_dollars(config, calls, _models(config), given, said),
        *estimate_minutes(config, total),
        minimum_detectable_gain(len(task.test), config.samples),
        _gate_gain(job) if job.is_gated else None,
        _least(job) + (calls["measuring"] + accepting) * (2 if task.reward.asks else 1),
    )


def _least(job: ExperienceSpec) -> int:
    """The fewest calls that learn anything: one group, its comparison and the update."""
    if job.config.proposer == "gepa":
        return gepa.least_calls(_rows_of_a_step(job))
    return job.config.group_size + 2


def _gate_gain(job: ExperienceSpec) -> float:
    """What the best of a step's candidates must gain, at the level that the gate has for each."""
    level = job.gate_alpha / job.steps / _candidates(job)
    return minimum_detectable_gain(len(gate_rows(job)), job.config.samples, level=level, sides=1)


def _candidates(job: ExperienceSpec) -> int:
    proposed = job.config.draws if job.is_pooled else UNPOOLED
    return (gepa.MOST if job.config.proposer == "gepa" else proposed) + len(job.config.try_places)


def _calls(job: ExperienceSpec) -> dict[str, int]:
    task, config, rounds = job.task, job.config, job.steps
    rollouts, distiller = _searching(job) if config.proposer == "gepa" else _comparing(job)
    rows = len(gate_rows(job)) if job.is_gated else 0
    effects = (min(config.leave_one_out, config.lessons) + 1) * rows if config.leave_one_out else 0
    gate = (rounds * count_halving_rollouts(rows, _candidates(job)) + effects) * config.samples
    measuring = (4 if config.placebo else 2) * len(task.test) * config.samples
    calls = {"rollouts": rollouts, "distiller": distiller, "gate": gate, "measuring": measuring}
    if task.reward.asks:
        learning = rollouts // config.group_size if task.reward.relative else rollouts
        calls["judge"] = learning + gate + measuring
    return calls


def _searching(job: ExperienceSpec) -> tuple[int, int]:
    """Rollouts and calls of the distiller, where GEPA searches."""
    rollouts, reflections = gepa.most_calls(_rows_of_a_step(job), job.config.group_size)
    return job.steps * rollouts, job.steps * reflections


def _comparing(job: ExperienceSpec) -> tuple[int, int]:
    """Rollouts and calls of the distiller, where groups are compared."""
    task, config = job.task, job.config
    groups = 0 if config.direct else _groups(job)
    rollouts = groups * config.group_size
    summaries = rollouts if config.summaries == "always" and not job.is_pooled else 0
    updates = config.draws * len({row.target for row in task.train}) if job.is_pooled else 1
    return rollouts, summaries + groups + job.steps * updates


def _rows_of_a_step(job: ExperienceSpec) -> int:
    return min(job.config.batch_size, len(job.task.train))


def _groups(job: ExperienceSpec) -> int:
    """The most rows that are visited: each once an epoch; with VADE, `refill` may go through two batches a step."""
    config, rows = job.config, len(job.task.train)
    if config.select == "shuffled":
        return config.epochs * rows
    return job.steps * min(rows, config.batch_size * (2 if config.refill else 1))


def _models(config: ExperienceConfig) -> dict[str, str]:
    distiller = config.distiller or config.model
    return {"distiller": distiller, "judge": config.judge or distiller}
