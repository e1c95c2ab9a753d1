"""The memory that a step leaves to later ones: collections of `row_history.Memory` that the method's parts recall."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgewise.learner.methods.method import Method, parameters_of
from edgewise.learner.update.collate import CreditedBatch
from edgewise.toolkit.groups.sampling.replay import REPLAY_ROLE
from edgewise.toolkit.groups.sampling.rollout_plan import OFFLINE_VERSION, set_marks
from edgewise.toolkit.groups.sampling.row_history import FULL_REWARD, Memory, SolvedExample
from edgewise.toolkit.types import Group

RECENT_GROUPS = 100
"""Groups whose mean rewards are remembered: W of DeepVideo-R1 (arXiv 2506.07464)."""


def update_memory(
    method: Method, memory: Memory, groups: Sequence[Group], credited: CreditedBatch, deferred: Sequence[Group] = ()
) -> Memory:
    """
    Return the memory after a step with these groups; `deferred` are left for the next step.

    Only rollouts that the policy sampled in this step count, not replayed and offline ones.
    """
    fresh, recalls, earlier = select_fresh(groups), method.recalls, memory
    # Factors of the selection by VADE, if it is this method's part; other parts have no such parameters.
    fading = {name: x for name, x in parameters_of(method.select).items() if name in ("lam1", "lam2")}
    memory = memory.update(fresh, **fading)

    if "recent" in recalls:
        means = [float(np.mean(group.rewards)) for group in fresh if group.rewards]
        memory = replace(memory, recent=(*memory.recent, *means)[-RECENT_GROUPS:])

    if "rescued" in recalls:
        # Of the rows that failed altogether at their latest visit, the share that was solved now.
        records = [(group, earlier.record_of(group.example.id)) for group in fresh if group.rewards]
        solved = [any(group.rewards) for group, record in records if record.visits and record.mean == 0]
        memory = replace(memory, rescued=(*memory.rescued, *([float(np.mean(solved))] if solved else [])))

    if "worked" in recalls:
        solutions = {
            group.example.id: SolvedExample(group.example.messages[-1].content, rollout.answer)
            for group in fresh
            for rollout in group.rollouts
            if rollout.score and rollout.score.valid and rollout.score.value >= FULL_REWARD
            if group.example.messages
        }
        memory = replace(memory, worked={**memory.worked, **solutions})

    if "leftover" in recalls:
        # Graded rollouts need no target, and a checkpoint is JSON, while a row may hold anything.
        leftover = [replace(group, example=replace(group.example, target=None, metadata={})) for group in deferred]
        memory = replace(memory, leftover=tuple(leftover))

    if "buffer" in recalls:
        # The advantage at the first step stands for all: methods with a buffer give every step the same.
        first_step = np.searchsorted(credited.table.rollout, np.arange(len(credited.rollouts)))  # [N]
        rollouts = [
            set_marks(scored.rollout, stored=float(credited.credit[step]))
            for scored, step in zip(credited.rollouts, first_step, strict=True)
            if credited.credit[step] and scored.is_fresh
        ]
        capacity = parameters_of(method.plan)["capacity"]
        memory = replace(memory, buffer=(*memory.buffer, *rollouts)[-capacity:])
    return memory


def select_fresh(groups: Sequence[Group]) -> list[Group]:
    """Return the groups without replayed and offline rollouts."""
    return [
        replace(group, rollouts=tuple(run for run in group.rollouts if run.version != OFFLINE_VERSION))
        for group in groups
        if group.role != REPLAY_ROLE
    ]
