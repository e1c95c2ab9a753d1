"""Forecast of a run that learns lessons: calls, tokens, cost, time, and the smallest gains that its rows can show."""

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.proposers import gepa
from edgewise.experience.spec import ExperienceSpec
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

LIBRARY_TOKENS = 300
"""Tokens of a library in a prompt, roughly; a larger start counts with its size."""
UNPOOLED_CANDIDATES = 4
"""Candidate libraries of a step whose lessons are not pooled."""


def forecast(spec: ExperienceSpec) -> Forecast:
    """
    Forecast a run without calling a model.

    Counts as if every group had something to teach and every reply could be parsed. Raises TaskError for a task without
    training rows.
    """
    task, config = spec.task, spec.config
    if not task.train:
        raise TaskError("The task has no training rows to learn from; give splits a train share.")
    gate_rows = min(len(task.validation), config.gate_rows) if spec.is_gated else 0
    batch = min(config.batch_size, len(task.train))
    is_gepa = config.proposer == "gepa"

    # Candidates of a step at the gate.
    proposed = config.draws if spec.is_pooled else UNPOOLED_CANDIDATES
    candidates = (gepa.MAX_CANDIDATES if is_gepa else proposed) + len(config.try_places)

    # Calls by role.
    if is_gepa:
        rollouts, distiller = (spec.steps * most for most in gepa.max_calls(batch, config.group_size))
    else:
        rollouts, distiller = count_comparison_calls(spec)
    effects = (min(config.leave_one_out, config.lessons) + 1) * gate_rows if config.leave_one_out else 0
    gate = (spec.steps * count_halving_rollouts(gate_rows, candidates) + effects) * config.samples
    measuring = (4 if config.placebo else 2) * len(task.test) * config.samples
    calls = {"rollouts": rollouts, "distiller": distiller, "gate": gate, "measuring": measuring}
    if task.reward.asks:
        learning = rollouts // config.group_size if task.reward.relative else rollouts
        calls["judge"] = learning + gate + measuring

    # The fewest calls that learn anything: one group, its comparison and the update.
    least = gepa.min_calls(batch) if is_gepa else config.group_size + 2
    evaluated = measuring + 2 * gate_rows * config.samples
    least += evaluated * (2 if task.reward.asks else 1)

    # The gate spends its error rate evenly on all steps and their candidates.
    level = spec.gate_alpha / spec.steps / candidates
    library = max(LIBRARY_TOKENS, min(spec.start_library.tokens, config.prompt_tokens))
    prompt, reply = estimate_tokens(task, config)
    prompt += library
    total = sum(calls.values())
    return Forecast(
        count_rows(task),
        calls,
        total * (prompt + reply),
        estimate_dollars(config, calls, role_models(config), prompt, reply),
        *estimate_minutes(config, total),
        minimum_detectable_gain(len(task.test), config.samples),
        minimum_detectable_gain(gate_rows, config.samples, level=level, sides=1) if spec.is_gated else None,
        least,
    )


def count_comparison_calls(spec: ExperienceSpec) -> tuple[int, int]:
    """Return the most rollouts, and calls of the distiller, of a run that compares groups."""
    task, config = spec.task, spec.config
    rows = len(task.train)
    if config.direct:
        groups = 0
    elif config.select == "shuffled":
        groups = config.epochs * rows
    else:
        # With VADE, `refill` may go through two batches a step.
        groups = spec.steps * min(rows, config.batch_size * (2 if config.refill else 1))
    rollouts = groups * config.group_size
    summaries = rollouts if config.summaries == "always" and not spec.is_pooled else 0
    updates = config.draws * len({row.target for row in task.train}) if spec.is_pooled else 1
    return rollouts, summaries + groups + spec.steps * updates


def role_models(config: ExperienceConfig) -> dict[str, str]:
    """Return the model of each role that may have another one than the rollouts."""
    distiller = config.distiller or config.model
    return {"distiller": distiller, "judge": config.judge or distiller}
