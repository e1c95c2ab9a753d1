"""What a run will take, before its first call, and the smallest gain that its rows can show."""

from learner.job import Job
from toolkit.forecast import REPLY_TOKENS, Forecast, dollars, prompt_tokens
from toolkit.statistics import smallest_gain

TOKENS_A_SECOND = 300
"""Sampled and learnt from: rough, and shown as such; the run says what it measures."""


def forecast(job: Job) -> Forecast:
    """The plan of a run in numbers; loads no model."""
    task, config = job.task, job.config
    rollouts = config.steps * min(config.batch_size, len(task.train)) * config.group_size
    measuring = 2 * len(task.test) * config.samples
    calls = {"rollouts": rollouts, "measuring": measuring}
    if task.reward.asks:
        calls["judge"] = measuring + (rollouts // config.group_size if task.reward.relative else rollouts)
    given, said = prompt_tokens(task), min(REPLY_TOKENS, config.max_tokens)
    total = sum(calls.values()) * (given + said)
    models = {"judge": config.judge}
    return Forecast(
        {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
        calls,
        total,
        dollars(config, calls, models, given, said),
        (rollouts + measuring) * said / TOKENS_A_SECOND / 60,
        f"{TOKENS_A_SECOND} tokens a second",
        smallest_gain(len(task.test), config.samples),
        None,
        config.group_size + measuring,
    )
