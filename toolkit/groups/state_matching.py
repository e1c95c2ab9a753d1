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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.errors import TaskError

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
    known, cluster = _Texts(texts, threshold), np.arange(len(texts))
    for one in range(len(texts)):
        for other in known.near(one, np.arange(one)):
            if cluster[one] != cluster[other] and known.alike(one, other):
                cluster[cluster == cluster[one]] = cluster[other]
    return dict(zip(texts, cluster.tolist(), strict=True))


def _joined(texts: list[str], threshold: float) -> dict[str, int]:
    known, heads = _Texts(texts, threshold), []
    cluster: dict[str, int] = {}
    for number, text in enumerate(texts):
        near = known.near(number, np.array(heads, np.int64))
        cluster[text] = int(next((head for head in near if known.alike(head, number)), number))
        if cluster[text] == number:
            heads.append(number)
    return cluster


class _Texts:
    """
    Texts by number, two of which are alike if 2 M / (length of both) is at least the threshold.

    M is the characters in common blocks (difflib), which is slow. It is at most the characters that both have in
    whatever order, and at most the longest common subsequence: most pairs need no more than the one or the other.
    """

    def __init__(self, texts: Sequence[str], threshold: float):
        self.texts, self.threshold = texts, threshold
        letters = {letter: n for n, letter in enumerate(sorted(set().union(*texts)))}
        self.counts = np.zeros((len(texts), len(letters)), np.int32)
        for row, text in zip(self.counts, texts, strict=True):
            np.add.at(row, [letters[letter] for letter in text], 1)
        self.lengths = self.counts.sum(1)
        self.places = [_places(text) for text in texts]

    def near(self, one: int, others: Numbers) -> Numbers:
        """Those of `others` that have enough characters in common with `one`."""
        common = np.minimum(self.counts[one], self.counts[others]).sum(1)
        total = self.lengths[one] + self.lengths[others]
        return others[np.where(total > 0, 2.0 * common / np.maximum(total, 1), 1.0) >= self.threshold]

    def alike(self, one: int, other: int) -> bool:
        """Whether they are; the order of the two changes nothing, with which difflib can give two numbers."""
        total = len(self.texts[one]) + len(self.texts[other])
        longest = _subsequence(self.places[one], len(self.texts[one]), self.texts[other])
        if total and 2.0 * longest / total < self.threshold:
            return False
        pair = sorted((self.texts[one], self.texts[other]))
        return SequenceMatcher(None, *pair, autojunk=False).ratio() >= self.threshold


def _places(text: str) -> dict[str, int]:
    """Of each character, a number whose bits are the places where it stands."""
    found: dict[str, int] = {}
    for place, letter in enumerate(text):
        found[letter] = found.get(letter, 0) | 1 << place
    return found


def _subsequence(places: Mapping[str, int], length: int, other: str) -> int:
    """The length of the longest common subsequence of two texts, all places at once (Hyyro, 2004)."""
    whole = free = (1 << length) - 1
    for letter in other:
        taken = free & places.get(letter, 0)
        free = ((free + taken) | (free - taken)) & whole
    return length - free.bit_count()
