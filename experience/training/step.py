"""
One training step: sample groups, compare and distil them, propose candidate libraries, gate, prune.

Stages stream: a group is compared as soon as its own last rollout is graded, while other groups still roll out; only
the candidates wait for the whole batch.
"""

from collections.abc import Sequence

from edgewise.experience.distil import distiller, pooling
from edgewise.experience.effects import estimate, pruning
from edgewise.experience.effects.exposure import Exposure
from edgewise.experience.library.library import Library
from edgewise.experience.proposers import gepa
from edgewise.experience.proposers.candidates import propose_candidates
from edgewise.experience.spec import HARM_CONFIDENCE, ExperienceSpec
from edgewise.experience.training import rollouts
from edgewise.experience.training.gate import choose_library
from edgewise.experience.training.records import ExperienceState, ExperienceStep, GroupStudy
from edgewise.toolkit.groups.sampling.rollout_plan import study_in_waves
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.tracking.events import GroupsFinished, StageStarted
from edgewise.toolkit.types import Example, Group, Plan, Rollout


def run_step(
    spec: ExperienceSpec, state: ExperienceState, queue: Sequence[Example], number: int, epoch: int
) -> Plan[ExperienceStep]:
    """Learn from the first rows of `queue` that have something to teach, at most `batch_size` of them."""
    config, library = spec.config, state.library
    batch = queue[: config.batch_size]
    studies: list[GroupStudy] = []
    exposures: list[Exposure] = []

    # Sample, compare and propose: candidate libraries from a search, from the tasks alone, or from groups.
    if config.proposer == "gepa":
        calls = len(batch) * config.group_size
        yield StageStarted(f"step {number}, epoch {epoch}: GEPA searches on {len(batch)} rows with {calls} rollouts")
        groups, candidates = yield from gepa.search(spec, library, batch, number)
        check_alive([rollout for group in groups for rollout in group.rollouts], needs_score=True)
        studies = [GroupStudy(group) for group in groups]
    elif config.direct:
        yield StageStarted(f"writing lessons from {len(batch)} tasks without rollouts")
        proposals = yield from distiller.distil_tasks(spec.distiller, batch, library)
        candidates = yield from propose_candidates(spec, library, proposals, number)
    else:
        studies, exposures = yield from study_groups(spec, library, queue, number, epoch)
        proposals = tuple(op for study in studies for op in study.proposals)
        candidates = yield from propose_candidates(spec, library, proposals, number)

    # Gate. Without one the best guess is taken as it is.
    choice = yield from choose_library(spec, state, candidates)
    best_guess = next(iter(candidates.libraries.values()), library)
    library = choice.chosen if choice else best_guess

    # Estimate the effect of each lesson from all exposures so far, and drop those that measurably do harm.
    exposures = [*state.exposures, *exposures]
    library = estimate.attach_effects(library, exposures)
    library, harmful = pruning.prune(library, spec.harm_confidence(HARM_CONFIDENCE))

    # A relative reward has a meaning within its group only, so the memory of rows learns nothing from it.
    groups = [] if spec.task.reward.relative else [study.group for study in studies]
    spending = state.spending.after(choice) if choice else state.spending
    after = ExperienceState(library, spending, state.memory.update(groups), tuple(exposures))
    return ExperienceStep(
        number, epoch, tuple(studies), candidates.outcomes, candidates.incomplete, choice, harmful, after
    )


def study_groups(
    spec: ExperienceSpec, library: Library, queue: Sequence[Example], number: int, epoch: int
) -> Plan[tuple[list[GroupStudy], list[Exposure]]]:
    """Sample and compare groups of the queue's first rows; with `refill`, until a whole batch has signal."""
    config = spec.config
    wanted = min(config.batch_size, len(queue))
    yield StageStarted(f"step {number}, epoch {epoch}: {wanted} groups of {config.group_size}")
    waiting = queue if config.refill else queue[:wanted]
    pools = yield from rollouts.build_lesson_pools(spec, library, waiting, number)
    all_rollouts: list[Rollout] = []

    def study_wave(rows: Sequence[Example]) -> Plan[list[GroupStudy]]:
        if config.allocate == "fixed":
            studies = yield [study_group(spec, library, row, pools[row.id]) for row in rows]
        else:
            # Allocation looks at the rewards of all rows of the wave, so comparisons wait for it.
            groups = yield from rollouts.sample_allocated_groups(spec, rows, pools)
            studies = yield [compare_group(spec, library, group) for group in groups]
        yield GroupsFinished([study.group for study in studies])
        # Of the step so far: a wave may be a single row, and that one may be broken.
        all_rollouts.extend(rollout for study in studies for rollout in study.group.rollouts)
        check_alive(all_rollouts, needs_score=True)
        return studies

    studies = yield from study_in_waves(waiting, study_wave, wanted, lambda study: study.has_signal)
    exposures = []
    for study in studies:
        exposures += rollouts.collect_exposures(spec, study.group, pools[study.group.example.id])
    return studies, exposures


def study_group(spec: ExperienceSpec, library: Library, row: Example, pool: rollouts.LessonPool) -> Plan[GroupStudy]:
    """Sample one group and compare it at once."""
    group = yield from rollouts.sample_group(spec, row, pool)
    return (yield from compare_group(spec, library, group))


def compare_group(spec: ExperienceSpec, library: Library, group: Group) -> Plan[GroupStudy]:
    """Distil a finished group into proposals, if it has something to compare."""
    config = spec.config
    if all(rollout.failed for rollout in group.rollouts):
        return GroupStudy(group, skip_reason="every run failed", has_signal=False)
    # Equal rewards teach nothing, where the distiller sees rewards and there are several. A group without a full
    # reward may still be told from its reference answer, with learn_from=unsolved.
    is_unsolved = config.learn_from == "unsolved" and max(group.rewards, default=1) < 1
    if config.truth and config.group_size > 1 and not group.is_mixed and not is_unsolved:
        return GroupStudy(group, skip_reason="all rewards are equal", has_signal=False)

    try:
        if spec.is_pooled:
            comparison = yield from pooling.propose_topic(spec.distiller, spec.task, group)
        else:
            comparison = yield from distiller.distil_group(spec.distiller, group, library)
    except distiller.UnreadableReply as error:
        return GroupStudy(group, skip_reason=str(error))
    return GroupStudy(group, comparison)
