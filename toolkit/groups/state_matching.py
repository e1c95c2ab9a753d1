"""
Anchors: steps of a group that start from the same state, so that their actions can be compared (axis 6).

    exact      the same state                                             GiGPO (arXiv 2505.10978)
    similar    linked by texts that are alike, whatever their order       our reading of its similarity mode
    greedy     like the first of a cluster, in the order of steps         its code

M steps. Each has the number of its group and a state, and receives the number of its anchor.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.errors import TaskError

Numbers = NDArray[np.int64]


def match_exact(group: Numbers, states: Iterable[Any]) -> Numbers:
    """Return an anchor for each different state of each group: (M,). Raises TaskError for an unhashable state."""
    return number_keys(zip(group.tolist(), map(make_hashable, states), strict=True), len(group))


def number_keys(keys: Iterable[Hashable], count: int) -> Numbers:
    """Number different keys in the order of their first appearance: (count,)."""
    numbers: dict[Hashable, int] = {}
    return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64, count)


def match_similar(group: Numbers, states: Sequence[Any], threshold: float, *, is_greedy: bool = False) -> Numbers:
    """
    Return an anchor for all states of a group that are linked, directly or by others, by a likeness of `threshold`.

    (M,); the order of steps changes nothing. With `is_greedy` it decides, as in the authors' code: a state joins the
    first cluster whose first member is like it. Raises TaskError for states that are not text.
    """
    if wrong := next((state for state in states if not isinstance(state, str)), None):
        raise TaskError(f"States that are compared by likeness must be texts, not {type(wrong).__name__}.")

    # The different texts of each group, in the order of steps.
    by_group: dict[int, dict[str, None]] = defaultdict(dict)
    for number, state in zip(group.tolist(), states, strict=True):
        by_group[number][state] = None

    clusters: dict[int, dict[str, int]] = {}
    for number, distinct in by_group.items():
        texts = list(distinct)
        matcher, cluster = _TextMatcher(texts, threshold), np.arange(len(texts))
        heads: list[int] = []
        for i in range(len(texts)):
            if is_greedy:
                near = matcher.prefilter(i, np.array(heads, np.int64))
                cluster[i] = next((head for head in near if matcher.is_alike(head, i)), i)
                heads += [i] if cluster[i] == i else []
                continue
            # Connected components: a link merges the two clusters.
            for j in matcher.prefilter(i, np.arange(i)):
                if cluster[i] != cluster[j] and matcher.is_alike(i, j):
                    cluster[cluster == cluster[i]] = cluster[j]
        clusters[number] = dict(zip(texts, cluster.tolist(), strict=True))

    keys = ((number, clusters[number][state]) for number, state in zip(group.tolist(), states, strict=True))
    return number_keys(keys, len(group))


def make_hashable(state: Any) -> Hashable:
    """
    Convert a state to a hashable: arrays with their shape, mappings in the order of their keys.

    Raises TaskError for anything else that has no hash.
    """
    match state:
        case np.ndarray():
            return state.shape, tuple(state.ravel().tolist())
        case np.generic():
            return state.item()
        case Mapping():
            pairs = sorted((str(key), make_hashable(value)) for key, value in state.items())
            return "mapping", tuple(pairs)
        case list() | tuple():
            return tuple(map(make_hashable, state))
    try:
        hash(state)
    except TypeError as error:
        raise TaskError(
            f"A state of type {type(state).__name__} can't be compared with others: let the environment give a text, "
            "a number, or a list or mapping of them."
        ) from error
    return state


class _TextMatcher:
    """
    Texts by number, two of which are alike if 2 M / (length of both) is at least the threshold.

    M, the characters in common blocks (difflib), is slow to compute. It is at most the number of characters in common
    in any order, and at most the longest common subsequence. Most pairs need no more than one of these two bounds.
    """

    def __init__(self, texts: Sequence[str], threshold: float):
        self.texts, self.threshold = texts, threshold
        letters = {letter: n for n, letter in enumerate(sorted(set().union(*texts)))}
        self.counts = np.zeros((len(texts), len(letters)), np.int32)  # [text, letter]
        self.masks: list[dict[str, int]] = []
        for row, text in zip(self.counts, texts, strict=True):
            np.add.at(row, [letters[letter] for letter in text], 1)
            # Of each letter, a number whose bits are the places where it stands.
            mask: dict[str, int] = {}
            for place, letter in enumerate(text):
                mask[letter] = mask.get(letter, 0) | 1 << place
            self.masks.append(mask)
        self.lengths = self.counts.sum(1)

    def prefilter(self, i: int, others: Numbers) -> Numbers:
        """Return those of `others` that have enough characters in common with text `i`."""
        common = np.minimum(self.counts[i], self.counts[others]).sum(1)
        total = self.lengths[i] + self.lengths[others]
        return others[np.where(total > 0, 2.0 * common / np.maximum(total, 1), 1.0) >= self.threshold]

    def is_alike(self, i: int, j: int) -> bool:
        """Whether two texts are alike, in either order of the two."""
        # Length of the longest common subsequence, all places of text i at once in the bits of an integer
        # (Hyyro 2004, "Bit-parallel LCS-length computation revisited").
        length = len(self.texts[i])
        ones = free = (1 << length) - 1
        for letter in self.texts[j]:
            matches = free & self.masks[i].get(letter, 0)
            free = ((free + matches) | (free - matches)) & ones
        longest = length - free.bit_count()

        total = length + len(self.texts[j])
        if total and 2.0 * longest / total < self.threshold:
            return False
        # difflib can give two numbers for the two orders of a pair, so the order is fixed.
        pair = sorted((self.texts[i], self.texts[j]))
        return SequenceMatcher(None, *pair, autojunk=False).ratio() >= self.threshold
