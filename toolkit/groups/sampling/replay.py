"""
Axis 2, plan: rollouts of earlier steps. See `toolkit.groups.sampling.rollout_plan`; what they read is in `toolkit.groups.sampling.row_history`.

    recovered    groups that the last step sampled and did not use       Confucius3-Math (arXiv 2506.18330)
    buffered     rollouts with an advantage, in place of dead groups     Skywork R1V2 (arXiv 2504.16656)
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgewise.toolkit.groups.sampling.rollout_plan import SamplingRequest, mark
from edgewise.toolkit.groups.sampling.row_history import recalls
from edgewise.toolkit.tracking.events import GroupsDeferred
from edgewise.toolkit.types import Example, Group, Plan, Rollout

LATER = "later"
"""Topic of the note that says which groups are for the next step."""
Capacity = Annotated[int, Field(ge=1, le=100_000)]
REPLAYED = "replayed"
"""`Group.role` of rollouts of earlier steps."""


@recalls("leftover")
def recovered(asked: SamplingRequest) -> Plan[list[Group]]:
    """
    `wanted` mixed groups: first those left from the last step, then of new rows, which are sampled in batches.

    A batch is `wanted` rows, until there are enough or the queue is empty; what is too much is noted for the next
    step, and what is not mixed stands behind, for `keep` to leave out. What was left was drawn by the policy before:
    the paper describes no correction of that.
    """
    found, dead = list(asked.memory.leftover), []
    for start in range(0, len(asked.queue), asked.wanted):
        if len(found) >= asked.wanted:
            break
        drawn = yield [asked.group(row) for row in asked.queue[start : start + asked.wanted]]
        found += [group for group in drawn if group.mixed]
        dead += [group for group in drawn if not group.mixed]
    yield GroupsDeferred(found[asked.wanted :])
    return [*found[: asked.wanted], *dead]


@recalls("buffer")
def buffered(asked: SamplingRequest, *, capacity: Capacity = 1024) -> Plan[list[Group]]:
    """
    As `fixed`, and for each group that is not mixed as many rollouts of the buffer, if there are any.

    `keep` leaves out what is not mixed. They are drawn in proportion to |A|, none twice in a step. A reconstruction:
    the paper's `capacity`, share and age of what is replayed are not known; here the oldest make room for new ones.
    """
    groups = yield [asked.group(example) for example in asked.queue[: asked.wanted]]
    missing = asked.size * sum(not group.mixed for group in groups)
    chosen = drawn_by_advantage(asked.memory.buffer, missing, asked.rng)
    again = [tuple(chosen[i : i + asked.size]) for i in range(0, len(chosen), asked.size)]
    return [*groups, *(Group(Example(REPLAYED, ()), REPLAYED, each) for each in again)]


def drawn_by_advantage(buffer: Sequence[Rollout], count: int, rng: np.random.Generator) -> list[Rollout]:
    """So many rollouts, drawn by their `chances`, none twice; all where there are fewer."""
    count = min(count, len(buffer))
    if not count:
        return []
    return [buffer[i] for i in rng.choice(len(buffer), count, replace=False, p=chances(buffer))]


def chances(buffer: Sequence[Rollout]) -> NDArray[np.float64]:
    """The probability of each rollout to be drawn first, in proportion to |A|; A is what it was stored with."""
    weight = np.abs([mark(run, "stored") or 0.0 for run in buffer])
    return weight / weight.sum()
