import asyncio
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.toolkit.groups.sampling.rollout_plan import (
    allocate,
    half_width,
    priority,
    sample_in_phases,
    study_in_waves,
)
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.types import Example, Group, Message, Reply, Request, Rollout, Score, Step
from tests.support.plans import play

ROWS = tuple(Example(str(n), ()) for n in range(6))
REWARDS = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), max_size=6)


def refuse_request(request):
    raise AssertionError("no model is asked here")


@pytest.mark.parametrize(
    ("rewards", "width"), [((1, 0, 0, 1), 0.918693), ((1, 0, 0, 1, 0.5), None), ((0, 0, 0, 0), 0.0)]
)
def test_half_width_has_the_reference_value(rewards, width):
    s = statistics.stdev(rewards)
    if width is None:
        width = 2.77645 * s / 5**0.5
    assert half_width(s, len(rewards)) == pytest.approx(width, abs=5e-6)


@pytest.mark.parametrize(("n", "quantile"), [(4, 3.18245), (5, 2.77645), (8, 2.36462), (9, 2.30600)])
def test_half_width_uses_the_t_quantile_of_n_less_one(n, quantile):
    assert half_width(0.5, n) * n**0.5 / 0.5 == pytest.approx(quantile, abs=5e-6)


@pytest.mark.parametrize(
    ("rewards", "reduction"), [((1, 0, 0, 1), 0.201818), ((1, 0, 0, 0), 0.174780), ((0, 0, 0, 0), 0.0)]
)
def test_priority_is_the_reference_reduction_and_bonus(rewards, reduction):
    s = statistics.stdev(rewards)
    assert priority(s, 4, 64, lam=0.0) == pytest.approx(reduction, abs=5e-7)
    assert priority(s, 4, 64) == pytest.approx(reduction + 0.102157, abs=1e-6)


def test_priority_is_infinite_below_two_rewards():
    assert priority(0.0, 1, 64) == priority(0.0, 0, 64) == math.inf


@given(st.lists(REWARDS, max_size=5), st.integers(0, 30), st.integers(1, 12))
def test_allocate_spends_the_budget_up_to_the_cap(rewards, budget, most):
    counts = allocate(rewards, budget, most)
    room = [max(0, most - len(one)) for one in rewards]
    assert sum(counts) == min(budget, sum(room))
    assert all(0 <= count <= left for count, left in zip(counts, room, strict=True))
    assert counts == allocate(rewards, budget, most), "no chance in it"


def test_rollouts_go_where_rewards_differ():
    assert allocate([(1, 1, 1), (1, 0, 1), (0, 0, 0)], 3, 10) == (0, 3, 0)
    assert allocate([(1, 0, 0, 1), (1, 0, 0, 0)], 1, 10) == (1, 0), "more so, where they differ more"


def test_equal_rewards_have_no_deviation():
    assert sum([0.1] * 8) != 0.8, "or this test shows nothing"
    rows = [[0.1] * 8, [0.1] * 7 + [0.1000001]]
    assert allocate(rows, 1, 10, lam=0.0) == (0, 1)
    assert allocate([rows[0], [0.5] * 8], 1, 10, lam=0.0) == (1, 0), "the first of equals"


def test_allocate_breaks_ties_by_count_then_order():
    assert allocate([(1, 1, 1)] * 3, 4, 10) == (2, 1, 1)
    assert allocate([(1,), ()], 1, 10) == (0, 1)


def test_failed_rollouts_count_as_sampled():
    assert allocate([(), (1, 0, 1)], 2, 10, sample_counts=[3, 3]) == (0, 2)
    assert allocate([()], 5, 4, sample_counts=[3]) == (1,)


def sampler(rewards):
    """Sample each row with its list of rewards in order; None for a failed rollout."""

    def sample(example, start, count):
        yield from ()
        values = [rewards(example, sample) for sample in range(start, start + count)]
        return tuple(
            Rollout(example.id, "solver", start + n, (), "stop" if r is not None else "failed", score)
            for n, r in enumerate(values)
            for score in [Score(r) if r is not None else Score(0.0, valid=False)]
        )

    return sample


def half_of_the_first(example, sample):
    return float(sample % 2) if example.id == "0" else 1.0


def test_phases_spend_the_rest_on_the_mixed_example():
    by_row = play(sample_in_phases(sampler(half_of_the_first), ROWS[:3], 14, first=3, phases=3, most=7), refuse_request)
    assert [len(rollouts) for rollouts in by_row] == [7, 4, 3]
    assert all([run.sample for run in rollouts] == list(range(len(rollouts))) for rollouts in by_row)
    assert [rollouts[0].example for rollouts in by_row] == ["0", "1", "2"]


@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 40), st.integers(2, 4), st.integers(3, 9), st.data())
def test_phases_spend_the_budget_up_to_the_cap(rows, first, extra, phases, most, data):
    values = data.draw(st.lists(st.sampled_from([0.0, 1.0, None]), min_size=54, max_size=54))
    budget = first * rows + extra
    sample = sampler(lambda example, sample: values[int(example.id) * 9 + sample])
    by_row = play(sample_in_phases(sample, ROWS[:rows], budget, first, phases, most), refuse_request)
    assert sum(map(len, by_row)) == min(budget, most * rows)
    assert all(first <= len(rollouts) <= most for rollouts in by_row)


def test_later_phases_depend_on_earlier_rewards():
    requests = []

    def sample(example, start, count):
        requests.append((example.id, start, count))
        return (yield from sampler(lambda e, sample: float(e.id == "1" and sample == 3))(example, start, count))

    play(sample_in_phases(sample, ROWS[:2], 10, first=3, phases=3, most=10), refuse_request)
    assert requests[:2] == [("0", 0, 3), ("1", 0, 3)]
    assert requests[2:4] == [("0", 3, 1), ("1", 3, 1)], "nothing is known yet"
    assert requests[4:] == [("1", 4, 2)], "the fourth rollout differed"


@pytest.mark.parametrize(
    ("budget", "first", "phases", "most"), [(5, 3, 3, 9), (9, 3, 1, 9), (9, 0, 2, 9), (9, 3, 2, 2)]
)
def test_impossible_phases_raise(budget, first, phases, most):
    with pytest.raises(ValueError, match=f"{budget} rollouts can't be dealt"):
        play(sample_in_phases(sampler(half_of_the_first), ROWS[:2], budget, first, phases, most), refuse_request)


def group_of(example, rewards):
    return Group(
        example, "solver", tuple(Rollout(example.id, "", n, (), "stop", Score(r)) for n, r in enumerate(rewards))
    )


def study(example):
    """Rows 1, 3 and 5 have signal: one reward in eight differs in its last digit."""
    yield from ()
    return group_of(example, [0.1] * 7 + [0.1000001 if int(example.id) % 2 else 0.1])


@pytest.mark.parametrize(
    ("wanted", "ids"), [(0, ""), (1, "01"), (2, "0123"), (3, "012345"), (4, "012345"), (99, "012345")]
)
def test_examples_without_signal_are_replaced(wanted, ids):
    def study_wave(examples):
        return (yield [study(example) for example in examples])

    studies = play(study_in_waves(ROWS, study_wave, wanted, lambda group: group.is_mixed), refuse_request)
    assert "".join(group.example.id for group in studies) == ids


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 8))
def test_waves_stop_at_the_wanted_signal(signal, wanted):
    waves = []

    def study_wave(examples):
        yield from ()
        waves.append(len(examples))
        return [signal[int(example.id)] for example in examples]

    queue = [Example(str(n), ()) for n in range(len(signal))]
    studies = play(study_in_waves(queue, study_wave, wanted, bool), refuse_request)
    assert studies == signal[: len(studies)], "in the order of the queue"
    assert sum(studies) == wanted or (sum(studies) < wanted and len(studies) == len(signal))
    assert sum(waves) == len(studies) and 0 not in waves


class Uneven:
    """A client whose replies arrive in an order of their own."""

    async def ask(self, request: Request) -> Reply:
        number = int(request.messages[0].content)
        await asyncio.sleep((number * 7 % 5) / 500)
        return Reply(Message("assistant", str(number % 3)))


def test_studies_do_not_depend_on_reply_order():
    def study_reply(example):
        reply = yield Request("m", (Message("user", example.id),))
        run = Rollout(example.id, "", 0, (Step((), reply.message),), "stop")
        return Group(example, "", (run,))

    def study_wave(examples):
        return (yield [study_reply(example) for example in examples])

    def plan():
        queue = [Example(str(n), ()) for n in range(30)]
        return study_in_waves(queue, study_wave, 6, lambda group: group.rollouts[0].answer == "1")

    at_once = asyncio.run(drive(plan(), Uneven()))
    one_by_one = play(plan(), lambda request: str(int(request.messages[0].content) % 3))
    assert [g.example.id for g in at_once] == [g.example.id for g in one_by_one]
    assert sum(g.rollouts[0].answer == "1" for g in at_once) == 6
