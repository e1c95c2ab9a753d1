"""
Axis 2, plan: rollouts of earlier steps. See `toolkit.groups.sampling.rollout_plan`; they are kept in `row_history`.

    recovered    mixed groups that the last step sampled and did not use    Confucius3-Math (arXiv 2506.18330)
    buffered     rollouts with an advantage, in place of groups without     Skywork R1V2 (arXiv 2504.16656)
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgewise.toolkit.groups.sampling.rollout_plan import SamplingRequest, get_mark
from edgewise.toolkit.groups.sampling.row_history import recalls_history
from edgewise.toolkit.tracking.events import GroupsDeferred
from edgewise.toolkit.types import Example, Group, Plan, Rollout

Capacity = Annotated[int, Field(ge=1, le=100_000)]
REPLAY_ROLE = "replayed"
"""`Group.role` of rollouts of earlier steps."""


@recalls_history("leftover")
def recovered(request: SamplingRequest) -> Plan[list[Group]]:
    """
    Return `batch_size` mixed groups: first those left from the last step, then of new rows, sampled in batches.

    Batches of `batch_size` rows are sampled until there are enough groups or the queue is empty. Surplus groups are
    deferred to the next step. Groups that are not mixed stand last, for `keep` to drop.
    """
    # Leftover groups were sampled by the policy of the step before: the paper describes no correction of that.
    mixed, unmixed = list(request.memory.leftover), []
    for start in range(0, len(request.queue), request.batch_size):
        if len(mixed) >= request.batch_size:
            break
        rows = request.queue[start : start + request.batch_size]
        groups = yield from request.sample_groups(rows)
        mixed += [group for group in groups if group.is_mixed]
        unmixed += [group for group in groups if not group.is_mixed]
    # The loop stores deferred groups in the memory, as `leftover` of the next step.
    yield GroupsDeferred(mixed[request.batch_size :])
    return [*mixed[: request.batch_size], *unmixed]


@recalls_history("buffer")
def buffered(request: SamplingRequest, *, capacity: Capacity = 1024) -> Plan[list[Group]]:
    """
    Sample as `fixed` does, and add as many rollouts of the buffer as the groups that are not mixed have.

    `keep` drops the groups that are not mixed. Rollouts are sampled in proportion to |A|, none twice in a step. A
    reconstruction: the paper's `capacity`, share and age of replayed rollouts are not known; here the oldest make room
    for new ones.
    """
    groups = yield from request.sample_groups(request.queue[: request.batch_size])
    size = request.group_size
    missing = size * sum(not group.is_mixed for group in groups)
    # Chunks of the group size, so that a minibatch of groups stays as large as without replay.
    replayed = sample_by_advantage(request.memory.buffer, missing, request.rng)
    chunks = [tuple(replayed[i : i + size]) for i in range(0, len(replayed), size)]
    return [*groups, *(Group(Example(REPLAY_ROLE, ()), REPLAY_ROLE, chunk) for chunk in chunks)]


def sample_by_advantage(buffer: Sequence[Rollout], count: int, rng: np.random.Generator) -> list[Rollout]:
    """Sample rollouts without replacement by their `sampling_probabilities`; all where there are fewer than `count`."""
    count = min(count, len(buffer))
    if not count:
        return []
    indices = rng.choice(len(buffer), count, replace=False, p=sampling_probabilities(buffer))
    return [buffer[i] for i in indices]


def sampling_probabilities(buffer: Sequence[Rollout]) -> NDArray[np.float64]:
    """Return |A| / sum |A| for each rollout, with the advantage A that it was stored with."""
    weight = np.abs([get_mark(rollout, "stored") or 0.0 for rollout in buffer])
    return weight / weight.sum()
