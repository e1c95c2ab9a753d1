"""What a run trains, in one process: the policy, its optimizer, its learning rate, and what samples from it."""

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
    Samples, updates, saves, in `learner.hardware.compute_thread`. `ranks` are the processes that share an update.

    Loading raises UnknownModel or ConfigError where the model can't be had as asked.
    """

    last_step = 0
    """The step of the last update, done or not."""
    is_stopped = False

    def __init__(self, config: WeightsConfig, method: Method, group: ProcessGroup = SINGLE_PROCESS):
        self.config, self.method, self.ranks = config, method, group
        self.slice_tokens = config.slice_tokens  # less once memory was too short
        self.reload(learning=True)

    @run_in_compute_thread
    def reload(self, *, learning: bool = False) -> None:
        """Begin with the weights that training begins with; without `learning` there is no optimizer."""
        config = self.config
        self.policy: Any = None  # two models at once may be one too many for the memory
        self.optimizer: Any = None
        with explain_out_of_memory(config.model):
            self.policy = self._loaded()
            if learning and self.method.required_columns & {"ref_logp", "kl"}:
                self.policy.with_reference()
        if not learning:
            return
        self.optimizer = self.policy.create_optimizer(
            lr=config.learning_rate, betas=(0.9, config.beta2), weight_decay=config.weight_decay
        )

    def _loaded(self) -> Policy:
        config, name = self.config, weights_name(self.config.model)
        bind_device(self.ranks)
        how: Any = {
            "device": config.device,
            "dtype": config.dtype,
            "checkpointing": config.checkpointing,
        }
        if config.shard:
            from edgewise.learner.policy import fsdp

            if config.compile:
                raise ConfigError("Layers that are shared out are not compiled: leave out compile or shard.")
            return fsdp.load_sharded(name, self.ranks, **how)
        alpha, seed = config.lora_alpha or 2.0 * config.lora, derive_seed(config.seed, "lora") % 2**31
        lora = Lora(config.lora, alpha, seed=seed) if config.lora else None
        return Policy.load(name, lora=lora, compiled=config.compile, **how)

    @run_in_compute_thread
    def answer(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """Replies of the policy as it is now, drawn as one batch. Raises Interrupted once it is stopped."""
        return answer(self.policy, requests, self._check)

    def stop(self) -> None:
        """Let what is being drawn end at the next token: nobody waits for it."""
        self.is_stopped = True

    def _check(self) -> None:
        if self.is_stopped:
            raise Interrupted("Stopped.")

    @run_in_compute_thread
    def compute_kl(self, found: Sequence[ScoredRollout]) -> list[float]:
        """Of each rollout, the sum over its tokens of their log-probability minus the reference model's."""
        steps = [(i, step) for i, member in enumerate(found) for step in member.steps]
        batch = Batch.from_lists(
            [step.prompt_ids for _, step in steps],
            [step.completion_ids for _, step in steps],
            [i for i, _ in steps],
            [0.0] * len(steps),
        )
        reference = compute_reference_logps(self.policy, batch, self.update_config, self.ranks).sum(1).tolist()
        totals = [0.0] * len(found)
        for (i, step), logp in zip(steps, reference, strict=True):
            # Nobody drew an answer that is given: it has no distance.
            totals[i] += 0.0 if found[i].is_offline else sum(step.logprobs) - logp
        return totals

    @property
    def update_config(self) -> UpdateConfig:
        """How updates are carried out."""
        config = self.config
        correction = config.correction if config.sampler else None
        return UpdateConfig(config.temperature or 1.0, self.slice_tokens, config.clip, correction)

    def update(self, batch: Batch, number: int, *, slowed: float = 1.0) -> UpdateStats:
        """Learn from a batch in step `number`; `slowed` is a factor on the learning rate."""
        # By the caller: who ends a run must know of it, though the thread may still be busy with something else.
        self.set_learning_rate(number, slowed=slowed)
        return self._updated(batch, number)

    @run_in_compute_thread
    def _updated(self, batch: Batch, number: int) -> UpdateStats:
        rng = torch.Generator().manual_seed(derive_seed(self.config.seed, "update", number) % 2**63)
        with explain_out_of_memory("the optimizer"):  # slices are made smaller by `update`
            done = update(self.policy, self.optimizer, self.method, batch, self.update_config, rng, self.ranks)
        self.slice_tokens = done.tokens or self.slice_tokens
        return done

    def set_learning_rate(self, number: int, *, slowed: float = 1.0) -> None:
        """The learning rate is that of step `number` from here on."""
        self.last_step = number
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * slowed * schedule_factor(self.config, number)

    @run_in_compute_thread
    def save(self, folder: Path, number: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint."""
        checkpoint.save(folder, number, self.policy, self.optimizer, state)

    @run_in_compute_thread
    def restore(self, path: Path) -> dict[str, Any]:
        """Go to a checkpoint; what the loop knew then."""
        return checkpoint.restore(path, self.policy, self.optimizer)

    @run_in_compute_thread
    def export(self, folder: Path) -> None:
        """Write what was trained so that others can load it."""
        self.policy.save(folder)


def schedule_factor(config: WeightsConfig, number: int) -> float:
    """What the learning rate is multiplied by in a step, from 1."""
    if number <= config.warmup:
        return number / (config.warmup + 1)
    done = (number - config.warmup) / max(1, config.steps - config.warmup + 1)
    match config.schedule:
        case "linear":
            return 1 - done
        case "cosine":
            return 0.5 * (1 + cos(pi * done))
    return 1.0
