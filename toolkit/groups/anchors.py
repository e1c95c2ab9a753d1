"""
Anchors: steps of a group that stood before the same state, so that what was done there can be compared (axis 6).

    exact      the same state                                             GiGPO (arXiv 2505.10978)
    similar    linked by texts that are alike, whatever their order       our reading of its similarity mode
    greedy     like the first of a cluster, in the order of steps         its code

M steps; each is given by the number of its group and by its state, and gets the number of its anchor.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import TaskError

Numbers = NDArray[np.int64]


def exact(group: Numbers, states: Iterable[Any]) -> Numbers:
    """(M,) an anchor for each different state of each group. Raises TaskError for a state that can't be compared."""
    return numbered(zip(group.tolist(), map(comparable, states), strict=True), len(group))


def numbered(keys: Iterable[Hashable], count: int) -> Numbers:
    """(count,) a number for each different key, in the order in which they come."""
    known: dict[Hashable, int] = {}
    return np.fromiter((known.setdefault(key, len(known)) for key in keys), np.int64, count)


def similar(group: Numbers, states: Sequence[Any], threshold: float) -> Numbers:
    """
    (M,) an anchor for all states of a group that are linked, directly or by others, by a likeness of `threshold`.

    The order of steps changes nothing. Raises TaskError for states that are no text.
    """
    return _clustered(group, states, threshold, _linked)


def greedy(group: Numbers, states: Sequence[Any], threshold: float) -> Numbers:
    """(M,) as `similar`, but a state joins the first cluster whose first member is like it: the order decides."""
    return _clustered(group, states, threshold, _joined)


def alike(one: str, other: str, threshold: float) -> bool:
    """Whether 2 M / (length of both) is at least `threshold`, M the characters in common blocks (difflib)."""
    match = SequenceMatcher(
        None, *sorted((one, other)), autojunk=False
    )  # of two orders it can give two numbers
    bounds = match.real_quick_ratio, match.quick_ratio, match.ratio
    return all(bound() >= threshold for bound in bounds)


def comparable(state: Any) -> Hashable:
    """
    The state as something that can be hashed: arrays with their shape, mappings in the order of their keys.

    Raises TaskError for anything else that can't be.
    """
    match state:
        case np.ndarray():
            return state.shape, tuple(state.ravel().tolist())
        case np.generic():
            return state.item()
        case Mapping():
            pairs = sorted((str(key), comparable(value)) for key, value in state.items())
            return "mapping", tuple(pairs)
        case list() | tuple():
            return tuple(map(comparable, state))
    try:
        hash(state)
    except TypeError as error:
        raise TaskError(
            f"A state of type {type(state).__name__} can't be compared with others: let the environment give a text, "
            "a number, or a list or mapping of them."
        ) from error
    return state


def _clustered(
    group: Numbers,
    states: Sequence[Any],
    threshold: float,
    cluster: Callable[[list[str], float], dict[str, int]],
) -> Numbers:
    if wrong := next((state for state in states if not isinstance(state, str)), None):
        raise TaskError(f"States that are compared by likeness must be texts, not {type(wrong).__name__}.")
    texts: dict[int, dict[str, None]] = defaultdict(dict)  # of each group, in order, each once
    for number, state in zip(group.tolist(), states, strict=True):
        texts[number][state] = None
    found = {number: cluster(list(each), threshold) for number, each in texts.items()}
    pairs = zip(group.tolist(), states, strict=True)
    return numbered(((number, found[number][state]) for number, state in pairs), len(group))


def _linked(texts: list[str], threshold: float) -> dict[str, int]:
    """Connected components."""
    cluster = {text: number for number, text in enumerate(texts)}
    for one, other in combinations(texts, 2):
        if cluster[one] != cluster[other] and alike(one, other, threshold):
            old, new = cluster[one], cluster[other]
            cluster = {text: new if number == old else number for text, number in cluster.items()}
    return cluster


def _joined(texts: list[str], threshold: float) -> dict[str, int]:
    first: list[str] = []
    cluster: dict[str, int] = {}
    for text in texts:
        number = next((n for n, head in enumerate(first) if alike(head, text, threshold)), len(first))
        if number == len(first):
            first.append(text)
        cluster[text] = number
    return cluster
