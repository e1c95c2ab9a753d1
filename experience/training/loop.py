"""
Learning in words: steps over the training rows, a last look at single lessons, and the measurement.

Everything here is a plan (see `toolkit.types.Plan`): it runs the same against a scripted model one call at a
time and against an API at full concurrency.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgewise.experience.effects import estimate
from edgewise.experience.library.library import Library
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training import final_pruning, placebo, rollouts
from edgewise.experience.training.records import ExperienceState, ExperienceStep
from edgewise.experience.training.rollouts import MEASURING
from edgewise.experience.training.step import step
from edgewise.toolkit.evaluation.comparison import Arm, compare
from edgewise.toolkit.evaluation.gate import AlphaSpending
from edgewise.toolkit.groups.sampling.row_selection import drop_resting, shuffle, vade
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.run.driver import charge_to_step
from edgewise.toolkit.run.runner import RunOutcome
from edgewise.toolkit.tracking.events import GroupsFinished, ModelReleased, StageStarted, StepFinished
from edgewise.toolkit.types import Example, Group, Plan
from edgewise.toolkit.util.seeds import derive_seed


def learn(job: ExperienceSpec) -> Plan[RunOutcome]:
    """
    The whole job: learn a library on the training rows, then measure it on the test rows.

    Ends with the evaluation of the start and of what was learnt, on rows that learning never saw.
    """
    state = ExperienceState(job.start_library, AlphaSpending(job.gate_alpha, job.steps))
    number, first = 0, ()
    for epoch in range(1, (1 if job.config.direct else job.config.epochs) + 1):
        waiting = _awake(job, state, epoch)
        for _ in range(job.steps_per_epoch):
            number += 1
            queue = _queue(job, state, waiting, number)
            record = yield from charge_to_step(step(job, state, queue, number, epoch), number)
            yield StepFinished(record)
            state, first = record.state, first or tuple(study.group for study in record.studies)
            waiting = _left(job, waiting, record)
            if not waiting or job.config.direct:
                break
        state = replace(state, memory=state.memory.next_round())
    library = yield from charge_to_step(final_pruning.tidied(job, state), number)
    arms = {"before": job.start_library, **({"after": library} if library.version != job.start_library.version else {})}
    if job.config.placebo and "after" in arms:
        arms |= yield from charge_to_step(placebo.libraries(job, library, first), number)
    return (yield from charge_to_step(_outcome(job, arms, estimate.attach_effects(job.start_library, state.seen)), MEASURING))


def _awake(job: ExperienceSpec, state: ExperienceState, epoch: int) -> tuple[Example, ...]:
    """The rows of an epoch in their order, without those that rest."""
    rows = shuffle(job.task.train, job.config.seed, epoch)
    return drop_resting(rows, state.memory) if job.config.rest else rows


def _queue(
    job: ExperienceSpec, state: ExperienceState, waiting: Sequence[Example], number: int
) -> tuple[Example, ...]:
    """The rows of a step, the first ones first; VADE's end where signal is no longer likely."""
    if job.config.select == "shuffled":
        return tuple(waiting)
    rows = drop_resting(waiting, state.memory) if job.config.rest else waiting
    rng = np.random.default_rng(derive_seed(job.config.seed, "select", number))
    return vade(rows, state.memory, rng, 2 * job.config.batch_size)


def _left(job: ExperienceSpec, waiting: Sequence[Example], record: ExperienceStep) -> tuple[Example, ...]:
    """What an epoch still has to visit: VADE may visit any row again."""
    if job.config.select != "shuffled":
        return tuple(waiting)
    done = {study.group.example.id for study in record.studies}
    return tuple(row for row in waiting if row.id not in done)


def _outcome(job: ExperienceSpec, arms: Mapping[str, Library], start: Library) -> Plan[RunOutcome]:
    """The measurement; the start is kept with what was measured of its lessons."""
    evaluation = yield from evaluate(job, arms)
    files, unchanged = ({"library.json": each.to_json()} for each in (arms.get("after", start), start))
    return RunOutcome(evaluation, files, unchanged, job.parents)


Runs = Callable[[ExperienceSpec], Plan[list[Group]]]
"""A way of answering other than a library: how to run it on the test rows of a job."""


def evaluate(
    job: ExperienceSpec, libraries: Mapping[str, Library | Runs], alone: Collection[str] = ()
) -> Plan[Any]:
    """
    Run libraries, or other ways, on the same test rows and samples; returns a `toolkit.evaluation.comparison.Evaluation`.

    Those named in `alone` run after the others, one by one: each brings a model of its own into the memory.
    """
    yield StageStarted(f"measuring on {len(job.task.test)} held-out rows")
    together = [name for name in libraries if name not in alone]
    answers = yield [_answers(job, libraries[name]) for name in together]
    found: dict[str, list[Group]] = dict(zip(together, answers, strict=True))
    if alone and not job.task.reward.asks:
        yield ModelReleased(job.config.model)
    for name in alone:
        yield StageStarted(f"measuring {name} on {len(job.task.test)} held-out rows")
        found[name] = yield from _answers(job, libraries[name])
    groups = [found[name] for name in libraries]
    yield GroupsFinished([group for arm in groups for group in arm])
    check_alive([run for arm in groups for group in arm for run in group.rollouts], needs_score=True)
    arms = [Arm(name, tuple(found[name])) for name in libraries]
    if len(arms) == 1:
        arms = [*arms, Arm("after", arms[0].groups)]
    return compare(arms, ks=tuple(sorted({1, job.config.samples})))


def _answers(job: ExperienceSpec, way: Library | Runs) -> Plan[list[Group]]:
    return rollouts.measure(job, way, job.task.test) if isinstance(way, Library) else way(job)
