"""Specification of a training run: a task, its settings, and what follows from both."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgewise.learner.config import WeightsConfig, split_overrides, torch_name, weights_name
from edgewise.learner.methods.method import AXES, COUNT_AXES, Method, limit_lengths, override, parameters_of
from edgewise.learner.methods.published import find_method
from edgewise.learner.sampling.embeddings import create_embed
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.groups.sampling.rollout_plan import Embed
from edgewise.toolkit.rollout.agent import Agent
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Sampling

TOKEN_BYTES = 80
"""Memory of a token in a stored rollout: id and log-probability, each an object in a tuple, and its text."""


@dataclass(frozen=True)
class WeightsSpec:
    """A task and its settings. Raises ConfigError for settings that exclude each other, before a model is loaded."""

    task: Task
    config: WeightsConfig

    def __post_init__(self) -> None:
        config, reward = self.config, self.task.reward
        if not self.task.train:
            raise ConfigError("There are no training rows: give splits a train share.")
        # With one rollout a rank has nothing to compare.
        if config.group_size == 1 and reward.relative:
            raise ConfigError(f"The reward {reward.name!r} ranks the runs of a group: group_size must be at least 2.")
        if config.shard and (config.lora or config.sampler):
            raise ConfigError(
                "shard=true trains all weights, sharded over the processes that also sample: leave out lora and "
                "sampler, or leave out shard."
            )
        capacity = parameters_of(self.method.plan).get("capacity", 0)
        check_buffer_size(capacity, config.max_tokens * self.max_replies)
        _ = self.weights  # a model whose weights are not here is an error now, before anything is loaded

    @classmethod
    def from_settings(cls, task: Task, settings: Mapping[str, Any]) -> "WeightsSpec":
        """Resolve `settings`, which win over the tables [weights] and [improve] of the task file."""
        layers = merge_layers(WeightsConfig.select_known(task.settings), task.weights, settings)
        return cls(task, resolve_config(WeightsConfig, layers))

    @cached_property
    def method(self) -> Method:
        """The training method, with the overrides of the settings."""
        # Some parts of a method are stated in tokens; they follow the longest reply of this run.
        method = limit_lengths(find_method(self.config.method), self.config.max_tokens, self.max_replies)
        return override(method, *self.config.overrides)

    @property
    def max_replies(self) -> int:
        """Maximum replies of a rollout; only tools or an environment lead to a second one."""
        return self.config.turns if self.task.tools or self.task.world else 1

    @cached_property
    def embed(self) -> Embed | None:
        """Embeddings of texts, or None if the settings name no model for them."""
        return create_embed(self.config.embedder) if self.config.embedder else None

    @property
    def weights(self) -> str:
        """Name of the model that is trained, without torch/."""
        return weights_name(self.config.model)

    @property
    def judge(self) -> str:
        """The model that grades, for rewards that ask a model. Raises ConfigError for the model that is trained."""
        judge, reward = self.config.judge, self.task.reward
        if reward.asks and not judge:
            raise ConfigError(
                f"The reward {reward.name!r} asks a model: say which one with judge=..., as the one that is trained "
                "would grade itself."
            )
        if reward.asks and torch_name(judge) == self.config.model:
            raise ConfigError("The judge is the model that is trained, which would grade itself: name another one.")
        return judge

    @property
    def rollout_agent(self) -> Agent:
        """The agent of rollouts while learning."""
        return self._agent(self.config.rollout_sampling, "rollout")

    @property
    def eval_agent(self) -> Agent:
        """The agent of the evaluation, and of later use."""
        return self._agent(self.config.eval_sampling, "measure")

    def _agent(self, sampling: Sampling, payer: str) -> Agent:
        config, task = self.config, self.task
        # Tool calls stand in the text of replies: a native API would not return their tokens.
        return Agent(config.model, sampling, task.tools, config.turns, "text", payer=payer, world=task.world)


def check_buffer_size(rollouts: int, tokens: int) -> None:
    """Raise ConfigError if a replay buffer of so many rollouts, each of so many tokens, exceeds the memory."""
    if not hasattr(os, "sysconf"):  # Windows does not report its memory this way
        return
    need, memory = rollouts * tokens * TOKEN_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > memory:
        quarter = memory // (4 * tokens * TOKEN_BYTES)
        raise ConfigError(
            f"A buffer of {rollouts} rollouts of up to {tokens} tokens takes about {need / 2**30:.1f} GiB, and this "
            f"machine has {memory / 2**30:.1f} in all: set plan.capacity to {quarter} or less, a quarter of it."
        )


def merge_layers(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """
    Merge layers of settings, later ones winning.

    Settings of the method become `overrides`, in order: the name of an axis (loss="plain") or of a count (epochs=2),
    parameters with dots ("loss.high"), and nested tables as TOML files have them ({"loss": {"high": 0.28}}).
    """
    merged: dict[str, Any] = {}
    overrides: list[str] = []
    # Overrides add up, in the order of the layers: a later one of the same parameter wins when they are applied.
    for layer in layers:
        overrides += split_overrides(layer.get("overrides") or ())
        for name, value in layer.items():
            if name.partition(".")[0] in (*AXES, *COUNT_AXES) or "." in name:
                overrides += flatten_override(name, value)
            elif name != "overrides" and value is not None:
                merged[name] = value
    return merged | ({"overrides": tuple(overrides)} if overrides else {})


def flatten_override(name: str, value: Any) -> Iterator[str]:
    """Yield the overrides "name=value" of a setting; a nested table has several."""
    match value:
        case None:
            return
        case Mapping():
            for key, entry in value.items():
                yield from flatten_override(f"{name}.{key}", entry)
        case list() | tuple() if "." not in name:
            yield f"{name}={','.join(map(str, value))}"
        case _:
            yield f"{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"
