"""
Placebo arms: do the lessons help, or would any text have done?

Two more libraries are measured beside the learnt one: lessons of the same length about something else, and what the
same step learns from the same rollouts when rewards and right answers are permuted at random.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgewise.experience.library.library import Library, make_lesson
from edgewise.experience.proposers.candidates import propose_candidates
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training.step import compare_group
from edgewise.toolkit.types import Group, Plan
from edgewise.toolkit.util.seeds import derive_seed

OFF_TOPIC = """
water tomatoes early prune roses after frost turn compost weekly sow carrots in loose soil shade lettuce at noon tie
climbing beans to poles mulch paths with straw harvest herbs before flowering store bulbs dry rotate beds every spring
""".split()


def build_placebo_arms(spec: ExperienceSpec, library: Library, groups: Sequence[Group]) -> Plan[dict[str, Library]]:
    """Return the placebo arms of a learnt library, by name; `groups` are those of the first step."""
    # The rest of a step, on noise: compare each group, then take the best guess of the candidates.
    start = spec.start_library
    studies = yield [compare_group(spec, start, group) for group in permute_rewards(spec, groups)]
    proposals = tuple(op for study in studies for op in study.proposals)
    candidates = yield from propose_candidates(spec, start, proposals, 1)
    from_noise = next(iter(candidates.libraries.values()), start)
    off_topic = make_off_topic_library(spec, library)
    return {"placebo: off topic": off_topic, "placebo: shuffled rewards": from_noise}


def make_off_topic_library(spec: ExperienceSpec, library: Library) -> Library:
    """Return as many lessons as a library has, each with as many words, on gardening."""
    # Length and kind stay: what is left to differ from the learnt library is the content.
    rng = np.random.default_rng(derive_seed(spec.config.seed, "placebo"))
    lessons = []
    for lesson in library.lessons:
        words = rng.choice(OFF_TOPIC, len(lesson.text.split()))
        lessons.append(make_lesson(f"{' '.join(words).capitalize()}.", lesson.kind))
    return library.with_lessons(lessons)


def permute_rewards(spec: ExperienceSpec, groups: Sequence[Group]) -> list[Group]:
    """Return the groups with scores permuted among all rollouts and right answers among all rows."""
    rng = np.random.default_rng(derive_seed(spec.config.seed, "shuffled rewards"))
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    # Across all groups, so that nothing of a row's difficulty stays either.
    scores = iter([rollouts[i].score for i in rng.permutation(len(rollouts))])
    targets = iter([groups[i].example.target for i in rng.permutation(len(groups))])
    permuted = []
    for group in groups:
        example = replace(group.example, target=next(targets))
        members = tuple(replace(rollout, score=next(scores)) for rollout in group.rollouts)
        permuted.append(replace(group, example=example, rollouts=members))
    return permuted
