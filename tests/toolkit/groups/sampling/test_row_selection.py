import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.toolkit.groups.sampling.row_history import Memory, Record
from edgewise.toolkit.groups.sampling.row_selection import drop_resting, information_gain, shuffle, split_batches, vade
from edgewise.toolkit.types import Example
from edgewise.toolkit.util.seeds import derive_seed

ITEMS = tuple(f"row {n}" for n in range(50))
ROWS = tuple(Example(str(n), ()) for n in range(10))


def test_every_epoch_shuffles_anew():
    orders = {shuffle(ITEMS, seed=3, epoch=epoch) for epoch in range(20)}
    assert len(orders) == 20
    assert all(sorted(order) == sorted(ITEMS) for order in orders)


def test_shuffle_depends_on_seed_and_epoch_alone():
    assert shuffle(ITEMS, 3, 1) == shuffle(ITEMS, 3, 1)
    assert shuffle(ITEMS, 3, 1) != shuffle(ITEMS, 4, 1)


def test_shuffle_is_uniform():
    firsts = [shuffle(range(4), 0, epoch)[0] for epoch in range(2000)]
    assert all(abs(firsts.count(item) - 500) < 80 for item in range(4))  # over 4 standard deviations


@given(st.lists(st.integers()), st.integers(1, 20))
def test_batches_hold_all_examples_in_order(examples, size):
    cut = split_batches(examples, size)
    assert [item for batch in cut for item in batch] == examples
    assert all(len(batch) == size for batch in cut[:-1])
    assert all(1 <= len(batch) <= size for batch in cut)


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="at least one example, not 0"):
        split_batches(ITEMS, 0)


def test_a_seed_is_the_same_in_every_process():
    code = "from edgewise.toolkit.util.seeds import derive_seed; print(derive_seed(7, 'rollout', 3, 'row', 0))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) == derive_seed(7, "rollout", 3, "row", 0) == 142209239


@given(st.lists(st.integers() | st.text(), max_size=5))
def test_a_seed_fits_in_31_bits(path):
    assert 0 <= derive_seed(*path) < 2**31


def test_paths_that_read_alike_have_different_seeds():
    assert (
        len(
            {
                derive_seed(),
                derive_seed(1),
                derive_seed("1"),
                derive_seed(1, 1),
                derive_seed("11"),
                derive_seed(11),
                derive_seed("1", "1"),
            }
        )
        == 7
    )


def selection_rates(memory, times=300, k=3):
    """How often each row is among the first `k`, over independent draws."""
    ids = [row.id for n in range(times) for row in vade(ROWS, memory, np.random.default_rng(n), k)]
    return {row.id: ids.count(row.id) / times for row in ROWS}


@pytest.mark.parametrize(("p", "value"), [(0.13, 0.098397), (0.32, 0.147968), (0.90, 0.009), (1 / 3, 4 / 27)])
def test_information_gain_has_the_values_of_the_paper(p, value):
    assert information_gain(p) == pytest.approx(value, abs=5e-7)


def test_vade_prefers_uncertain_examples():
    counts = {"0": Record(10, 0), "1": Record(8, 0.5), "2": Record(3.3, 6.7), "3": Record(3, 6)}
    share = selection_rates(Memory(counts))
    assert share["0"] < 0.03 and share["1"] < 0.03, "nearly always solved"
    assert share["2"] > 0.5 and share["3"] > 0.5, "near 1/3"
    assert all(0.1 < share[str(n)] < 0.5 for n in range(4, 10)), "never seen, so tried now and then"


def test_vade_is_uniform_without_statistics():
    assert all(abs(share - 0.3) < 0.11 for share in selection_rates(Memory()).values())  # 4 standard deviations


def test_vade_is_deterministic_given_the_generator():
    first, same = (vade(ROWS, Memory(), np.random.default_rng(7), 5) for _ in range(2))
    assert first == same and len(set(map(id, first))) == 5
    whole = vade(ROWS, Memory(), np.random.default_rng(7), 10)
    assert whole[:5] == first, "the highest come first, whatever k"


def test_vade_limits_of_k():
    assert len(vade(ROWS, Memory(), np.random.default_rng(0), 99)) == 10
    assert vade((), Memory(), np.random.default_rng(0), 3) == ()
    with pytest.raises(ValueError, match="at least one example, not 0"):
        vade(ROWS, Memory(), np.random.default_rng(0), 0)


def test_vade_breaks_ties_by_order():
    # Beta(1e300, 1) is exactly 1, so that all gains are exactly 0.
    many = tuple(Example(str(n), ()) for n in range(200))
    memory = Memory({row.id: Record(alpha=1e300 * (n % 2)) for n, row in enumerate(many)})
    assert vade(many, memory, np.random.default_rng(0), 200)[100:] == many[1::2]


def test_a_solved_example_rests_for_one_round():
    memory = Memory({"0": Record(5, 0, 1, True, last=0), "1": Record(4, 1, 1, False, last=0)})
    present = []
    for _ in range(3):
        present.append(ROWS[0] in drop_resting(ROWS, memory))
        assert drop_resting(ROWS, memory)[-9:] == ROWS[1:], "only what was always solved rests"
        memory = memory.next_round()
    assert present == [False, False, True], "the rest of its own round, the next round, then awake"


def test_none_rest_where_all_would():
    memory = Memory({row.id: Record(5, 0, 1, True) for row in ROWS}).next_round()
    assert drop_resting(ROWS, memory) == ROWS
    assert drop_resting(ROWS[:9], Memory({**memory.records, "3": Record()}, 1)) == (ROWS[3],)
