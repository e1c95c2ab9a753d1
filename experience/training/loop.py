"""
Training loop of an experience library: steps over the training rows, final pruning, evaluation on held-out rows.

Everything here is a plan (see `toolkit.types.Plan`): it runs the same against a scripted model one call at a
time and against an API at full concurrency.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np

from edgewise.experience.effects.estimate import attach_effects
from edgewise.experience.library.library import Library
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training.final_pruning import prune_final_library
from edgewise.experience.training.placebo import build_placebo_arms
from edgewise.experience.training.records import ExperienceState
from edgewise.experience.training.rollouts import MEASUREMENT_STEP, measure
from edgewise.experience.training.step import run_step
from edgewise.toolkit.evaluation.comparison import Arm, Evaluation, compare
from edgewise.toolkit.evaluation.gate import AlphaSpending
from edgewise.toolkit.groups.sampling.row_selection import drop_resting, shuffle, vade
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.run.driver import charge_to_step
from edgewise.toolkit.run.runner import RunOutcome
from edgewise.toolkit.tracking.events import GroupsFinished, ModelReleased, StageStarted, StepFinished
from edgewise.toolkit.types import Group, Plan
from edgewise.toolkit.util.seeds import derive_seed


def learn(spec: ExperienceSpec) -> Plan[RunOutcome]:
    """
    Learn a library on the training rows, then evaluate it on the test rows, which learning never saw.

    A step is in `run_step`: sample groups, compare, distil, propose, gate. The evaluation compares the start with
    what was learnt.
    """
    config, start = spec.config, spec.start_library
    state = ExperienceState(start, AlphaSpending(spec.gate_alpha, spec.steps))
    number, first_groups = 0, ()

    for epoch in range(1, (1 if config.direct else config.epochs) + 1):
        # The rows of an epoch in an order of their own, without those that rest since they were always solved.
        waiting = shuffle(spec.task.train, config.seed, epoch)
        if config.rest:
            waiting = drop_resting(waiting, state.memory)

        for _ in range(spec.steps_per_epoch):
            number += 1
            queue = waiting
            if config.select == "vade":
                # Twice the batch, so that a refill has rows, and rows without likely signal are never reached.
                rows = drop_resting(waiting, state.memory) if config.rest else waiting
                rng = np.random.default_rng(derive_seed(config.seed, "select", number))
                queue = vade(rows, state.memory, rng, 2 * config.batch_size)

            step = yield from charge_to_step(run_step(spec, state, queue, number, epoch), number)
            yield StepFinished(step)
            state = step.state
            first_groups = first_groups or tuple(step.groups)

            if config.select == "shuffled":
                # Each row once an epoch; VADE may come back to any row.
                visited = {group.example.id for group in step.groups}
                waiting = tuple(row for row in waiting if row.id not in visited)
            if not waiting or config.direct:
                break
        state = replace(state, memory=state.memory.next_round())

    # A last look at single lessons.
    library = yield from charge_to_step(prune_final_library(spec, state), number)

    # Evaluate the start and what was learnt, if anything, on held-out rows.
    arms = {"before": start}
    if library.version != start.version:
        arms["after"] = library
        if config.placebo:
            arms |= yield from charge_to_step(build_placebo_arms(spec, library, first_groups), number)
    evaluation = yield from charge_to_step(evaluate_arms(spec, arms), MEASUREMENT_STEP)

    # The start is written with the effects that were estimated of its lessons.
    start = attach_effects(start, state.exposures)
    files, unchanged = {"library.json": arms.get("after", start).to_json()}, {"library.json": start.to_json()}
    return RunOutcome(evaluation, files, unchanged, spec.parents)


MeasureArm = Callable[[ExperienceSpec], Plan[list[Group]]]
"""An arm without a library, such as trained weights: how to run it on the test rows of a task."""


def evaluate_arms(
    spec: ExperienceSpec, arms: Mapping[str, Library | MeasureArm], sequential: Collection[str] = ()
) -> Plan[Evaluation]:
    """
    Evaluate libraries, or other arms, on the same test rows and samples; return the comparison with the first one.

    Those named in `sequential` run after the others, one by one: each loads a model of its own into the memory.
    """
    rows = spec.task.test

    def measure_arm(name: str) -> Plan[list[Group]]:
        arm = arms[name]
        return measure(spec, arm, rows) if isinstance(arm, Library) else arm(spec)

    yield StageStarted(f"measuring on {len(rows)} held-out rows")
    concurrent = [name for name in arms if name not in sequential]
    results = yield [measure_arm(name) for name in concurrent]
    groups_of: dict[str, list[Group]] = dict(zip(concurrent, results, strict=True))

    # Make room for the models of the others, unless the first model still grades their answers.
    if sequential and not spec.task.reward.asks:
        yield ModelReleased(spec.config.model)
    for name in sequential:
        yield StageStarted(f"measuring {name} on {len(rows)} held-out rows")
        groups_of[name] = yield from measure_arm(name)

    groups = [group for name in arms for group in groups_of[name]]
    yield GroupsFinished(groups)
    check_alive([rollout for group in groups for rollout in group.rollouts], needs_score=True)

    results = [Arm(name, tuple(groups_of[name])) for name in arms]
    if len(results) == 1:
        # Nothing was learnt: the start stands in for the result, and the difference is 0.
        results.append(Arm("after", results[0].groups))
    return compare(results, ks=tuple(sorted({1, spec.config.samples})))
