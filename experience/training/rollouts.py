"""
Sample groups of rollouts under a library: which lessons each rollout sees, and its graded group.

While learning, a rollout sees a random subset of the lessons, so that the effect of each is estimated from rollouts
that are paid for anyway. Rollouts of one sample index share their subset with the same rollouts of `BLOCK_ROWS` rows:
their prompts begin alike, which keeps a provider's prefix cache warm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgewise.experience.effects import exposure
from edgewise.experience.effects.exposure import Exposure
from edgewise.experience.library.library import Library
from edgewise.experience.prompting.retriever import prefetch_embeddings, select_lessons
from edgewise.experience.spec import ExperienceSpec
from edgewise.toolkit.groups.sampling import rollout_plan
from edgewise.toolkit.rollout.agent import Prompt, run_rollouts
from edgewise.toolkit.types import Example, Group, Plan, Rollout
from edgewise.toolkit.util.seeds import derive_seed

MEASUREMENT_STEP = 0
"""The step that measurements are charged to, and their seeds made of; learning counts from 1."""
BLOCK_ROWS = 5
ALLOCATION_PHASES = 3
MAX_ALLOCATION = 2
"""How many times `group_size` a row may get, where rollouts are allocated."""


@dataclass(frozen=True, slots=True)
class LessonPool:
    """The lessons that match one row in one step; each rollout sees a random subset of them."""

    lessons: Library
    step: int
    block: int

    def draw_subset(self, spec: ExperienceSpec, sample: int) -> Library:
        """Return the lessons of one rollout; the same again for the same sample index."""
        # No row in the seed: all rows of a block see the same subset, in the same place of the prompt.
        seed = derive_seed(spec.config.seed, "lessons", self.step, self.block, sample)
        return exposure.sample_subset(self.lessons, spec.inclusion, seed)


def build_lesson_pools(
    spec: ExperienceSpec, library: Library, rows: Sequence[Example], step: int
) -> Plan[dict[str, LessonPool]]:
    """Return the pool of each row, by its id; the place in the step's order decides its block."""
    # Once for all rows; the concurrent selections below would each request the same vectors.
    yield from prefetch_embeddings(library, spec.retrieval)
    matches = yield [select_lessons(library, row.messages, spec.retrieval) for row in rows]
    return {
        row.id: LessonPool(lessons, step, index // BLOCK_ROWS)
        for index, (row, lessons) in enumerate(zip(rows, matches, strict=True))
    }


def sample_group(spec: ExperienceSpec, row: Example, pool: LessonPool) -> Plan[Group]:
    """Sample `group_size` rollouts on a row, graded against each other where the reward is relative."""
    rollouts = yield from _sample_rollouts(spec, row, pool, 0, spec.config.group_size)
    return Group(row, spec.rollout_agent.role, rollouts)


def sample_allocated_groups(
    spec: ExperienceSpec, rows: Sequence[Example], pools: Mapping[str, LessonPool]
) -> Plan[list[Group]]:
    """Sample `group_size` rollouts a row on average, more where rewards are uncertain (XRPO, arXiv 2510.06672)."""
    size = spec.config.group_size

    def sample(row: Example, start: int, count: int) -> Plan[tuple[Rollout, ...]]:
        return _sample_rollouts(spec, row, pools[row.id], start, count)

    # Two rollouts at least, since uncertainty is a standard deviation; half of the budget is left to allocate.
    first, most = min(size, max(2, size // 2)), MAX_ALLOCATION * size
    budget = size * len(rows)
    rollouts = yield from rollout_plan.sample_in_phases(sample, rows, budget, first, ALLOCATION_PHASES, most)
    role = spec.rollout_agent.role
    return [Group(row, role, of_row) for row, of_row in zip(rows, rollouts, strict=True)]


def _sample_rollouts(
    spec: ExperienceSpec, row: Example, pool: LessonPool, start: int, count: int
) -> Plan[tuple[Rollout, ...]]:
    """Sample rollouts while learning, with the sample indices start ... start + count - 1."""
    subsets = [pool.draw_subset(spec, sample) for sample in range(start, start + count)]
    prompts = [Prompt(subset.insert_lessons(row.messages), subset.version) for subset in subsets]
    seed, reward = derive_seed(spec.config.seed, pool.step), spec.task.reward
    # `together` lets a relative reward grade the rollouts against each other.
    return run_rollouts(
        spec.rollout_agent, row, prompts, reward, judge=spec.judge, seed=seed, start=start, together=True
    )


def collect_exposures(spec: ExperienceSpec, group: Group, pool: LessonPool) -> list[Exposure]:
    """Return which lessons each rollout of a group saw, and its reward; nothing where every one saw all of them."""
    # Without variation in what is shown there is nothing to estimate an effect from.
    if spec.inclusion == 1:
        return []
    row, exposures = group.example.id, []
    for rollout in group.rollouts:
        # None, not 0, for a failed rollout: a failure of the provider says nothing of a lesson.
        reward = rollout.score.value if rollout.score and rollout.score.valid else None
        subset = pool.draw_subset(spec, rollout.sample)
        exposures.append(exposure.record_exposure(f"{pool.step}/{row}", pool.lessons, subset, reward, row))
    return exposures


def measure(
    spec: ExperienceSpec, library: Library, rows: Sequence[Example], payer: str = "measure", version: str = ""
) -> Plan[list[Group]]:
    """
    Sample groups of `samples` rollouts under a library, with the settings and seeds of use.

    `version` is recorded with each rollout; the library's own by default.
    """
    agent, samples = spec.eval_agent(payer), spec.config.samples
    # The same seeds for every library, so that differences are paired.
    seed = derive_seed(spec.config.seed, MEASUREMENT_STEP)

    def measure_row(row: Example) -> Plan[Group]:
        lessons = yield from select_lessons(library, row.messages, spec.retrieval)
        prompts = [Prompt(lessons.insert_lessons(row.messages), version or library.version)] * samples
        rollouts = yield from run_rollouts(agent, row, prompts, spec.task.reward, judge=spec.judge, seed=seed)
        return Group(row, agent.role, rollouts)

    yield from prefetch_embeddings(library, spec.retrieval)
    return (yield [measure_row(row) for row in rows])
