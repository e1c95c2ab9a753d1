"""What a run will take, before its first call, and the smallest gain that its rows can show."""

from edgewise.learner.spec import WeightsSpec
from edgewise.toolkit.evaluation.statistics import minimum_detectable_gain
from edgewise.toolkit.run.forecast import REPLY_TOKENS, Forecast, estimate_dollars, mean_prompt_tokens

TOKENS_A_SECOND = 500
"""Read, sampled and learnt from by a small model on two cores: rough, and shown as such; a run says what it expects."""


def forecast(job: WeightsSpec, *, arms: int = 2, lessons: int = 0) -> Forecast:
    """
    The plan of a run in numbers; loads no model.

    `arms` are measured in the end; `lessons` are tokens that stand before the rows while learning.
    """
    task, config = job.task, job.config
    rollouts = config.steps * min(config.batch_size, len(task.train)) * config.group_size
    measuring = arms * len(task.test) * config.samples
    calls = {"rollouts": rollouts, "measuring": measuring}
    if task.reward.asks:
        calls["judge"] = measuring + (rollouts // config.group_size if task.reward.relative else rollouts)
    given, said = mean_prompt_tokens(task) + lessons, min(REPLY_TOKENS, config.max_tokens)
    total = sum(calls.values()) * (given + said)
    models = {"judge": config.judge}
    return Forecast(
        {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
        calls,
        total,
        estimate_dollars(config, calls, models, given, said),
        (rollouts + measuring) * (given + said) / TOKENS_A_SECOND / 60,
        f"{TOKENS_A_SECOND} tokens a second",
        minimum_detectable_gain(len(task.test), config.samples),
        None,
        config.group_size + measuring,
    )
