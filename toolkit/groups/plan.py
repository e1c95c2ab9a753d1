"""
Axis 2, plan: how many rollouts each example gets, and which examples are tried in place of others.

    fixed        the same number for each
    refill       as fixed, and more rows until enough groups are mixed (DAPO)
    phased       the rollouts of a batch in phases: after the first, they go where uncertainty is (XRPO)
    refilled     examples without signal are replaced by others, until enough have some

n rollouts of one example, s their standard deviation (n - 1), T rollouts of the whole batch.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

from toolkit.types import Example, Group, Plan, Rollout, T

Draw = Callable[[Example, int, int], Plan[tuple[Rollout, ...]]]
"""`draw(example, start, count)`: rollouts of an example with the sample indices start ... start + count - 1."""


@dataclass(frozen=True, slots=True)
class Asked:
    """
    What a step may sample: `queue` are rows in the order of choice, `wanted` how many of them make a step.

    `size` is rollouts of each. `draw` is that of this module; rewards are graded as they are drawn.
    """

    queue: tuple[Example, ...]
    wanted: int
    size: int
    draw: Draw

    def group(self, example: Example) -> Plan[Group]:
        """All rollouts of one row."""
        found = yield from self.draw(example, 0, self.size)
        return Group(example, found[0].role, found)


def fixed(asked: Asked) -> Plan[list[Group]]:
    """The same number of rollouts for each of the first `wanted` rows."""
    return (yield [asked.group(example) for example in asked.queue[: asked.wanted]])


def refill(asked: Asked) -> Plan[list[Group]]:
    """
    Groups until `wanted` of them are mixed, or the queue is empty: DAPO's dynamic sampling (arXiv 2503.14476).

    Its cap on batches that are sampled for one is the length of the queue.
    """
    return (yield from refilled(asked.queue, asked.group, asked.wanted, lambda group: group.mixed))


def half_width(rewards: Sequence[float], alpha: float = 0.05) -> float:
    """
    Half the width of the (1 - alpha) interval of the mean reward: h(n) = t(1 - alpha/2, n - 1) s / sqrt(n).

    ValueError for fewer than two rewards, which have no standard deviation.
    """
    if len(rewards) < 2:
        raise ValueError(f"an interval needs at least two rewards, not {len(rewards)}")
    return _half_width(_deviation(rewards), len(rewards), alpha)


def priority(rewards: Sequence[float], total: int, lam: float = 0.1, alpha: float = 0.05) -> float:
    """
    What one more rollout of an example is worth, where `total` were drawn in all (XRPO, arXiv 2510.06672).

    h(n) - h(n + 1), at the same s and each with its own t quantile, plus lam sqrt(ln(1 + total) / n): the
    usual form of such a bonus, as the paper's exact one is not known. Infinite below two rewards.
    """
    return _priority(_deviation(rewards), len(rewards), total, lam, alpha)


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
        return -_priority(deviations[i], counts[i], sum(counts), lam, alpha), counts[i], i

    for _ in range(budget):
        open_ones = [i for i, count in enumerate(counts) if count < most]
        if not open_ones:
            break
        counts[min(open_ones, key=rank)] += 1
    return tuple(now - before for now, before in zip(counts, start, strict=True))


def phased(
    draw: Draw, examples: Sequence[Example], budget: int, first: int, phases: int, most: int
) -> Plan[list[tuple[Rollout, ...]]]:
    """
    The rollouts of each example, in order: `budget` of them in all, unless `most` for each stops it.

    The first of the `phases` draws `first` of each example. Every later one looks at the rewards so far and
    deals out its equal share of what is left by `allocate`. A phase waits for the one before. Rewards must be
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
        drawn = yield [draw(examples[i], len(runs[i]), counts[i]) for i in chosen]
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


def _priority(s: float, n: int, total: int, lam: float, alpha: float) -> float:
    if n < 2:
        return math.inf
    bonus = lam * math.sqrt(math.log1p(total) / n)
    return _half_width(s, n, alpha) - _half_width(s, n + 1, alpha) + bonus


def _half_width(s: float, n: int, alpha: float) -> float:
    return _quantile(n - 1, alpha) * s / math.sqrt(n)


@cache
def _quantile(freedom: int, alpha: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - alpha / 2))


def _shares(total: int, parts: int) -> list[int]:
    """`total` in equal whole parts, the first ones larger by one where it does not divide."""
    return [total // parts + (i < total % parts) for i in range(parts)]
