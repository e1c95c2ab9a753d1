"""One job: a task and its settings, and what follows from both."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgewise.learner.config import WeightsConfig, split_overrides, torch_name, weights_name
from edgewise.learner.methods.method import AXES, COUNT_AXES, Method, limit_lengths, override, parameters_of
from edgewise.learner.methods.published import find_method
from edgewise.learner.sampling.embeddings import embedding
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.groups.sampling.rollout_plan import Embed
from edgewise.toolkit.rollout.agent import Agent
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Sampling

TOKEN = 80
"""Bytes that a token takes which is kept: its id and its log-probability, each an object in a tuple, and its text."""


@dataclass(frozen=True)
class WeightsSpec:
    """A task and its settings. Raises ConfigError for what does not go together, before a model is loaded."""

    task: Task
    config: WeightsConfig

    def __post_init__(self) -> None:
        if not self.task.train:
            raise ConfigError("There are no training rows: give splits a train share.")
        if self.config.group_size == 1 and self.task.reward.relative:
            raise ConfigError(
                f"The reward {self.task.reward.name!r} ranks the runs of a group: group_size must be at least 2."
            )
        if self.config.shard and (self.config.lora or self.config.sampler):
            raise ConfigError(
                "shard=true shares out and trains all weights, and they sample themselves: leave out lora and sampler, "
                "or leave out shard."
            )
        _check_room(parameters_of(self.method.plan).get("capacity", 0), self.config.max_tokens * self.max_replies)
        _ = self.weights

    @classmethod
    def from_settings(cls, task: Task, settings: Mapping[str, Any]) -> "WeightsSpec":
        """Resolve `settings`, which win over the tables [weights] and [improve] of the task file."""
        layers = merge_layers(WeightsConfig.select_known(task.settings), task.weights, settings)
        return cls(task, resolve_config(WeightsConfig, layers))

    @cached_property
    def method(self) -> Method:
        """How weights are trained."""
        config = self.config
        return override(limit_lengths(find_method(config.method), config.max_tokens, self.max_replies), *config.overrides)

    @property
    def max_replies(self) -> int:
        """The most replies of a rollout: one, where nothing is there to answer them."""
        return self.config.turns if self.task.tools or self.task.world else 1

    @cached_property
    def embed(self) -> Embed | None:
        """Vectors of texts, where a model for them is named."""
        return embedding(self.config.embedder) if self.config.embedder else None

    @property
    def weights(self) -> str:
        """The model that is trained, without torch/."""
        return weights_name(self.config.model)

    @property
    def judge(self) -> str:
        """The model that grades, where the reward asks one; never the one that is trained."""
        if self.task.reward.asks and not self.config.judge:
            raise ConfigError(
                f"The reward {self.task.reward.name!r} asks a model: say which one with judge=..., as the one that is "
                "trained would grade itself."
            )
        if self.task.reward.asks and torch_name(self.config.judge) == self.config.model:
            raise ConfigError(
                "The judge is the model that is trained, which would grade itself: name another one."
            )
        return self.config.judge

    @property
    def rollout_agent(self) -> Agent:
        """The model as it is run while learning."""
        return self._agent(self.config.rollout_sampling, "rollout")

    @property
    def eval_agent(self) -> Agent:
        """The model as it is run to measure, and in use."""
        return self._agent(self.config.eval_sampling, "measure")

    def _agent(self, sampling: Sampling, payer: str) -> Agent:
        config = self.config
        return Agent(
            config.model, sampling, self.task.tools, config.turns, "text", payer=payer, world=self.task.world
        )


def _check_room(rollouts: int, tokens: int) -> None:
    """Raise ConfigError where so many rollouts of so many tokens, kept in memory, are more than there is."""
    if not hasattr(os, "sysconf"):  # Windows does not say
        return
    need, room = rollouts * tokens * TOKEN, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > room:
        raise ConfigError(
            f"A buffer of {rollouts} rollouts of up to {tokens} tokens takes about {need / 2**30:.1f} GiB, and this "
            f"machine has {room / 2**30:.1f} in all: set plan.capacity to {room // (4 * tokens * TOKEN)} or less, a "
            "quarter of it."
        )


def merge_layers(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """
    Layers of settings as one, later ones winning.

    What is about the method becomes `overrides`, in order: the name of an axis (loss="plain"), or of a number of it
    (epochs=2), parameters with dots ("loss.high"), and tables of them, as TOML files have ({"loss": {"high": 0.28}}).
    """
    found: dict[str, Any] = {}
    overrides: list[str] = []
    for layer in layers:
        overrides += split_overrides(layer.get("overrides") or ())
        for name, value in layer.items():
            if name.partition(".")[0] in (*AXES, *COUNT_AXES) or "." in name:
                overrides += _overrides(name, value)
            elif name != "overrides" and value is not None:
                found[name] = value
    return found | ({"overrides": tuple(overrides)} if overrides else {})


def _overrides(name: str, value: Any) -> Iterator[str]:
    match value:
        case None:
            return
        case Mapping():
            for key, each in value.items():
                yield from _overrides(f"{name}.{key}", each)
        case list() | tuple() if "." not in name:
            yield f"{name}={','.join(map(str, value))}"
        case _:
            yield f"{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"
