import statistics

import numpy as np
import pytest

from edgewise.toolkit.groups import step_credit
from edgewise.toolkit.groups.table import Table

# Rollouts 0 and 1 are of one group, 2 of another; 2, 1 and 3 steps.
TABLE = Table.from_arrays([0, 0, 1], [1.0, 0.0, 0.5], [0, 0, 1, 2, 2, 2], action_reward=[1, 0, -1, 2, 2, 2])
ADVANTAGE = np.array([1.0, -1.0, 0.0])


def test_broadcast_repeats_the_advantage_of_the_rollout() -> None:
    assert step_credit.broadcast(TABLE, ADVANTAGE).tolist() == [1, 1, -1, 0, 0, 0]


def test_action_wise_adds_the_lead_of_a_step() -> None:
    assert step_credit.action_wise(TABLE, ADVANTAGE, beta=0.5).tolist() == [1.5, 1, -1.5, 0, 0, 0]


def test_action_wise_without_weight_is_broadcast() -> None:
    assert (step_credit.action_wise(TABLE, ADVANTAGE, beta=0.0) == step_credit.broadcast(TABLE, ADVANTAGE)).all()


def test_steps_of_equal_rollouts_still_differ() -> None:
    table = Table.from_arrays([0, 0], [0.1, 0.1], [0, 1], action_reward=[1, 0])
    assert step_credit.action_wise(table, np.zeros(2)).tolist() == [0.5, -0.5]


def test_action_wise_needs_its_column() -> None:
    with pytest.raises(ValueError, match="action_reward"):
        step_credit.action_wise(Table.from_arrays([0], [1.0], [0]), np.zeros(1))


# ---- steps of several rollouts, against slow and plain loops ---------------------------------------------------------


def walks(seed):
    """Two groups of rollouts through four rooms, of 1 to 5 steps each, with columns of every kind."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, 7)
    rollout = np.repeat(np.arange(7), sizes)
    words = {name: rng.choice(list("abcd"), len(rollout)).astype(object) for name in ("state", "action", "observation")}
    words["observation"][np.cumsum(sizes)[rng.random(7) < 0.3] - 1] = None
    rewards = "step_reward", "action_reward", "partner_reward"
    numbers = {name: rng.integers(0, 3, len(rollout)) / 2 for name in rewards}
    table = Table(np.array([0, 0, 0, 0, 1, 1, 1]), rng.random(7), rollout, {}, {**words, **numbers})
    return table, rng.normal(size=7)


def plain_returns(table, name, gamma):
    result = []
    for i, run in enumerate(table.rollout):
        later = [j for j in range(i, len(table.rollout)) if table.rollout[j] == run]
        result.append(sum(gamma ** (j - i) * table.column(name)[j] for j in later))
    return result


def compared(values, same, scaled=False):
    """Each value minus the mean of those that are the same, over their deviation."""
    result = []
    for i, value in enumerate(values):
        others = [other for j, other in enumerate(values) if same(i, j)]
        spread = statistics.stdev(others) + 1e-6 if len(others) > 1 else 1.0
        result.append(0.0 if len(set(others)) == 1 else (value - statistics.fmean(others)) / (spread if scaled else 1))
    return np.array(result)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scaled", [True, False])
def test_at_anchors_matches_a_plain_loop(seed, scaled) -> None:
    table, gain = walks(seed)
    group, state = table.step_group, table.column("state")
    expected = compared(
        plain_returns(table, "step_reward", 0.9), lambda i, j: group[i] == group[j] and state[i] == state[j], scaled
    )
    result = step_credit.at_anchors(table, gain, omega=0.5, gamma=0.9, scaled=scaled)
    assert result == pytest.approx(gain[table.rollout] + 0.5 * expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("history", [1, 2, 3])
def test_merged_matches_a_plain_loop(seed, history) -> None:
    table, gain = walks(seed)
    keys = []
    for i, run in enumerate(table.rollout):
        mine = [j for j in range(len(table.rollout)) if table.rollout[j] == run]
        pairs = [(table.column("action")[j], table.column("observation")[j]) for j in mine if j <= i]
        before = pairs[:-1][-history:] or [table.column("state")[mine[0]]]
        known = pairs[-1][1] is not None
        keys.append((table.step_group[i], str(before), pairs[-1][0], str(pairs[-history:])) if known else i)
    own = gain[table.rollout]
    expected = [statistics.fmean(own[j] for j in range(len(own)) if keys[j] == keys[i]) for i in range(len(own))]
    assert step_credit.merged(table, gain, history=history) == pytest.approx(expected)


def test_merged_by_similar_texts() -> None:
    words = {
        "state": ["You are in room 1.", "You are in room 1!"],
        "action": ["take the red cup", "take the red cups"],
        "observation": ["You have it.", None],
    }
    columns = {name: np.array(x * 2, object) for name, x in words.items()}
    columns["observation"][1:3] = "You have it!"
    table = Table(np.array([0] * 4), np.zeros(4), np.arange(4), {}, columns)
    gain = np.array([1.0, -1.0, 1.0, 0.5])
    assert step_credit.merged(table, gain).tolist() == gain.tolist()
    assert step_credit.merged(table, gain, threshold=0.85) == pytest.approx([1 / 3] * 3 + [0.5])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("inclusive", [True, False])
def test_aligned_matches_a_plain_loop(seed, inclusive) -> None:
    table, gain = walks(seed)
    place = [int((table.rollout[:i] == run).sum()) for i, run in enumerate(table.rollout)]

    def above(name):
        values = plain_returns(table, name, 0.9)
        result = []
        for i, value in enumerate(values):
            others = [
                values[j]
                for j in range(len(values))
                if j != i and place[j] == place[i] and table.step_group[j] == table.step_group[i]
            ]
            result.append(value - statistics.fmean(others) if others else 0.0)
        return result

    own, partner, expected = above("step_reward"), above("partner_reward"), []
    for i, run in enumerate(table.rollout):
        past = [j for j in range(i + inclusive) if table.rollout[j] == run]
        weight = sum(0.8 ** (i - j) * own[j] for j in past) * (1 if inclusive else 0.8)
        expected.append(gain[run] + own[i] + 2 * weight * partner[i])
    result = step_credit.aligned(table, gain, beta=2.0, gamma=0.9, discount=0.8, inclusive=inclusive)
    assert result == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    "part", [step_credit.at_anchors, step_credit.merged, step_credit.aligned, step_credit.action_wise]
)
def test_credit_does_not_depend_on_the_order_of_rollouts(part) -> None:
    table, gain = walks(3)
    order = np.random.default_rng(0).permutation(7)
    steps = np.concatenate([np.flatnonzero(table.rollout == run) for run in order])
    moved = Table(
        table.group[order],
        table.reward[order],
        np.argsort(order)[table.rollout[steps]],
        {},
        {name: column[steps] for name, column in table.step_columns.items()},
    )
    assert part(moved, gain[order]) == pytest.approx(part(table, gain)[steps])


@pytest.mark.parametrize("part", [step_credit.at_anchors, step_credit.merged, step_credit.aligned])
def test_equal_rollouts_have_no_step_credit(part) -> None:
    """Ten of 0.1, whose mean is not 0.1."""
    same = np.array(["a"] * 10, object)
    table = Table(
        np.zeros(10, np.int64),
        np.full(10, 0.1),
        np.arange(10),
        {},
        {
            **dict.fromkeys(("state", "action", "observation"), same),
            **dict.fromkeys(("step_reward", "partner_reward"), np.full(10, 0.1)),
        },
    )
    assert not part(table, np.zeros(10)).any()


def test_without_repeated_states_gigpo_is_grpo() -> None:
    table, gain = walks(1)
    alone = Table(
        table.group,
        table.reward,
        table.rollout,
        {},
        {**table.step_columns, "state": np.arange(len(table.rollout)).astype(object)},
    )
    assert (step_credit.at_anchors(alone, gain) == step_credit.broadcast(alone, gain)).all()
