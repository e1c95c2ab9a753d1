"""Policy, optimizer and learning rate of a run in one process, and sampling and updates with them."""

from collections.abc import Mapping, Sequence
from math import cos, pi
from pathlib import Path
from typing import Any

import torch

from edgewise.learner.config import WeightsConfig, weights_name
from edgewise.learner.hardware.compute_thread import run_in_compute_thread
from edgewise.learner.hardware.memory import explain_out_of_memory
from edgewise.learner.hardware.process_group import SINGLE_PROCESS, ProcessGroup, bind_device
from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.method import Method
from edgewise.learner.policy import checkpoint
from edgewise.learner.policy.policy import Lora, Policy
from edgewise.learner.sampling.respond import answer
from edgewise.learner.update.collate import ScoredRollout
from edgewise.learner.update.gradient_step import UpdateConfig, UpdateStats, compute_reference_logps, update
from edgewise.toolkit.errors import ConfigError, Interrupted
from edgewise.toolkit.types import Reply, Request
from edgewise.toolkit.util.seeds import derive_seed


class Engine:
    """
    Sample, update and save in the compute thread (`learner.hardware.compute_thread`); any thread may call and waits.

    `group` are the processes that share an update. Raises UnknownModel or ConfigError if the model can't be loaded.
    """

    last_step = 0
    """Step of the last update, finished or not."""
    is_stopped = False

    def __init__(self, config: WeightsConfig, method: Method, group: ProcessGroup = SINGLE_PROCESS):
        self.config, self.method, self.group = config, method, group
        self.slice_tokens = config.slice_tokens  # less once memory was too short
        self.reload(learning=True)

    @run_in_compute_thread
    def reload(self, *, learning: bool = False) -> None:
        """Load the weights that training begins with; only with `learning` there is an optimizer."""
        config, name = self.config, weights_name(self.config.model)
        # Two models at once may be one too many for the memory: the old one goes first.
        self.policy: Any = None
        self.optimizer: Any = None
        with explain_out_of_memory(config.model):
            bind_device(self.group)
            options: Any = {name: getattr(config, name) for name in ("device", "dtype", "checkpointing")}
            if config.shard:
                from edgewise.learner.policy import fsdp

                if config.compile:
                    raise ConfigError("Layers that are shared out are not compiled: leave out compile or shard.")
                self.policy = fsdp.load_sharded(name, self.group, **options)
            else:
                alpha, seed = config.lora_alpha or 2.0 * config.lora, derive_seed(config.seed, "lora") % 2**31
                lora = Lora(config.lora, alpha, seed=seed) if config.lora else None
                self.policy = Policy.load(name, lora=lora, compiled=config.compile, **options)
            # Only for methods that read it: a copy of all weights, unless an adapter can be switched off.
            if learning and self.method.required_columns & {"ref_logp", "kl"}:
                self.policy.with_reference()
        if learning:
            self.optimizer = self.policy.create_optimizer(
                lr=config.learning_rate, betas=(0.9, config.beta2), weight_decay=config.weight_decay
            )

    @run_in_compute_thread
    def answer(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """Return replies of the current policy, sampled as one batch. Raises Interrupted once it is stopped."""

        def check_stop() -> None:
            if self.is_stopped:
                raise Interrupted("Stopped.")

        return answer(self.policy, requests, check_stop)

    def stop(self) -> None:
        """End sampling under way at the next token: nobody waits for it."""
        self.is_stopped = True

    @run_in_compute_thread
    def compute_kl(self, rollouts: Sequence[ScoredRollout]) -> list[float]:
        """Return the sum of log pi - log pi_ref over the tokens of each rollout; 0 for an offline answer."""
        steps = [(i, step) for i, scored in enumerate(rollouts) for step in scored.steps]
        batch = Batch.from_lists(
            [step.prompt_ids for _, step in steps],
            [step.completion_ids for _, step in steps],
            [i for i, _ in steps],
            [0.0] * len(steps),
        )
        reference = compute_reference_logps(self.policy, batch, self.update_config, self.group).sum(1).tolist()
        totals = [0.0] * len(rollouts)
        for (i, step), logp in zip(steps, reference, strict=True):
            totals[i] += 0.0 if rollouts[i].is_offline else sum(step.logprobs) - logp
        return totals

    @property
    def update_config(self) -> UpdateConfig:
        """Settings of updates. Only the numbers of a server need a correction."""
        config = self.config
        correction = config.correction if config.sampler else None
        return UpdateConfig(config.temperature or 1.0, self.slice_tokens, config.clip, correction)

    def update(self, batch: Batch, number: int, *, slowed: float = 1.0) -> UpdateStats:
        """Learn from a batch in step `number`; `slowed` is a factor on the learning rate."""
        # In the caller's thread: whoever ends a run must see `last_step` while the compute thread is still busy.
        self.set_learning_rate(number, slowed=slowed)
        # Random numbers follow from the step alone, so that a resumed run repeats them.
        rng = torch.Generator().manual_seed(derive_seed(self.config.seed, "update", number) % 2**63)
        work = run_in_compute_thread(update)
        with explain_out_of_memory("the optimizer"):  # `update` itself makes slices smaller
            stats = work(self.policy, self.optimizer, self.method, batch, self.update_config, rng, self.group)
        self.slice_tokens = stats.tokens or self.slice_tokens
        return stats

    def set_learning_rate(self, number: int, *, slowed: float = 1.0) -> None:
        """Set the learning rate of step `number`."""
        self.last_step = number
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * slowed * schedule_factor(self.config, number)

    @run_in_compute_thread
    def save(self, folder: Path, number: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint."""
        checkpoint.save(folder, number, self.policy, self.optimizer, state)

    @run_in_compute_thread
    def restore(self, path: Path) -> dict[str, Any]:
        """Load a checkpoint and return the state of training."""
        return checkpoint.restore(path, self.policy, self.optimizer)

    @run_in_compute_thread
    def export(self, folder: Path) -> None:
        """Write the trained weights for others to load."""
        self.policy.save(folder)


def schedule_factor(config: WeightsConfig, number: int) -> float:
    """Return the factor of the learning rate in a step, from 1: warmup, then the schedule."""
    if number <= config.warmup:
        return number / (config.warmup + 1)
    # Below 1 at the last step, which still learns.
    done = (number - config.warmup) / max(1, config.steps - config.warmup + 1)
    match config.schedule:
        case "linear":
            return 1 - done
        case "cosine":
            return 0.5 * (1 + cos(pi * done))
    return 1.0
