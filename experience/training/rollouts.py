"""
How the model is run under a library: which lessons each run sees, and the groups that come of it.

While learning, a run sees a random part of the lessons, so that what each is worth is measured in rollouts that are
paid for anyway. Runs of one sample index share their part with the same runs of `BLOCK` rows: their prompts begin
alike, which keeps a provider's prefix cache warm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgewise.experience.effects import exposure
from edgewise.experience.effects.exposure import Exposure
from edgewise.experience.library.library import Library
from edgewise.experience.prompting import retriever
from edgewise.experience.spec import ExperienceSpec
from edgewise.toolkit.groups.sampling import rollout_plan
from edgewise.toolkit.rollout import agent
from edgewise.toolkit.rollout.agent import Agent, Prompt
from edgewise.toolkit.types import Example, Group, Plan, Rollout
from edgewise.toolkit.util.seeds import derive_seed

MEASURING = 0
BLOCK = 5
PHASES = 3
MOST = 2
"""How many times `group_size` a row may get, where rollouts are allocated."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What the runs of one row in one step may see: each gets a random part of `lessons`."""

    lessons: Library
    step: int
    block: int

    def part(self, job: ExperienceSpec, sample: int) -> Library:
        """What one run sees."""
        seed = derive_seed(job.config.seed, "lessons", self.step, self.block, sample)
        return exposure.sample_subset(self.lessons, job.inclusion, seed)


def offers(
    job: ExperienceSpec, library: Library, rows: Sequence[Example], step: int
) -> Plan[dict[str, Offer]]:
    """The offer of each row, by its id: the lessons that fit it, and a block by its place in the step's order."""
    yield from retriever.prefetch_embeddings(library, job.retrieval)
    fitting = yield [retriever.select_lessons(library, row.messages, job.retrieval) for row in rows]
    return {
        row.id: Offer(lessons, step, index // BLOCK)
        for index, (row, lessons) in enumerate(zip(rows, fitting, strict=True))
    }


def learning_group(job: ExperienceSpec, row: Example, offer: Offer) -> Plan[Group]:
    """`group_size` runs on a row, each with its part of the lessons, graded against each other where asked."""
    found = yield from _learning_runs(job, row, offer, 0, job.config.group_size)
    return Group(row, job.rollout_agent.role, found)


def allocated_groups(
    job: ExperienceSpec, rows: Sequence[Example], offered: Mapping[str, Offer]
) -> Plan[list[Group]]:
    """As many runs as `group_size` a row would be, more where rewards are uncertain (XRPO's allocator)."""
    size = job.config.group_size

    def draw(row: Example, start: int, count: int) -> Plan[tuple[Rollout, ...]]:
        return _learning_runs(job, row, offered[row.id], start, count)

    first = min(size, max(2, size // 2))
    found = yield from rollout_plan.sample_in_phases(draw, rows, size * len(rows), first, PHASES, MOST * size)
    return [Group(row, job.rollout_agent.role, runs) for row, runs in zip(rows, found, strict=True)]


def observed(job: ExperienceSpec, group: Group, offer: Offer) -> list[Exposure]:
    """What a group says of the lessons that its runs saw or did not see; nothing where every run saw all of them."""
    if job.inclusion == 1:
        return []
    return [_seen(job, group, run, offer) for run in group.rollouts]


def _seen(job: ExperienceSpec, group: Group, run: Rollout, offer: Offer) -> Exposure:
    row = group.example.id
    reward = run.score.value if run.score and run.score.valid else None
    return exposure.record_exposure(f"{offer.step}/{row}", offer.lessons, offer.part(job, run.sample), reward, row)


def measure(
    job: ExperienceSpec, library: Library, rows: Sequence[Example], payer: str = "measure", version: str = ""
) -> Plan[list[Group]]:
    """
    Groups of `samples` runs on rows under a library, with the settings and seeds of use.

    `version` is what they are noted under; the library's own by default.
    """
    user = job.eval_agent(payer)
    yield from retriever.prefetch_embeddings(library, job.retrieval)
    return (yield [_measured(job, library, row, user, version or library.version) for row in rows])


def _measured(job: ExperienceSpec, library: Library, row: Example, user: Agent, version: str) -> Plan[Group]:
    shown = yield from retriever.select_lessons(library, row.messages, job.retrieval)
    prompts = [Prompt(shown.insert_lessons(row.messages), version)] * job.config.samples
    return Group(row, user.role, (yield from _runs(job, user, row, prompts, MEASURING)))


def _learning_runs(
    job: ExperienceSpec, row: Example, offer: Offer, start: int, count: int
) -> Plan[tuple[Rollout, ...]]:
    parts = [offer.part(job, sample) for sample in range(start, start + count)]
    prompts = [Prompt(part.insert_lessons(row.messages), part.version) for part in parts]
    return (yield from _runs(job, job.rollout_agent, row, prompts, offer.step, start=start, together=True))


def _runs(
    job: ExperienceSpec, runner: Agent, row: Example, prompts: Sequence[Prompt], step: int, **how: Any
) -> Plan[tuple[Rollout, ...]]:
    seed = derive_seed(job.config.seed, step)
    return agent.run_rollouts(runner, row, prompts, job.task.reward, judge=job.judge, seed=seed, **how)
