"""
Lessons for the nodes of a program of your own, such as a LangGraph graph, which stays as it is.

A group of runs of the whole program on one row is compared by the task's reward; from winners and losers each node
gets lessons from its own calls, and the gate decides on validation rows whether they are kept. What comes out is a
library for each node; `edgewise serve` puts them into the program's calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgewise.experience.distil import distiller
from edgewise.experience.distil.distiller import UnreadableReply
from edgewise.experience.library.library import Library
from edgewise.experience.library.operations import Operation
from edgewise.experience.proposers import candidates
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training.records import mean_or_zero, summarise_groups
from edgewise.mas.adopt.gateway import ROLE, Gateway, Trial
from edgewise.mas.adopt.node_libraries import FILE, NodeLibraries
from edgewise.toolkit.evaluation.comparison import Arm, compare, valid_reward
from edgewise.toolkit.evaluation.gate import Choice, Scores, AlphaSpending, Verdict, choose
from edgewise.toolkit.groups.sampling.row_selection import shuffle
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.run.runner import RunOutcome
from edgewise.toolkit.tracking.events import (
    GroupsFinished,
    RolloutFinished,
    StageStarted,
    StepFinished,
)
from edgewise.toolkit.types import BlockingCall, Example, Group, Plan, Rollout
from edgewise.toolkit.util.seeds import derive_seed

ALL = "all nodes"


# ---- learning --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AdoptStep:
    """What one step saw and did; `proposals` are the operations that each node's comparisons proposed."""

    number: int
    epoch: int
    groups: tuple[Group, ...]
    proposals: Mapping[str, Sequence[Operation]]
    choice: Choice[NodeLibraries]

    def to_json(self) -> dict[str, Any]:
        """Plain data, as in RUN/steps/NNN/step.json."""
        return {
            "step": self.number,
            "epoch": self.epoch,
            "statistics": summarise_groups(self.groups),
            "groups": [
                {"example": group.example.id, "rewards": list(group.rewards)} for group in self.groups
            ],
            "proposals": {node: [op.model_dump() for op in found] for node, found in self.proposals.items()},
            "gate": self.choice.to_json(),
            "nodes": self.choice.chosen.to_json(),
        }

    def summary(self) -> str:
        """One line for people."""
        lessons = {node: len(library) for node, library in self.choice.chosen.nodes.items()}
        found = summarise_groups(self.groups)
        return (
            f"step {self.number}: mean reward {found['mean_reward']:.2f}, {found['mixed']:.0%} of groups mixed; "
            f"{self.choice.summary()}; lessons: {lessons or 'none'}"
        )


def learn(job: ExperienceSpec, gateway: Gateway) -> Plan[RunOutcome]:
    """Learn libraries on the training rows, then measure them on the test rows."""
    current, spending, number = NodeLibraries(), AlphaSpending(job.gate_alpha, job.steps), 0
    for epoch in range(1, job.config.epochs + 1):
        rows = shuffle(job.task.train, job.config.seed, epoch)
        for start in range(0, len(rows), job.config.batch_size):
            number += 1
            batch = rows[start : start + job.config.batch_size]
            record = yield from step(job, gateway, current, batch, spending, number, epoch)
            yield StepFinished(record)
            current, spending = record.choice.chosen, spending.after(record.choice)
    return (yield from _measured(job, gateway, current))


def step(
    job: ExperienceSpec,
    gateway: Gateway,
    current: NodeLibraries,
    rows: Sequence[Example],
    spending: AlphaSpending,
    number: int,
    epoch: int,
) -> Plan[AdoptStep]:
    """Run groups on rows, compare what each node did in them, and let the gate choose."""
    yield StageStarted(f"step {number}: {len(rows)} rows, {job.config.group_size} runs each")
    groups = yield [
        runs(job, gateway, current, row, job.config.group_size, "rollout", number) for row in rows
    ]
    yield GroupsFinished(groups)
    check_alive([run for group in groups for run in group.members], needs_score=True)
    proposals = yield from _proposed(job, current, groups)
    updates = yield [
        _updated(job, node, current.of(node), found, number) for node, found in proposals.items()
    ]
    challengers = _challengers(current, dict(zip(proposals, updates, strict=True)))
    choice = yield from _decided(job, gateway, current, challengers, spending.level, number)
    return AdoptStep(number, epoch, tuple(groups), proposals, choice)


def runs(
    job: ExperienceSpec,
    gateway: Gateway,
    libraries: NodeLibraries,
    row: Example,
    size: int,
    payer: str,
    number: int,
) -> Plan[Group]:
    """`size` graded runs of the program on a row."""
    found = yield [_attempt(job, gateway, libraries, row, sample, payer, number) for sample in range(size)]
    return Group(row, ROLE, tuple(found))


def _attempt(
    job: ExperienceSpec,
    gateway: Gateway,
    libraries: NodeLibraries,
    row: Example,
    sample: int,
    payer: str,
    number: int,
) -> Plan[Rollout]:
    # Learning steps draw anew; whatever is measured is drawn alike, so that libraries are compared in pairs.
    phase = number if payer == "rollout" else 0
    seed = derive_seed(job.config.seed, phase, row.id, sample)
    trial = Trial(row, libraries.nodes, libraries.version, sample, seed, payer, number)
    run: Rollout = yield BlockingCall(gateway.run, (trial,))
    graded = replace(run, score=(yield from job.task.reward.grade(row, run, job.judge)))
    yield RolloutFinished(graded)
    return graded


def _proposed(
    job: ExperienceSpec, current: NodeLibraries, groups: Sequence[Group]
) -> Plan[dict[str, tuple[Operation, ...]]]:
    """What the comparisons propose, by node, over all groups whose rewards differ."""
    parts = [part for group in groups if group.is_mixed for part in by_node(group)]
    found = yield [_compared(job, part, current.of(part.role)) for part in parts]
    nodes = sorted({part.role for part in parts})
    by_name = {
        node: tuple(op for part, ops in zip(parts, found, strict=True) if part.role == node for op in ops)
        for node in nodes
    }
    return {node: ops for node, ops in by_name.items() if ops}


def by_node(group: Group) -> list[Group]:
    """
    A group of whole runs as a group for each node: its calls, with the reward of the run that they were part of.

    The question of such a group is what the node was first asked. Nodes that spoke in a single run are left out.
    """
    spoke: dict[str, list[Rollout]] = {}
    for run in group.rollouts:
        for call in run.steps[0].subrollouts if not run.failed else ():
            if call.steps:
                spoke.setdefault(call.role, []).append(replace(call, score=run.score, version=run.version))
    parts = [
        Group(replace(group.example, messages=calls[0].steps[0].prompt), node, tuple(calls))
        for node, calls in sorted(spoke.items())
    ]
    return [part for part in parts if part.is_mixed]


def _compared(job: ExperienceSpec, group: Group, library: Library) -> Plan[tuple[Operation, ...]]:
    try:
        return (yield from distiller.distil_group(job.distiller, group, library)).proposals
    except UnreadableReply:
        return ()


def _updated(
    job: ExperienceSpec, node: str, library: Library, proposals: Sequence[Operation], number: int
) -> Plan[Library]:
    """A node's library after one round for all of a step's proposals."""
    try:
        final = yield from distiller.update_library(job.distiller, library, proposals)
    except UnreadableReply:
        final = proposals
    return candidates.apply_within_caps(job, library, final, number)[0]


def _challengers(current: NodeLibraries, updates: Mapping[str, Library]) -> dict[str, NodeLibraries]:
    """
    Each new library alone, and all of them together: one node's lessons may mislead where another's help.

    The gate takes the first of equals, so a node gets lessons only where they help.
    """
    alone = {node: current.with_node(node, new) for node, new in updates.items()}
    return {**alone, ALL: NodeLibraries({**current.nodes, **updates})}


def _decided(
    job: ExperienceSpec,
    gateway: Gateway,
    current: NodeLibraries,
    challengers: Mapping[str, NodeLibraries],
    level: float,
    number: int,
) -> Plan[Choice[NodeLibraries]]:
    if not job.is_gated:
        return Choice(challengers[ALL], ALL, Verdict(True, 0.0, 0))
    rows = shuffle(job.task.validation, job.config.seed, 0)[: job.config.gate_rows]

    def scores(libraries: NodeLibraries, some: Sequence[Example]) -> Plan[Scores]:
        groups = yield [
            runs(job, gateway, libraries, row, job.config.samples, "gate", number) for row in some
        ]
        yield GroupsFinished(groups)
        return np.array([mean_or_zero([valid_reward(run) or 0.0 for run in group.members]) for group in groups])

    return (yield from choose(current, challengers, rows, scores, level, job.anchors))


def _measured(job: ExperienceSpec, gateway: Gateway, learnt: NodeLibraries) -> Plan[RunOutcome]:
    start, rows = NodeLibraries(), job.task.test
    yield StageStarted(f"measuring on {len(rows)} held-out rows")
    arms = []
    for name, libraries in {"before": start, "after": learnt}.items():
        groups = yield [runs(job, gateway, libraries, row, job.config.samples, "measure", 0) for row in rows]
        yield GroupsFinished(groups)
        check_alive([run for group in groups for run in group.members], needs_score=True)
        arms.append(Arm(name, tuple(groups)))
    evaluation = compare(arms, ks=tuple(sorted({1, job.config.samples})))
    files, unchanged = ({FILE: each.to_json()} for each in (learnt, start))
    return RunOutcome(evaluation, files, unchanged)


# ---- in use ----------------------------------------------------------------------------------------
