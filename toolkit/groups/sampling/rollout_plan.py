"""
Axis 2, plan: how many rollouts each example gets, and which examples are tried in place of others.

    fixed             the same number for each                                         GRPO (arXiv 2402.03300)
    refill            as fixed, and more rows until enough groups are mixed            DAPO (arXiv 2503.14476)
    refill_imperfect  the same, until enough are not all right                         NGRPO (arXiv 2509.18851)
    anchored          as fixed, and a reference answer in each group, or in hard ones  GRAO, DaGRPO
    listed            all answers that a row lists, in place of drawn ones             RIFT (arXiv 2505.03344)
    delegated         as fixed, and groups of the runs that these delegated            M-GRPO (arXiv 2511.13288)

More in `plan_hints` (rows that are asked otherwise) and `plan_past` (rollouts of earlier steps). What plans are made
of:

    phased       the rollouts of a batch in phases: after the first, they go where uncertainty is (XRPO)
    refilled     examples without signal are replaced by others, until enough have some

n rollouts of one example, s their standard deviation (n - 1), T rollouts of the whole batch.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.types import MARK, Example, Group, Plan, Rollout, Score, T

SampleRollouts = Callable[[Example, int, int], Plan[tuple[Rollout, ...]]]
"""`draw(example, start, count)`: rollouts of an example with the sample indices start ... start + count - 1."""
ScoreGivenAnswer = Callable[[Example, str], Plan[Rollout]]
"""`give(example, answer)`: a graded rollout that says this, in tokens, without log-probabilities (NaN)."""
Embed = Callable[[Sequence[str]], Plan[NDArray[np.floating]]]
"""`embed(texts)`: a vector of length 1 for each, (texts, D); such as are alike in meaning point the same way."""
GIVEN = "given"
"""`Rollout.version` of what nobody drew."""


def _cannot(example: Example, answer: str) -> Plan[Rollout]:
    raise TaskError(f"Row {example.id!r}: answers that are given can't be learned from here.")
    yield


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """
    What a step may sample: `queue` are rows in the order of choice, `wanted` how many of them make a step.

    `size` is rollouts of each. `draw` and `give` are those of this module; rewards are graded as they are drawn.
    `memory` is what earlier steps taught, `done` the share of the run's steps that are over, `rng` the step's own.
    `embed` makes vectors of texts, where a model for them was named.
    """

    queue: tuple[Example, ...]
    wanted: int
    size: int
    draw: SampleRollouts
    give: ScoreGivenAnswer = _cannot
    memory: Memory = field(default_factory=Memory)
    done: float = 1.0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    embed: Embed | None = None

    def group(self, example: Example) -> Plan[Group]:
        """All rollouts of one row."""
        found = yield from self.draw(example, 0, self.size)
        return Group(example, found[0].role, found)


def fixed(asked: SamplingRequest) -> Plan[list[Group]]:
    """The same number of rollouts for each of the first `wanted` rows."""
    return (yield [asked.group(example) for example in asked.queue[: asked.wanted]])


def refill(asked: SamplingRequest) -> Plan[list[Group]]:
    """
    Groups until `wanted` of them are mixed, or the queue is empty: DAPO's dynamic sampling (arXiv 2503.14476).

    Its cap on batches that are sampled for one is the length of the queue.
    """
    return (yield from refilled(asked.queue, asked.group, asked.wanted, lambda group: group.mixed))


def refill_imperfect(asked: SamplingRequest, *, best: float = 1.0) -> Plan[list[Group]]:
    """Groups until `wanted` of them are not all at the `best` reward, or the queue is empty; all-wrong ones count."""

    def imperfect(group: Group) -> bool:
        return any(reward < best for reward in group.rewards)

    return (yield from refilled(asked.queue, asked.group, asked.wanted, imperfect))


def anchored(asked: SamplingRequest, *, below: int | None = None, full: float = 1.0) -> Plan[list[Group]]:
    """
    As `fixed`, and the row's reference answer as one more member of each group.

    With `below`, only of groups with fewer rewards of `full` than that. It is the row's "reference", else its target,
    given and graded, never drawn: column `anchor` is 1 for it, and its old log-probability is the policy's own.
    """

    def study(example: Example) -> Plan[Group]:
        group = yield from asked.group(example)
        if below is not None and sum(reward >= full for reward in group.rewards) >= below:
            return group
        answer = yield from asked.give(example, str(example.metadata.get("reference", example.target)))
        return replace(group, members=(*group.members, replace(answer, version=GIVEN)))

    return (yield [study(example) for example in asked.queue[: asked.wanted]])


def listed(asked: SamplingRequest) -> Plan[list[Group]]:
    """
    A group of all the answers that a row lists as "candidates", given in place of drawn ones.

    Raises TaskError for a row without any.
    """

    def study(example: Example) -> Plan[Group]:
        answers = example.metadata.get("candidates")
        if not answers:
            raise TaskError(f"Row {example.id!r} lists no candidates, which this method compares.")
        found = yield [asked.give(example, str(answer)) for answer in answers]
        return Group(example, found[0].role, tuple(replace(run, version=GIVEN) for run in found))

    return (yield [study(example) for example in asked.queue[: asked.wanted]])


def delegated(asked: SamplingRequest, *, depth: int | None = None) -> Plan[list[Group]]:
    """
    As `fixed`, and for each row a group of each role of the runs that its rollouts delegated.

    The d runs that one rollout delegated to a role have a share of 1 / d each, column `share`. With `depth` D there are
    D of them in place of d, as in the paper: D - d are copied, or d - D dropped, at random.
    """
    groups = yield from fixed(asked)
    return [each for group in groups for each in (group, *_delegated(group, depth, asked.rng))]


def marked(run: Rollout, **marks: float) -> Rollout:
    """The rollout, with marks that columns are made of: parts of its score that no reward can name."""
    score = run.score or Score(0.0, valid=False)
    named = {MARK + name: value for name, value in marks.items()}
    return replace(run, score=replace(score, parts={**score.parts, **named}))


def mark(run: Rollout, name: str) -> float | None:
    """What `marked` wrote; None where it wrote nothing."""
    return run.score.parts.get(MARK + name) if run.score else None


def _delegated(group: Group, depth: int | None, rng: np.random.Generator) -> list[Group]:
    levels: dict[str, list[Rollout]] = {}
    for run in group.members:
        calls = [call for step in run.steps for call in step.calls]
        for role in dict.fromkeys(call.role for call in calls):
            mine = [call for call in calls if call.role == role]
            chosen = mine if depth is None else [mine[i] for i in aligned(len(mine), depth, rng)]
            levels.setdefault(role, []).extend(marked(call, share=1 / len(chosen)) for call in chosen)
    return [Group(group.example, role, tuple(members)) for role, members in levels.items()]


def aligned(count: int, depth: int, rng: np.random.Generator) -> list[int]:
    """`depth` of so many: some copied at random where there are fewer, some left out where there are more."""
    if count >= depth:
        return sorted(rng.choice(count, depth, replace=False).tolist())
    return sorted([*range(count), *rng.choice(count, depth - count).tolist()])


def half_width(s: float, n: int, alpha: float = 0.05) -> float:
    """Half the width of the (1 - alpha) interval of a mean reward: h(n) = t(1 - alpha/2, n - 1) s / sqrt(n), n > 1."""
    return _quantile(n - 1, alpha) * s / math.sqrt(n)


def priority(s: float, n: int, total: int, lam: float = 0.1, alpha: float = 0.05) -> float:
    """
    What one more rollout of an example is worth, where `total` were drawn in all (XRPO, arXiv 2510.06672).

    h(n) - h(n + 1), at the same s and each with its own t quantile, plus lam sqrt(ln(1 + total) / n): the
    usual form of such a bonus, as the paper's exact one is not known. Infinite below two rollouts.
    """
    if n < 2:
        return math.inf
    return half_width(s, n, alpha) - half_width(s, n + 1, alpha) + lam * math.sqrt(math.log1p(total) / n)


def allocate(
    rewards: Sequence[Sequence[float]],
    budget: int,
    most: int,
    *,
    drawn: Sequence[int] | None = None,
    lam: float = 0.1,
    alpha: float = 0.05,
) -> tuple[int, ...]:
    """
    How many more rollouts each example gets of `budget`, one at a time to the highest priority.

    `rewards` are the valid ones so far; `drawn` how many rollouts were paid for, where some of them failed.
    No example goes above `most` in all; the sum is `budget` unless that stops it. While a phase is dealt out, s
    stays and n grows. Of equal priorities the example with fewer rollouts goes first, then the earlier one.
    """
    counts = list(drawn if drawn is not None else map(len, rewards))
    start, deviations = tuple(counts), [_deviation(one) for one in rewards]

    def rank(i: int) -> tuple[float, int, int]:
        return -priority(deviations[i], counts[i], sum(counts), lam, alpha), counts[i], i

    for _ in range(budget):
        open_ones = [i for i, count in enumerate(counts) if count < most]
        if not open_ones:
            break
        counts[min(open_ones, key=rank)] += 1
    return tuple(now - before for now, before in zip(counts, start, strict=True))


def _as_it_is(example: Example, runs: tuple[Rollout, ...]) -> Example:
    return example


def phased(
    draw: SampleRollouts,
    examples: Sequence[Example],
    budget: int,
    first: int,
    phases: int,
    most: int,
    dress: Callable[[Example, tuple[Rollout, ...]], Example] = _as_it_is,
) -> Plan[list[tuple[Rollout, ...]]]:
    """
    The rollouts of each example, in order: `budget` of them in all, unless `most` for each stops it.

    The first of the `phases` draws `first` of each example. Every later one looks at the rewards so far and
    deals out its equal share of what is left by `allocate`; `insert_lessons` may make another question of an example, by what
    was drawn of it. A phase waits for the one before. Rewards must be
    graded as they are drawn, so a relative judge does not fit. ValueError where the numbers can't work.
    """
    left = budget - first * len(examples)
    if not 1 <= first <= most or left < 0 or (left and phases < 2):
        raise ValueError(
            f"{budget} rollouts can't be dealt to {len(examples)} examples in {phases} phases, with {first} of "
            f"each first and {most} at most"
        )
    runs = yield [draw(example, 0, first) for example in examples]
    for share in _shares(left, phases - 1):
        rewards = [Group(e, "", found).rewards for e, found in zip(examples, runs, strict=True)]
        counts = allocate(rewards, share, most, drawn=[len(found) for found in runs])
        chosen = [i for i, count in enumerate(counts) if count]
        drawn = yield [draw(dress(examples[i], runs[i]), len(runs[i]), counts[i]) for i in chosen]
        for i, new in zip(chosen, drawn, strict=True):
            runs[i] = (*runs[i], *new)
    return runs


def refilled(
    queue: Sequence[Example],
    study: Callable[[Example], Plan[T]],
    wanted: int,
    has_signal: Callable[[T], bool],
) -> Plan[list[T]]:
    """
    Study examples until `wanted` of them have signal, or the queue is empty: all studies, in queue order.

    The test is for exact inequality, such as `Group.mixed`, never a mean. See `in_waves` for the order.
    """

    def studies(examples: Sequence[Example]) -> Plan[list[T]]:
        return (yield [study(example) for example in examples])

    return (yield from in_waves(queue, studies, wanted, has_signal))


def in_waves(
    queue: Sequence[Example],
    studies: Callable[[Sequence[Example]], Plan[list[T]]],
    wanted: int,
    has_signal: Callable[[T], bool],
) -> Plan[list[T]]:
    """
    Like `refilled`, for what is studied together: `studies` gets a whole wave, such as to share its rollouts.

    A wave is as many of the queue as are still wanted, and the next one waits for all of it: which examples
    are studied depends on rewards alone, never on which reply came first.
    """
    done: list[T] = []
    waiting = iter(queue)
    while wave := tuple(islice(waiting, wanted - sum(map(has_signal, done)))):
        done += yield from studies(wave)
    return done


def _deviation(rewards: Sequence[float]) -> float:
    """The sample standard deviation, 0 below two rewards. Exact sums: equal rewards give 0 and nothing else."""
    return statistics.stdev(rewards) if len(rewards) > 1 else 0.0


@cache
def _quantile(freedom: int, alpha: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - alpha / 2))


def _shares(total: int, parts: int) -> list[int]:
    """`total` in equal whole parts, the first ones larger by one where it does not divide."""
    return [total // parts + (i < total % parts) for i in range(parts)]
