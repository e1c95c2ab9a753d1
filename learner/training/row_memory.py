"""What a step leaves to later ones, beside the weights: `toolkit.groups.sampling.row_history`, by what the method's parts recall."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgewise.learner.methods.method import Method, parameters_of
from edgewise.learner.update.collate import CreditedBatch
from edgewise.toolkit.groups.sampling.replay import REPLAY_ROLE
from edgewise.toolkit.groups.sampling.rollout_plan import OFFLINE_VERSION, set_marks
from edgewise.toolkit.groups.sampling.row_history import FULL_REWARD, Memory, SolvedExample
from edgewise.toolkit.types import Group, Rollout

RECENT_GROUPS = 100
"""Groups whose mean rewards are kept: W of DeepVideo-R1 (arXiv 2506.07464)."""


def update_memory(
    method: Method,
    memory: Memory,
    groups: Sequence[Group],
    known: CreditedBatch,
    later: Sequence[Group] = (),
) -> Memory:
    """
    The memory after a step with these groups, of which the method judged; `later` are those left for the next step.

    Rollouts that were replayed or given teach nothing of an example.
    """
    fresh, before = select_fresh(groups), memory
    fading = {name: x for name, x in parameters_of(method.select).items() if name in ("lam1", "lam2")}
    recalls, memory = method.recalls, memory.update(fresh, **fading)
    if "recent" in recalls:
        means = [float(np.mean(group.rewards)) for group in fresh if group.rewards]
        memory = replace(memory, recent=(*memory.recent, *means)[-RECENT_GROUPS:])
    if "rescued" in recalls:
        memory = replace(memory, rescued=(*memory.rescued, *_rescued(before, fresh)))
    if "worked" in recalls:
        memory = replace(memory, worked={**memory.worked, **_worked(fresh)})
    if "leftover" in recalls:
        memory = replace(memory, leftover=tuple(map(_without_target, later)))
    if "buffer" in recalls:
        memory = replace(
            memory,
            buffer=(*memory.buffer, *_with_advantage(known))[-parameters_of(method.plan)["capacity"] :],
        )
    return memory


def select_fresh(groups: Sequence[Group]) -> list[Group]:
    """What the policy drew in this step: without rollouts that were replayed or given."""
    return [
        replace(group, rollouts=tuple(run for run in group.rollouts if run.version != OFFLINE_VERSION))
        for group in groups
        if group.role != REPLAY_ROLE
    ]


def _rescued(before: Memory, groups: Sequence[Group]) -> list[float]:
    """The share of rows that failed altogether when they were last seen, and did not now; none without such rows."""
    seen = [group for group in groups if group.rewards and before.record_of(group.example.id).visits]
    hard = [any(group.rewards) for group in seen if before.record_of(group.example.id).mean == 0]
    return [float(np.mean(hard))] if hard else []


def _worked(groups: Sequence[Group]) -> dict[str, SolvedExample]:
    right = [
        (group.example, run)
        for group in groups
        for run in group.rollouts
        if run.score and run.score.valid and run.score.value >= FULL_REWARD
    ]
    return {row.id: SolvedExample(row.messages[-1].content, run.answer) for row, run in right if row.messages}


def _with_advantage(known: CreditedBatch) -> list[Rollout]:
    """Rollouts of this step whose advantage is not 0, with it."""
    first = np.searchsorted(known.table.rollout, np.arange(len(known.rollouts)))
    return [
        set_marks(member.rollout, stored=float(known.credit[step]))
        for member, step in zip(known.rollouts, first, strict=True)
        if known.credit[step] and member.is_fresh
    ]


def _without_target(group: Group) -> Group:
    """What is graded already needs no answer; a checkpoint is JSON, and a row may hold anything."""
    return replace(group, example=replace(group.example, target=None, metadata={}))
