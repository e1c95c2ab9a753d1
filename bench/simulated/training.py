"""
A method trains the softmax policy in a world: its own choice of rows, plan, table, batch, update and memory.

The steps are those of `learner.training.loop.run_step`; what is not here is checkpoints, and the transformer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from unittest import mock

import numpy as np
import torch
from simulated.bandit import Softmax, logps

from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.method import Method, limit_lengths
from edgewise.learner.sampling.given_answers import tokenize_answer
from edgewise.learner.training.row_memory import select_fresh, update_memory
from edgewise.learner.update import collate
from edgewise.learner.update.gradient_step import UpdateConfig, update
from edgewise.toolkit.groups.sampling.rollout_plan import OFFLINE_VERSION, SamplingRequest
from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.tracking.events import Event, GroupsDeferred
from edgewise.toolkit.types import Example, Group, Message, Plan, Rollout, Score, Step, TokenizedTurn
from edgewise.toolkit.util.seeds import derive_seed
from tests.support.plans import play

HOW = UpdateConfig(slice_tokens=1 << 20)


class World(Protocol):
    """Rows, what a policy does on them, and what it is worth."""

    rows: tuple[Example, ...]

    def policy(self, rng: np.random.Generator) -> Softmax:
        """One to begin with."""
        ...

    def runs(self, policy: Softmax, example: Example, count: int, rng: np.random.Generator) -> Sequence[Rollout]:
        """So many rollouts, graded."""
        ...

    def graded(self, example: Example, run: Rollout) -> Rollout: ...

    def worth(self, policy: Softmax) -> float:
        """The mean reward of all rows, as they are asked without help."""
        ...


@dataclass
class Training:
    """
    A run. `budget` is in rollouts, all that were drawn for groups, hints and refills; `batch` rows a step, `size` each.
    """

    world: World
    method: Method
    seed: int
    lr: float
    budget: int
    batch: int = 8
    size: int = 8
    refills: int = 3
    spent: int = 0
    number: int = 0
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(derive_seed(self.seed, "draws"))
        self.policy = self.world.policy(np.random.default_rng(derive_seed(self.seed, "world"))).with_reference()
        self.method = limit_lengths(self.method, self.policy.length)
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), self.lr, (0.9, 0.99), weight_decay=0.0, fused=True)

    def step(self) -> list[Group]:
        """Sample and learn; the groups that the policy drew."""
        self.number += 1
        notes: list[Event] = []
        groups = play(self.method.plan(self._asked()), lambda request: "", notes)
        later = [group for note in notes if isinstance(note, GroupsDeferred) for group in note.groups]
        known = collate.assign_credit(collate.collect_scored(groups), self.method)
        made = collate.build_batch(known)
        if made is not None:
            self._update(made)
        self.memory = update_memory(self.method, self.memory, groups, known, later)
        return select_fresh(groups)

    def finished(self) -> Softmax:
        """The policy when the budget is spent."""
        while self.spent < self.budget:
            self.step()
        return self.policy

    def _asked(self) -> SamplingRequest:
        rng = np.random.default_rng(derive_seed(self.seed, "select", self.number))
        rows = self.method.select(self.world.rows, self.memory, rng, self.batch * self.refills)
        return SamplingRequest(
            rows,
            self.batch,
            self.size,
            self._draw,
            self._give,
            memory=self.memory,
            progress=self.spent / self.budget,
            rng=rng,
        )

    def _draw(self, example: Example, start: int, count: int) -> Plan[tuple[Rollout, ...]]:
        yield from ()
        self.spent += count
        return tuple(self.world.runs(self.policy, example, count, self.rng))

    def _give(self, example: Example, answer: str) -> Plan[Rollout]:
        yield from ()
        encoded = tokenize_answer(self.policy, example, answer)
        return replace(self.world.graded(example, said(example, answer, encoded)), version=OFFLINE_VERSION)

    def _update(self, made: Batch) -> None:
        rng = torch.Generator().manual_seed(derive_seed(self.seed, "update", self.number))
        with mock.patch("edgewise.learner.update.gradient_step.compute_logps", logps):
            update(self.policy, self.optimizer, self.method, made, HOW, rng)


def said(example: Example, word: str, encoded: TokenizedTurn, role: str = "solver") -> Rollout:
    """A rollout of one step, not graded."""
    step = Step(example.messages, Message("assistant", word), tokens=encoded)
    return Rollout(example.id, role, 0, (step,), "stop" if encoded.completion_ids[-1] == 0 else "length")


def scored(run: Rollout, reward: float, **parts: float) -> Rollout:
    return replace(run, score=Score(reward, parts))
