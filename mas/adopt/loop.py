"""
Training loop of lessons for the nodes of a user's program, such as a LangGraph graph, which stays as it is.

The task's reward compares a group of runs of the whole program on one row; from winners and losers each node gets
lessons from its own calls, and the gate decides on validation rows whether they stay. The result is a library for
each node; `edgewise serve` inserts them into the program's calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgewise.experience.distil import distiller
from edgewise.experience.distil.distiller import UnreadableReply
from edgewise.experience.library.library import Library
from edgewise.experience.library.operations import Operation
from edgewise.experience.proposers.candidates import apply_within_caps
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training.gate import select_gate_rows
from edgewise.experience.training.records import mean_or_zero, summarise_groups
from edgewise.mas.adopt.gateway import ROLE, Gateway, ProgramRun
from edgewise.mas.adopt.node_libraries import FILE, NodeLibraries
from edgewise.toolkit.evaluation.comparison import Arm, compare, valid_reward
from edgewise.toolkit.evaluation.gate import AlphaSpending, Choice, Scores, Verdict, choose
from edgewise.toolkit.groups.sampling.row_selection import shuffle, split_batches
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.run.runner import RunOutcome
from edgewise.toolkit.tracking.events import GroupsFinished, RolloutFinished, StageStarted, StepFinished
from edgewise.toolkit.types import BlockingCall, Example, Group, Plan, Rollout
from edgewise.toolkit.util.seeds import derive_seed

ALL_NODES = "all nodes"


@dataclass(frozen=True, slots=True)
class AdoptStep:
    """Record of one step; `proposals` are the operations that each node's comparisons proposed."""

    number: int
    epoch: int
    groups: tuple[Group, ...]
    proposals: Mapping[str, Sequence[Operation]]
    choice: Choice[NodeLibraries]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as in RUN/steps/NNN/step.json."""
        groups = [{"example": group.example.id, "rewards": list(group.rewards)} for group in self.groups]
        return {
            "step": self.number,
            "epoch": self.epoch,
            "statistics": summarise_groups(self.groups),
            "groups": groups,
            "proposals": {node: [op.model_dump() for op in ops] for node, ops in self.proposals.items()},
            "gate": self.choice.to_json(),
            "nodes": self.choice.chosen.to_json(),
        }

    def summary(self) -> str:
        """Return one line for people."""
        lessons = {node: len(library) for node, library in self.choice.chosen.nodes.items()}
        statistics = summarise_groups(self.groups)
        return (
            f"step {self.number}: mean reward {statistics['mean_reward']:.2f}, "
            f"{statistics['mixed']:.0%} of groups mixed; {self.choice.summary()}; lessons: {lessons or 'none'}"
        )


def learn(spec: ExperienceSpec, gateway: Gateway) -> Plan[RunOutcome]:
    """Learn libraries on the training rows, then evaluate them on the test rows, which learning never saw."""
    config, libraries, number = spec.config, NodeLibraries(), 0
    spending = AlphaSpending(spec.gate_alpha, spec.steps)
    for epoch in range(1, config.epochs + 1):
        for batch in split_batches(shuffle(spec.task.train, config.seed, epoch), config.batch_size):
            number += 1
            step = yield from run_step(spec, gateway, libraries, batch, spending, number, epoch)
            yield StepFinished(step)
            libraries, spending = step.choice.chosen, spending.after(step.choice)

    # Both arms on the same rows and samples.
    start, rows = NodeLibraries(), spec.task.test
    yield StageStarted(f"measuring on {len(rows)} held-out rows")
    arms = []
    for name, arm in {"before": start, "after": libraries}.items():
        groups = yield [run_group(spec, gateway, arm, row, config.samples, "measure", 0) for row in rows]
        yield GroupsFinished(groups)
        check_alive([run for group in groups for run in group.rollouts], needs_score=True)
        arms.append(Arm(name, tuple(groups)))
    evaluation = compare(arms, ks=tuple(sorted({1, config.samples})))
    return RunOutcome(evaluation, {FILE: libraries.to_json()}, {FILE: start.to_json()})


def run_step(
    spec: ExperienceSpec,
    gateway: Gateway,
    current: NodeLibraries,
    rows: Sequence[Example],
    spending: AlphaSpending,
    number: int,
    epoch: int,
) -> Plan[AdoptStep]:
    """Run groups on rows, compare what each node did in them, update the nodes' libraries, and let the gate choose."""
    # Sample.
    size = spec.config.group_size
    yield StageStarted(f"step {number}: {len(rows)} rows, {size} runs each")
    groups = yield [run_group(spec, gateway, current, row, size, "rollout", number) for row in rows]
    yield GroupsFinished(groups)
    check_alive([run for group in groups for run in group.rollouts], needs_score=True)

    # Compare by node, over all groups whose rewards differ.
    parts = [part for group in groups if group.is_mixed for part in split_by_node(group)]
    operations = yield [_compare(spec, part, current.get(part.role)) for part in parts]
    proposals: dict[str, tuple[Operation, ...]] = {}
    for part, ops in sorted(zip(parts, operations, strict=True), key=lambda pair: pair[0].role):
        if ops:
            proposals[part.role] = (*proposals.get(part.role, ()), *ops)

    # Each new library alone, and all of them together: one node's lessons may mislead where another's help. The gate
    # takes the first of equals, so a node gets lessons only where they help.
    results = yield [_update(spec, current.get(node), ops, number) for node, ops in proposals.items()]
    updates = dict(zip(proposals, results, strict=True))
    candidates = {node: current.with_node(node, library) for node, library in updates.items()}
    candidates[ALL_NODES] = NodeLibraries({**current.nodes, **updates})
    choice = yield from _choose(spec, gateway, current, candidates, spending.level, number)
    return AdoptStep(number, epoch, tuple(groups), proposals, choice)


def run_group(
    spec: ExperienceSpec, gateway: Gateway, libraries: NodeLibraries, row: Example, size: int, payer: str, number: int
) -> Plan[Group]:
    """Run the program `size` times on a row, graded; `payer` is the role that pays."""
    # Learning steps sample anew; evaluations sample alike, so that libraries are compared in pairs.
    phase = number if payer == "rollout" else 0

    def run_once(sample: int) -> Plan[Rollout]:
        seed = derive_seed(spec.config.seed, phase, row.id, sample)
        run = ProgramRun(row, libraries.nodes, libraries.version, sample, seed, payer, number)
        rollout: Rollout = yield BlockingCall(gateway.run, (run,))
        graded = replace(rollout, score=(yield from spec.task.reward.grade(row, rollout, spec.judge)))
        yield RolloutFinished(graded)
        return graded

    rollouts = yield [run_once(sample) for sample in range(size)]
    return Group(row, ROLE, tuple(rollouts))


def split_by_node(group: Group) -> list[Group]:
    """
    Return a group for each node: its calls, with the reward of the whole run that they were part of.

    The question of such a group is the node's first prompt. Nodes whose rewards don't differ are left out, and with
    them those that were called in a single run.
    """
    by_node: dict[str, list[Rollout]] = {}
    for run in group.rollouts:
        for call in run.steps[0].subrollouts if not run.failed else ():
            if call.steps:
                by_node.setdefault(call.role, []).append(replace(call, score=run.score, version=run.version))
    parts = [
        Group(replace(group.example, messages=calls[0].steps[0].prompt), node, tuple(calls))
        for node, calls in sorted(by_node.items())
    ]
    return [part for part in parts if part.is_mixed]


def _compare(spec: ExperienceSpec, group: Group, library: Library) -> Plan[tuple[Operation, ...]]:
    try:
        return (yield from distiller.distil_group(spec.distiller, group, library)).proposals
    except UnreadableReply:
        return ()


def _update(spec: ExperienceSpec, library: Library, proposals: Sequence[Operation], number: int) -> Plan[Library]:
    """Update a node's library; proposals are taken as they are where the distiller's update can't be parsed."""
    try:
        operations = yield from distiller.update_library(spec.distiller, library, proposals)
    except UnreadableReply:
        operations = proposals
    return apply_within_caps(spec, library, operations, number)[0]


def _choose(
    spec: ExperienceSpec,
    gateway: Gateway,
    current: NodeLibraries,
    candidates: Mapping[str, NodeLibraries],
    alpha: float,
    number: int,
) -> Plan[Choice[NodeLibraries]]:
    if not spec.is_gated:
        return Choice(candidates[ALL_NODES], ALL_NODES, Verdict(True, 0.0, 0))

    def mean_rewards(libraries: NodeLibraries, rows: Sequence[Example]) -> Plan[Scores]:
        samples = spec.config.samples
        groups = yield [run_group(spec, gateway, libraries, row, samples, "gate", number) for row in rows]
        yield GroupsFinished(groups)
        return np.array([mean_or_zero([valid_reward(x) or 0.0 for x in group.rollouts]) for group in groups])

    rows = select_gate_rows(spec)
    return (yield from choose(current, candidates, rows, mean_rewards, alpha, spec.anchors))
