from difflib import SequenceMatcher
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.groups import state_matching

ROOMS = ["you are in room 1 with a red box", "you are in room 1 with a red cup", "you are in room 9 with a red cup"]
ZEROS = np.zeros(3, int)


def partition(numbers, names):
    """Which names share a number, whatever it is."""
    pairs = list(zip(names, numbers.tolist(), strict=True))
    return {frozenset(name for name, other in pairs if other == number) for _, number in pairs}


def test_exact_states_match_within_a_group_only() -> None:
    assert state_matching.match_exact(np.array([0, 0, 1, 1]), ["a", "b", "a", "a"]).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), False),
        (np.zeros((2, 3)), np.zeros((2, 3)), True),
        (np.int64(3), 3, True),
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, True),
        ([1, [2, 3]], (1, (2, 3)), True),
        (None, "None", False),
        ({"a": 1}, (("a", 1),), False),
    ],
)
def test_states_may_be_arrays_and_mappings(one, other, same) -> None:
    assert (len(set(state_matching.match_exact(np.zeros(2, int), [one, other]).tolist())) == 1) == same


def test_an_unhashable_state_raises() -> None:
    with pytest.raises(TaskError, match="A state of type set can't be compared with others: let the environment"):
        state_matching.match_exact(np.zeros(1, int), [{1, 2}])
    with pytest.raises(TaskError, match="compared by likeness must be texts, not int"):
        state_matching.match_similar(np.zeros(2, int), ["a", 3], 0.9)


@pytest.mark.parametrize("threshold", [0.87, 0.9, 0.92, 0.99])
def test_similar_states_match_in_any_order(threshold) -> None:
    anchors = [
        partition(state_matching.match_similar(ZEROS, [ROOMS[i] for i in order], threshold), order)
        for order in permutations(range(3))
    ]
    assert all(x == anchors[0] for x in anchors)


def test_greedy_clusters_depend_on_the_order() -> None:
    anchors = [
        partition(state_matching.match_similar(ZEROS, [ROOMS[i] for i in order], 0.9, is_greedy=True), order)
        for order in permutations(range(3))
    ]
    assert any(x != anchors[0] for x in anchors)


@pytest.mark.parametrize("is_greedy", [False, True])
def test_similar_states_of_two_groups_do_not_match(is_greedy) -> None:
    groups, states = np.array([0, 1, 1]), [ROOMS[0], ROOMS[0], ROOMS[1]]
    assert state_matching.match_similar(groups, states, 0.9, is_greedy=is_greedy).tolist() == [0, 1, 1]


@given(st.lists(st.text("abc ", max_size=9), min_size=1, max_size=12), st.sampled_from([0.4, 0.6, 0.8, 0.9]))
def test_bounds_drop_no_pair_that_difflib_matches(texts, threshold) -> None:
    def alike(one, other):
        return SequenceMatcher(None, *sorted((one, other)), autojunk=False).ratio() >= threshold

    heads: list[str] = []
    joined: list[int] = []
    for text in texts:
        first = next((n for n, head in enumerate(heads) if alike(head, text)), len(heads))
        joined.append(first)
        heads += [text] if first == len(heads) else []
    linked = [{j for j, other in enumerate(texts) if alike(text, other)} for text in texts]
    for _ in texts:
        linked = [set().union(*(linked[j] for j in links)) for links in linked]
    zeros, names = np.zeros(len(texts), int), range(len(texts))
    anchors = state_matching.match_similar(zeros, texts, threshold, is_greedy=True)
    assert partition(anchors, names) == partition(np.array(joined), names)
    anchors = state_matching.match_similar(zeros, texts, threshold)
    assert partition(anchors, names) == {frozenset(links) for links in linked}
