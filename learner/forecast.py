"""Forecast of a run that trains weights: rollouts, tokens, cost, time, and the smallest gain that its rows can show."""

from edgewise.learner.spec import WeightsSpec
from edgewise.toolkit.evaluation.statistics import minimum_detectable_gain
from edgewise.toolkit.run.forecast import Forecast, count_rows, estimate_dollars, estimate_tokens

TOKENS_PER_SECOND = 500
"""A small model on two cores, reading, sampling and training; rough, and a run prints its own pace."""


def forecast(spec: WeightsSpec, *, arms: int = 2, lessons: int = 0) -> Forecast:
    """
    Forecast a run without loading a model.

    `arms` are evaluated at the end; `lessons` are tokens before each row while learning.
    """
    task, config = spec.task, spec.config
    rollouts = config.steps * min(config.batch_size, len(task.train)) * config.group_size
    measuring = arms * len(task.test) * config.samples
    calls = {"rollouts": rollouts, "measuring": measuring}
    # A relative reward ranks a group in one call.
    if task.reward.asks:
        calls["judge"] = measuring + (rollouts // config.group_size if task.reward.relative else rollouts)
    prompt, reply = estimate_tokens(task, config)
    prompt += lessons
    return Forecast(
        count_rows(task),
        calls,
        sum(calls.values()) * (prompt + reply),
        estimate_dollars(config, calls, {"judge": config.judge}, prompt, reply),
        (rollouts + measuring) * (prompt + reply) / TOKENS_PER_SECOND / 60,
        f"{TOKENS_PER_SECOND} tokens a second",
        minimum_detectable_gain(len(task.test), config.samples),
        None,
        config.group_size + measuring,
    )
