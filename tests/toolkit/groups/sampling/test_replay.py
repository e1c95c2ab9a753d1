from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from edgewise.toolkit.groups.sampling.replay import REPLAYED, buffered, drawn_by_advantage, recovered
from edgewise.toolkit.groups.sampling.rollout_plan import SamplingRequest, marked
from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.tracking.events import GroupsDeferred
from edgewise.toolkit.types import Example, Group, Rollout, Score
from tests.support.plans import play

ROWS = [Example(str(n), ()) for n in range(12)]


def run(name, sample, reward):
    return Rollout(name, "solver", sample, (), "stop", Score(reward))


def group(name, *rewards):
    return Group(Example(name, ()), "solver", tuple(run(name, n, r) for n, r in enumerate(rewards)))


def asked(mixed, wanted=4, **memory):
    """A step on twelve rows, of which those named are mixed."""

    def draw(example, start, count):
        rewards = [float(example.id in mixed and n == 0) for n in range(count)]
        return tuple(run(example.id, n, reward) for n, reward in enumerate(rewards))
        yield

    return SamplingRequest(
        tuple(ROWS), wanted, 2, draw, memory=Memory(**memory), rng=np.random.default_rng(0)
    )


def made(plan):
    notes = []
    groups = play(plan, lambda request: pytest.fail("no model is asked here"), notes)
    later = [each for note in notes if isinstance(note, GroupsDeferred) for each in note.groups]
    return [each.example.id for each in groups], [each.example.id for each in later], groups


def test_what_is_left_from_one_step_is_the_start_of_the_next():
    """N = 4, one is left, two rounds deliver 2 and 3: a batch of 4, and 2 are left."""
    mixed = {"0", "1", "4", "5", "6"}
    groups, later, _ = made(recovered(asked(mixed, leftover=(group("old", 1, 0),))))
    assert groups[:4] == ["old", "0", "1", "4"] and later == ["5", "6"]
    assert groups[4:] == ["2", "3", "7"], "what is not mixed is for keep to leave out"


@pytest.mark.parametrize(("left", "sampled"), [(4, 0), (6, 0), (3, 4)])
def test_enough_from_the_last_step_needs_no_sampling(left, sampled):
    old = tuple(group(f"old{n}", 1, 0) for n in range(left))
    groups, later, _ = made(recovered(asked({row.id for row in ROWS}, leftover=old)))
    assert len(groups) == 4 and len(later) == left + sampled - 4
    assert groups[:left] == [f"old{n}" for n in range(min(left, 4))]


def test_without_signal_the_queue_is_the_end():
    groups, later, _ = made(recovered(asked(set())))
    assert groups == [row.id for row in ROWS] and not later


def test_dead_groups_are_made_up_for_by_rollouts_of_the_buffer():
    buffer = tuple(marked(run("old", n, 1.0), stored=0.5) for n in range(20))
    names, _, groups = made(buffered(asked({"0"}, buffer=buffer)))
    assert names == ["0", "1", "2", "3", *[REPLAYED] * 3]
    replayed = [run for each in groups if each.role == REPLAYED for run in each.members]
    assert len({each.sample for each in replayed}) == 6, "three dead groups of two, none twice"


@pytest.mark.parametrize(("stored", "expected"), [((), []), ((0.5,), [1]), ((0.5,) * 3, [2, 1])])
def test_a_small_buffer_gives_what_it_has(stored, expected):
    buffer = tuple(marked(run("old", n, 1.0), stored=a) for n, a in enumerate(stored))
    _, _, groups = made(buffered(asked(set(), buffer=buffer)))
    assert [len(each.members) for each in groups[4:]] == expected


def test_how_often_a_rollout_is_drawn_follows_its_advantage():
    gains = [1.5, -0.5, -0.5, -0.5, 0.25]
    buffer = [marked(run("old", n, 1.0), stored=a) for n, a in enumerate(gains)]
    rng = np.random.default_rng(7)
    drawn = Counter(drawn_by_advantage(buffer, 1, rng)[0].sample for _ in range(4000))
    share = np.abs(gains) / np.abs(gains).sum()
    assert chisquare([drawn[n] for n in range(5)], share * 4000).pvalue > 0.01


def test_equal_advantages_are_no_tie_to_break():
    buffer = [marked(run("old", n, 1.0), stored=0.5) for n in range(4)]
    assert len({each.sample for each in drawn_by_advantage(buffer, 3, np.random.default_rng(0))}) == 3
