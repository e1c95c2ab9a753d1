import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.groups.select import batches, shuffled
from toolkit.seeds import seed

ITEMS = tuple(f"row {n}" for n in range(50))


def test_every_epoch_has_its_own_order_of_the_same_examples():
    orders = {shuffled(ITEMS, seed=3, epoch=epoch) for epoch in range(20)}
    assert len(orders) == 20
    assert all(sorted(order) == sorted(ITEMS) for order in orders)


def test_an_order_depends_on_seed_and_epoch_alone():
    assert shuffled(ITEMS, 3, 1) == shuffled(ITEMS, 3, 1)
    assert shuffled(ITEMS, 3, 1) != shuffled(ITEMS, 4, 1)


def test_the_shuffle_is_uniform_over_places():
    firsts = [shuffled(range(4), 0, epoch)[0] for epoch in range(2000)]
    assert all(abs(firsts.count(item) - 500) < 80 for item in range(4))  # over 4 standard deviations


@given(st.lists(st.integers()), st.integers(1, 20))
def test_batches_hold_all_examples_in_order(examples, size):
    cut = batches(examples, size)
    assert [item for batch in cut for item in batch] == examples
    assert all(len(batch) == size for batch in cut[:-1])
    assert all(1 <= len(batch) <= size for batch in cut)


def test_a_batch_of_no_examples_is_refused():
    with pytest.raises(ValueError, match="at least one example, not 0"):
        batches(ITEMS, 0)


def test_a_seed_is_the_same_in_every_process():
    code = "from toolkit.seeds import seed; print(seed(7, 'rollout', 3, 'row', 0))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) == seed(7, "rollout", 3, "row", 0) == 142209239


@given(st.lists(st.integers() | st.text(), max_size=5))
def test_a_seed_fits_in_31_bits(path):
    assert 0 <= seed(*path) < 2**31


def test_paths_that_read_alike_have_seeds_of_their_own():
    assert len({seed(), seed(1), seed("1"), seed(1, 1), seed("11"), seed(11), seed("1", "1")}) == 7
