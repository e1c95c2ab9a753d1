"""
Axis 2, plan: how many rollouts each example gets, and which examples are tried in place of others.

    fixed             the same number for each                                         GRPO (arXiv 2402.03300)
    refill            as fixed, and more rows until enough groups are mixed            DAPO (arXiv 2503.14476)
    refill_imperfect  the same, until enough are not all right                         NGRPO (arXiv 2509.18851)
    anchored          as fixed, and a reference answer in each group, or in hard ones  GRAO, DaGRPO
    listed            all answers that a row lists, in place of sampled ones           RIFT (arXiv 2505.03344)
    delegated         as fixed, and groups of their delegated rollouts                 M-GRPO (arXiv 2511.13288)

More parts are in `hints` (rows with another prompt) and `replay` (rollouts of earlier steps). Building blocks:

    sample_in_phases      rollouts in phases: after the first, they go where uncertainty is (XRPO)
    study_in_waves        examples without signal are replaced by others, until enough have some

n rollouts of one example, s their standard deviation (n - 1), T rollouts of the whole batch.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.types import RESERVED_PREFIX, Example, Group, Plan, Rollout, Score, T

SampleRollouts = Callable[[Example, int, int], Plan[tuple[Rollout, ...]]]
"""`sample_rollouts(example, start, count)`: rollouts with the sample indices start ... start + count - 1."""
ScoreGivenAnswer = Callable[[Example, str], Plan[Rollout]]
"""`score_answer(example, answer)`: a graded rollout with this answer as tokens; its log-probabilities are NaN."""
Embed = Callable[[Sequence[str]], Plan[NDArray[np.floating]]]
"""`embed(texts)`: unit vectors, [text, dimension]; texts of similar meaning point the same way."""
RewriteExample = Callable[[Example, tuple[Rollout, ...]], Example]
"""`rewrite(example, rollouts)`: the example to sample next, in view of its rollouts so far."""
OFFLINE_VERSION = "given"
"""`Rollout.version` of answers that no policy sampled, such as reference answers."""


def _refuse_answer(example: Example, answer: str) -> Plan[Rollout]:
    raise TaskError(f"Row {example.id!r}: answers that are given can't be learned from here.")
    yield


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """
    One step's request for groups: `batch_size` rows of the queue with `group_size` rollouts each.

    Rewards are graded as rollouts are sampled.
    """

    queue: tuple[Example, ...]  # rows in the order of selection
    batch_size: int
    group_size: int
    sample_rollouts: SampleRollouts
    score_answer: ScoreGivenAnswer = _refuse_answer
    memory: Memory = field(default_factory=Memory)  # statistics of rows from earlier steps
    progress: float = 1.0  # share of the run's steps that are done
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))  # of this step alone
    embed: Embed | None = None  # None without an embedding model

    def sample_group(self, example: Example) -> Plan[Group]:
        """Sample all rollouts of one row."""
        rollouts = yield from self.sample_rollouts(example, 0, self.group_size)
        return Group(example, rollouts[0].role, rollouts)

    def sample_groups(self, examples: Sequence[Example]) -> Plan[list[Group]]:
        """Sample all rollouts of several rows at once."""
        return (yield [self.sample_group(example) for example in examples])


def fixed(request: SamplingRequest) -> Plan[list[Group]]:
    """Sample the same number of rollouts for each row of the batch."""
    return (yield from request.sample_groups(request.queue[: request.batch_size]))


def refill(request: SamplingRequest) -> Plan[list[Group]]:
    """
    Sample groups until `batch_size` of them are mixed, or the queue is empty: DAPO's dynamic sampling.

    The length of the queue takes the place of DAPO's cap on batches sampled for one update.
    """
    return study_in_waves(request.queue, request.sample_groups, request.batch_size, lambda x: x.is_mixed)


def refill_imperfect(request: SamplingRequest, *, best: float = 1.0) -> Plan[list[Group]]:
    """Sample groups until `batch_size` have a reward below `best`, or the queue is empty; all-wrong ones count."""

    def has_signal(group: Group) -> bool:
        # Without valid rewards there is no signal: the lowest of none counts as the best.
        return min(group.rewards, default=best) < best

    return study_in_waves(request.queue, request.sample_groups, request.batch_size, has_signal)


def anchored(request: SamplingRequest, *, below: int | None = None, full: float = 1.0) -> Plan[list[Group]]:
    """
    Sample as `fixed` does, and add the row's reference answer to each group.

    With `below`, only to groups with fewer rewards of `full` than that. The answer is the row's "reference", else its
    target. It is graded, not sampled: column `anchor` is 1 for it, and its old log-probability is the policy's own.
    """

    def study(example: Example) -> Plan[Group]:
        group = yield from request.sample_group(example)
        if below is not None and sum(reward >= full for reward in group.rewards) >= below:
            return group
        reference = str(example.metadata.get("reference", example.target))
        answer = yield from request.score_answer(example, reference)
        return replace(group, rollouts=(*group.rollouts, replace(answer, version=OFFLINE_VERSION)))

    return (yield [study(example) for example in request.queue[: request.batch_size]])


def listed(request: SamplingRequest) -> Plan[list[Group]]:
    """
    Make a group of all the answers that a row lists as "candidates", in place of sampled ones.

    Raises TaskError for a row without any.
    """

    def study(example: Example) -> Plan[Group]:
        answers = example.metadata.get("candidates")
        if not answers:
            raise TaskError(f"Row {example.id!r} lists no candidates, which this method compares.")
        rollouts = yield [request.score_answer(example, str(answer)) for answer in answers]
        offline = tuple(replace(rollout, version=OFFLINE_VERSION) for rollout in rollouts)
        return Group(example, rollouts[0].role, offline)

    return (yield [study(example) for example in request.queue[: request.batch_size]])


def delegated(request: SamplingRequest, *, depth: int | None = None) -> Plan[list[Group]]:
    """
    Sample as `fixed` does, and add for each row a group of each role of its delegated rollouts.

    The d rollouts that one rollout delegated to a role have a share of 1 / d each, column `share`. With `depth` D there
    are D of them in place of d, as in the paper: D - d are copied, or d - D dropped, at random.
    """
    groups = []
    # M-GRPO: sub-agents are compared within the group of one row, across all rollouts of the planner.
    for group in (yield from fixed(request)):
        by_role: dict[str, list[Rollout]] = {}
        for rollout in group.rollouts:
            delegations = [child for step in rollout.steps for child in step.subrollouts]
            for role in dict.fromkeys(child.role for child in delegations):
                members = [child for child in delegations if child.role == role]
                if depth is not None:
                    members = [members[i] for i in align_count(len(members), depth, request.rng)]
                by_role.setdefault(role, []).extend(set_marks(child, share=1 / len(members)) for child in members)
        of_roles = (Group(group.example, role, tuple(members)) for role, members in by_role.items())
        groups += [group, *of_roles]
    return groups


def set_marks(run: Rollout, **marks: float) -> Rollout:
    """Return the rollout with values for columns, stored as parts of its score that no reward can name."""
    score = run.score or Score(0.0, valid=False)
    parts = {RESERVED_PREFIX + name: value for name, value in marks.items()}
    return replace(run, score=replace(score, parts={**score.parts, **parts}))


def get_mark(run: Rollout, name: str) -> float | None:
    """Return a value of `set_marks`, None where there is none."""
    return run.score.parts.get(RESERVED_PREFIX + name) if run.score else None


def align_count(count: int, depth: int, rng: np.random.Generator) -> list[int]:
    """Return `depth` indices below `count`: some repeated at random if it is smaller, some dropped if it is larger."""
    # Sorted, so that rollouts keep the order in which the planner delegated them.
    if count >= depth:
        return sorted(rng.choice(count, depth, replace=False).tolist())
    return sorted([*range(count), *rng.choice(count, depth - count).tolist()])


@lru_cache(maxsize=4096)
def half_width(s: float, n: int) -> float:
    """Return half the width of the 95 % interval of a mean reward, for n > 1."""
    from scipy.special import stdtrit

    # h(n) = t(1 - 0.05/2, n - 1) s / sqrt(n)
    return float(stdtrit(n - 1, 1 - 0.05 / 2)) * s / math.sqrt(n)


def priority(s: float, n: int, total: int, lam: float = 0.1) -> float:
    """
    Return the value of one more rollout of an example, where the batch has `total` (XRPO, arXiv 2510.06672).

    Infinite below two rollouts, which have no deviation.
    """
    if n < 2:
        return math.inf
    # Reduction of uncertainty h(n) - h(n + 1), at the same s and each with its own t quantile, plus the exploration
    # bonus lam sqrt(ln(1 + T) / n): the usual form of UCB, as the paper's exact one is not known.
    reduction = half_width(s, n) - half_width(s, n + 1)
    return reduction + lam * math.sqrt(math.log1p(total) / n)


def allocate(
    rewards: Sequence[Sequence[float]],
    budget: int,
    most: int,
    *,
    sample_counts: Sequence[int] | None = None,
    lam: float = 0.1,
) -> tuple[int, ...]:
    """
    Return how many more rollouts each example gets of `budget`, one at a time to the highest priority.

    `rewards` are the valid ones so far; `sample_counts` includes failed rollouts. No example goes above
    `most` in all; the sum is `budget` unless that stops it. Of equal priorities the example with fewer rollouts goes
    first, then the earlier one.
    """
    counts = list(sample_counts if sample_counts is not None else map(len, rewards))
    start = tuple(counts)
    # s stays while a phase is dealt out, and n grows. statistics.stdev sums exactly: equal rewards give exactly 0.
    deviations = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in rewards]

    for _ in range(budget):
        ranks = [
            (-priority(deviations[i], count, sum(counts), lam), count, i)
            for i, count in enumerate(counts)
            if count < most
        ]
        if not ranks:
            break
        *_, example = min(ranks)
        counts[example] += 1
    return tuple(now - before for now, before in zip(counts, start, strict=True))


def sample_in_phases(
    sample_rollouts: SampleRollouts,
    examples: Sequence[Example],
    budget: int,
    first: int,
    phases: int,
    most: int,
    rewrite: RewriteExample | None = None,
) -> Plan[list[tuple[Rollout, ...]]]:
    """
    Sample the rollouts of each example, in order: `budget` of them in all, unless `most` for each stops it.

    The first of the `phases` samples `first` of each example. Every later one deals out its equal share of the rest by
    `allocate`, in view of the rewards so far. Rewards must be graded as rollouts are sampled, so a relative judge does
    not fit. Raises ValueError where the numbers don't add up.
    """
    left = budget - first * len(examples)
    if not 1 <= first <= most or left < 0 or (left and phases < 2):
        raise ValueError(
            f"{budget} rollouts can't be dealt to {len(examples)} examples in {phases} phases, with {first} of "
            f"each first and {most} at most"
        )
    by_example = yield [sample_rollouts(example, 0, first) for example in examples]

    for phase in range(phases - 1):
        # The first shares are larger by one where the rest does not divide.
        share = left // (phases - 1) + (phase < left % (phases - 1))
        rewards = [Group(e, "", rollouts).rewards for e, rollouts in zip(examples, by_example, strict=True)]
        counts = allocate(rewards, share, most, sample_counts=[len(rollouts) for rollouts in by_example])
        indices = [i for i, count in enumerate(counts) if count]
        targets = {i: rewrite(examples[i], by_example[i]) if rewrite else examples[i] for i in indices}
        # A phase waits for all rollouts of the one before, so the allocation depends on rewards alone.
        batches = yield [sample_rollouts(targets[i], len(by_example[i]), counts[i]) for i in indices]
        for i, batch in zip(indices, batches, strict=True):
            by_example[i] = (*by_example[i], *batch)
    return by_example


def study_in_waves(
    queue: Sequence[Example],
    study_wave: Callable[[Sequence[Example]], Plan[list[T]]],
    n_wanted: int,
    has_signal: Callable[[T], bool],
) -> Plan[list[T]]:
    """
    Study examples until `n_wanted` of them have signal, or the queue is empty; return all studies in queue order.

    `study_wave` receives as many of the queue as are still needed, and the next wave waits for all of it. `has_signal`
    must test exact inequality, such as `Group.is_mixed`, never a mean.
    """
    # Waiting makes the choice of examples depend on rewards alone, never on the order in which replies arrive.
    studies: list[T] = []
    waiting = iter(queue)
    while wave := tuple(islice(waiting, n_wanted - sum(map(has_signal, studies)))):
        studies += yield from study_wave(wave)
    return studies
