from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from edgewise.toolkit.groups.sampling.replay import REPLAY_ROLE, buffered, recovered, sample_by_advantage
from edgewise.toolkit.groups.sampling.rollout_plan import SamplingRequest, set_marks
from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.tracking.events import GroupsDeferred
from edgewise.toolkit.types import Example, Group, Rollout, Score
from tests.support.plans import play

ROWS = [Example(str(n), ()) for n in range(12)]


def run(name, sample, reward):
    return Rollout(name, "solver", sample, (), "stop", Score(reward))


def group(name, *rewards):
    return Group(Example(name, ()), "solver", tuple(run(name, n, r) for n, r in enumerate(rewards)))


def make_request(mixed, batch_size=4, **memory):
    """A step on twelve rows, of which those named are mixed."""

    def sample(example, start, count):
        rewards = [float(example.id in mixed and n == 0) for n in range(count)]
        return tuple(run(example.id, n, reward) for n, reward in enumerate(rewards))
        yield

    return SamplingRequest(tuple(ROWS), batch_size, 2, sample, memory=Memory(**memory), rng=np.random.default_rng(0))


def run_plan(plan):
    events = []
    groups = play(plan, lambda request: pytest.fail("no model is asked here"), events)
    deferred = [late for event in events if isinstance(event, GroupsDeferred) for late in event.groups]
    return [group.example.id for group in groups], [group.example.id for group in deferred], groups


def test_recovered_starts_with_the_leftover_groups():
    """N = 4, one is left, two rounds deliver 2 and 3: a batch of 4, and 2 are left."""
    mixed = {"0", "1", "4", "5", "6"}
    groups, deferred, _ = run_plan(recovered(make_request(mixed, leftover=(group("old", 1, 0),))))
    assert groups[:4] == ["old", "0", "1", "4"] and deferred == ["5", "6"]
    assert groups[4:] == ["2", "3", "7"], "what is not mixed is for keep to leave out"


@pytest.mark.parametrize(("left", "count"), [(4, 0), (6, 0), (3, 4)])
def test_recovered_samples_only_missing_groups(left, count):
    old = tuple(group(f"old{n}", 1, 0) for n in range(left))
    groups, deferred, _ = run_plan(recovered(make_request({row.id for row in ROWS}, leftover=old)))
    assert len(groups) == 4 and len(deferred) == left + count - 4
    assert groups[:left] == [f"old{n}" for n in range(min(left, 4))]


def test_recovered_without_signal_ends_with_the_queue():
    groups, deferred, _ = run_plan(recovered(make_request(set())))
    assert groups == [row.id for row in ROWS] and not deferred


def test_buffered_replaces_groups_without_signal():
    buffer = tuple(set_marks(run("old", n, 1.0), stored=0.5) for n in range(20))
    names, _, groups = run_plan(buffered(make_request({"0"}, buffer=buffer)))
    assert names == ["0", "1", "2", "3", *[REPLAY_ROLE] * 3]
    replayed = [run for batch in groups if batch.role == REPLAY_ROLE for run in batch.rollouts]
    assert len({run.sample for run in replayed}) == 6, "three dead groups of two, none twice"


@pytest.mark.parametrize(("stored", "expected"), [((), []), ((0.5,), [1]), ((0.5,) * 3, [2, 1])])
def test_buffered_uses_all_of_a_small_buffer(stored, expected):
    buffer = tuple(set_marks(run("old", n, 1.0), stored=a) for n, a in enumerate(stored))
    _, _, groups = run_plan(buffered(make_request(set(), buffer=buffer)))
    assert [len(batch.rollouts) for batch in groups[4:]] == expected


def test_replay_probability_is_proportional_to_advantage():
    gains = [1.5, -0.5, -0.5, -0.5, 0.25]
    buffer = [set_marks(run("old", n, 1.0), stored=a) for n, a in enumerate(gains)]
    rng = np.random.default_rng(7)
    counts = Counter(sample_by_advantage(buffer, 1, rng)[0].sample for _ in range(4000))
    share = np.abs(gains) / np.abs(gains).sum()
    assert chisquare([counts[n] for n in range(5)], share * 4000).pvalue > 0.01


def test_replay_of_equal_advantages_has_no_duplicates():
    buffer = [set_marks(run("old", n, 1.0), stored=0.5) for n in range(4)]
    assert len({run.sample for run in sample_by_advantage(buffer, 3, np.random.default_rng(0))}) == 3
