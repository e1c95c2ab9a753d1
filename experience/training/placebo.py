"""
Placebo arms: is it the lessons, or would any text have done?

Two more libraries are measured beside the learnt one: lessons of the same length about something else, and what the
same step learns from the same rollouts when rewards and right answers are dealt out at random.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgewise.experience.library.library import Library, make_lesson
from edgewise.experience.proposers import candidates
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training.step import compared
from edgewise.toolkit.types import Group, Plan
from edgewise.toolkit.util.seeds import derive_seed

OFF_TOPIC = """
water tomatoes early prune roses after frost turn compost weekly sow carrots in loose soil shade lettuce at noon tie
climbing beans to poles mulch paths with straw harvest herbs before flowering store bulbs dry rotate beds every spring
""".split()


def libraries(job: ExperienceSpec, library: Library, groups: Sequence[Group]) -> Plan[dict[str, Library]]:
    """The placebo arms of a learnt library, by name; `groups` are those of the first step."""
    shuffled = yield from _learnt_from_noise(job, groups)
    return {"placebo: off topic": off_topic(job, library), "placebo: shuffled rewards": shuffled}


def off_topic(job: ExperienceSpec, library: Library) -> Library:
    """As many lessons as a library has, each with as many words, on gardening."""
    rng = np.random.default_rng(derive_seed(job.config.seed, "placebo"))
    texts = (" ".join(rng.choice(OFF_TOPIC, len(x.text.split()))).capitalize() for x in library.lessons)
    return library.with_lessons(
        make_lesson(f"{text}.", x.kind) for text, x in zip(texts, library.lessons, strict=True)
    )


def _learnt_from_noise(job: ExperienceSpec, groups: Sequence[Group]) -> Plan[Library]:
    studies = yield [compared(job, job.start_library, group) for group in dealt(job, groups)]
    proposals = tuple(op for study in studies for op in study.proposals)
    found = yield from candidates.propose_candidates(job, job.start_library, proposals, 1)
    return next(iter(found.libraries.values()), job.start_library)


def dealt(job: ExperienceSpec, groups: Sequence[Group]) -> list[Group]:
    """The same groups with scores dealt out among all runs and right answers among all rows, at random."""
    rng = np.random.default_rng(derive_seed(job.config.seed, "shuffled rewards"))
    runs = [run for group in groups for run in group.rollouts]
    scores = iter([runs[i].score for i in rng.permutation(len(runs))])
    targets = iter([groups[i].example.target for i in rng.permutation(len(groups))])
    return [
        replace(
            group,
            example=replace(group.example, target=next(targets)),
            rollouts=tuple(replace(run, score=next(scores)) for run in group.rollouts),
        )
        for group in groups
    ]
