"""What a step leaves to later ones, beside the weights: `toolkit.groups.memory`, by what the method's parts recall."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from learner.gather import Member, members, table
from learner.method import Method, credited, parameters
from toolkit.groups.memory import FULL, Memory, Worked
from toolkit.groups.plan import GIVEN, marked
from toolkit.groups.plan_past import REPLAYED
from toolkit.types import Group, Rollout

WINDOW = 100
"""Groups whose mean rewards are kept: W of DeepVideo-R1 (arXiv 2506.07464)."""


def remembered(
    method: Method,
    memory: Memory,
    groups: Sequence[Group],
    later: Sequence[Group] = (),
    distances: Sequence[float] | None = None,
) -> Memory:
    """
    The memory after a step with these groups; `later` are those that its plan left for the next step.

    Rollouts that were replayed or given teach nothing of an example. `distances` is the column "kl".
    """
    fresh = drawn(groups)
    recalls, memory = method.recalls, memory.after(fresh)
    if "recent" in recalls:
        means = [float(np.mean(group.rewards)) for group in fresh if group.rewards]
        memory = replace(memory, recent=(*memory.recent, *means)[-WINDOW:])
    if "worked" in recalls:
        memory = replace(memory, worked={**memory.worked, **_worked(fresh)})
    if "leftover" in recalls:
        memory = replace(memory, leftover=tuple(map(_without_target, later)))
    if "buffer" in recalls:
        kept = _with_advantage(method, groups, distances)
        memory = replace(memory, buffer=(*memory.buffer, *kept)[-parameters(method.plan)["capacity"] :])
    return memory


def drawn(groups: Sequence[Group]) -> list[Group]:
    """What the policy drew in this step: without rollouts that were replayed or given."""
    return [
        replace(group, members=tuple(run for run in group.members if run.version != GIVEN))
        for group in groups
        if group.role != REPLAYED
    ]


def _worked(groups: Sequence[Group]) -> dict[str, Worked]:
    right = [
        (group.example, run)
        for group in groups
        for run in group.members
        if run.score and run.score.valid and run.score.value >= FULL
    ]
    return {row.id: Worked(row.messages[-1].content, run.answer) for row, run in right if row.messages}


def _with_advantage(
    method: Method, groups: Sequence[Group], distances: Sequence[float] | None
) -> list[Rollout]:
    """Rollouts of this step whose advantage is not 0, with it."""
    found: list[Member] = members(groups)
    if not found:
        return []
    known = table(found, method, distances)
    _, credit = credited(method, known)
    first = np.searchsorted(known.rollout, np.arange(len(found)))
    return [
        marked(member.run, stored=float(credit[step]))
        for member, step in zip(found, first, strict=True)
        if credit[step] and groups[member.group].role != REPLAYED and not member.given
    ]


def _without_target(group: Group) -> Group:
    """What is graded already needs no answer; a checkpoint is JSON, and a row may hold anything."""
    return replace(group, example=replace(group.example, target=None, metadata={}))
