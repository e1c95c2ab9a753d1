"""
One step of learning: groups are run and compared, candidate libraries are made, the gate decides.

Stages stream: a group is compared as soon as its own last run is graded, while other groups still roll out; only
the candidates wait for the whole batch.
"""

from collections.abc import Sequence
from dataclasses import replace

from edgewise.experience.distil import distiller, pooling
from edgewise.experience.distil.distiller import UnreadableReply
from edgewise.experience.effects import estimate, pruning
from edgewise.experience.effects.exposure import Exposure
from edgewise.experience.library.library import Library
from edgewise.experience.proposers import candidates, gepa
from edgewise.experience.proposers.candidates import Candidates
from edgewise.experience.spec import HARM_CONFIDENCE, ExperienceSpec
from edgewise.experience.training import rollouts as runs
from edgewise.experience.training.gate import _decided
from edgewise.experience.training.records import ExperienceState, ExperienceStep, GroupStudy
from edgewise.experience.training.rollouts import Offer
from edgewise.toolkit.evaluation.gate import Choice
from edgewise.toolkit.groups.sampling import rollout_plan
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.tracking.events import GroupsFinished, StageStarted
from edgewise.toolkit.types import Example, Group, Plan, Rollout


def step(
    job: ExperienceSpec, state: ExperienceState, queue: Sequence[Example], number: int, epoch: int
) -> Plan[ExperienceStep]:
    """Learn from the first rows of `queue` that have something to teach, at most `batch_size` of them."""
    if job.config.proposer == "gepa":
        studies, seen, found = yield from _searched(job, state.library, queue, number, epoch)
    else:
        studies, seen, found = yield from _proposed(job, state.library, queue, number, epoch)
    choice = yield from _decided(job, state, found)
    library = choice.chosen if choice else next(iter(found.libraries.values()), state.library)
    after = _next(job, state, library, choice, studies, seen)
    kept, dropped = pruning.prune(after.library, job.harm_confidence(HARM_CONFIDENCE))
    record = (number, epoch, tuple(studies), found.outcomes, found.incomplete, choice, dropped)
    return ExperienceStep(*record, replace(after, library=kept))


def _next(
    job: ExperienceSpec,
    state: ExperienceState,
    library: Library,
    choice: Choice[Library] | None,
    studies: Sequence[GroupStudy],
    seen: Sequence[Exposure],
) -> ExperienceState:
    """The state after a step, its lessons with what is known of their effects."""
    every = (*state.seen, *seen)
    groups = [] if job.task.reward.relative else [study.group for study in studies]
    spending = state.spending.after(choice) if choice else state.spending
    return ExperienceState(estimate.attach_effects(library, every), spending, state.memory.update(groups), every)


def _searched(
    job: ExperienceSpec, library: Library, queue: Sequence[Example], number: int, epoch: int
) -> Plan[tuple[list[GroupStudy], list[Exposure], Candidates]]:
    """GEPA's search on the queue's first rows; there is no comparison, and a row that it never drew has no group."""
    rows = queue[: job.config.batch_size]
    calls = len(rows) * job.config.group_size
    yield StageStarted(
        f"step {number}, epoch {epoch}: GEPA searches on {len(rows)} rows with {calls} rollouts"
    )
    groups, found = yield from gepa.search(job, library, rows, number)
    check_alive([run for group in groups for run in group.rollouts], needs_score=True)
    return [GroupStudy(group) for group in groups], [], found


def _proposed(
    job: ExperienceSpec, library: Library, queue: Sequence[Example], number: int, epoch: int
) -> Plan[tuple[list[GroupStudy], list[Exposure], Candidates]]:
    """What groups of the queue's first rows, or the bare tasks, propose."""
    if job.config.direct:
        batch = queue[: job.config.batch_size]
        yield StageStarted(f"writing lessons from {len(batch)} tasks without rollouts")
        studies, seen = [], []
        proposals = yield from distiller.distil_tasks(job.distiller, batch, library)
    else:
        studies, seen = yield from _studied(job, library, queue, number, epoch)
        proposals = tuple(op for found in studies for op in found.proposals)
    return studies, seen, (yield from candidates.propose_candidates(job, library, proposals, number))


def _studied(
    job: ExperienceSpec, library: Library, queue: Sequence[Example], number: int, epoch: int
) -> Plan[tuple[list[GroupStudy], list[Exposure]]]:
    """Groups of the queue's first rows and what was made of them; with `refill`, until enough have signal."""
    config = job.config
    wanted = min(config.batch_size, len(queue))
    yield StageStarted(f"step {number}, epoch {epoch}: {wanted} groups of {config.group_size}")
    waiting = queue if config.refill else queue[:wanted]
    offered = yield from runs.offers(job, library, waiting, number)
    done: list[Rollout] = []

    def wave(rows: Sequence[Example]) -> Plan[list[GroupStudy]]:
        if config.allocate == "fixed":
            found = yield [study(job, library, row, offered[row.id]) for row in rows]
        else:
            groups = yield from runs.allocated_groups(job, rows, offered)
            found = yield [compared(job, library, group) for group in groups]
        yield GroupsFinished([each.group for each in found])
        # Of the step so far: a wave may be a single row, and that one may be broken.
        done.extend(run for each in found for run in each.group.members)
        check_alive(done, needs_score=True)
        return found

    studies = yield from rollout_plan.study_in_waves(waiting, wave, wanted, lambda found: found.signal)
    groups = [found.group for found in studies]
    return studies, [x for group in groups for x in runs.observed(job, group, offered[group.example.id])]


def study(job: ExperienceSpec, library: Library, row: Example, offer: Offer) -> Plan[GroupStudy]:
    """One group from its first rollout to its proposals."""
    group = yield from runs.learning_group(job, row, offer)
    return (yield from compared(job, library, group))


def compared(job: ExperienceSpec, library: Library, group: Group) -> Plan[GroupStudy]:
    """What a finished group proposes, if it has something to compare."""
    reason = _no_lesson(job, group)
    if reason:
        return GroupStudy(group, skipped=reason, signal=False)
    try:
        if job.is_pooled:
            return GroupStudy(group, (yield from pooling.propose_topic(job.distiller, job.task, group)))
        return GroupStudy(group, (yield from distiller.distil_group(job.distiller, group, library)))
    except UnreadableReply as error:
        return GroupStudy(group, skipped=str(error))


def _no_lesson(job: ExperienceSpec, group: Group) -> str:
    """Why a group is not compared: all runs broke, or there are rewards to see and they are all equal."""
    config = job.config
    if all(run.failed for run in group.rollouts):
        return "every run failed"
    if not config.truth or config.group_size == 1 or group.is_mixed:
        return ""
    if config.learn_from == "unsolved" and max(group.rewards, default=1) < 1:
        return ""
    return "all rewards are equal"
