"""
One test for libraries, graphs and weights: whether a change may replace the current version.

All candidates and the current version answer the same rows, which no candidate was made from, with the same seeds, so
differences are paired. Successive halving spends few rows on bad candidates (Karnin, Koren, Somekh 2013). Each round is
a look of a group sequential test, and the chance of accepting anything false in the whole run stays at most `alpha`
(docs/decisions/0003-gate.md).

E rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from edgewise.toolkit.evaluation.statistics import gain_p_value
from edgewise.toolkit.types import Example, Plan

FEWEST_ROWS = 20
"""Rows of the first look, where there are as many."""
FUTILITY_SHARE = 0.5
"""Share of the rows after which a candidate that is not ahead is given up."""


class Versioned(Protocol):
    """A candidate: equal versions answer alike."""

    @property
    def version(self) -> str:
        """A short hash."""
        ...


V = TypeVar("V", bound=Versioned)
Scores = np.ndarray
Measure = Callable[[V, Sequence[Example]], Plan[Scores]]


@dataclass(frozen=True, slots=True)
class AlphaSpending:
    """
    The part of the run's error rate that each test may use.

    `tests` share `alpha` equally. A test that accepts, or that has nothing to test, hands its level on to the next one
    (the online fallback procedure, Tian and Ramdas 2021), which keeps the chance of any false acceptance at most
    `alpha`.
    """

    alpha: float
    tests: int
    done: int = 0
    carried: float = 0.0

    @property
    def level(self) -> float:
        """The level of the next test; 0 when all that was planned is spent."""
        return self.carried + (self.alpha / self.tests if self.done < self.tests else 0.0)

    def after(self, choice: "Choice[Any]") -> "AlphaSpending":
        """Return the spending after a choice: where nothing was tested, nothing is spent."""
        is_unspent = bool(choice.winner) or not choice.verdict.rows
        return replace(self, done=self.done + 1, carried=self.level if is_unspent else 0.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a change is accepted, and why."""

    accepted: bool
    difference: float  # mean paired gain
    rows: int  # number of rows it was measured on
    p: float = 1.0  # one-sided p-value of "there is no gain"
    level: float = 0.0  # the level that p had to reach at that look
    worse: tuple[str, ...] = ()  # ids of anchors that got worse


@dataclass(frozen=True, slots=True)
class Choice(Generic[V]):
    """The version to go on with, the name of the winning challenger ("" if the current one stays), and why."""

    chosen: V
    winner: str
    verdict: Verdict
    means: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for the step's record."""
        verdict = asdict(self.verdict) | {"worse": list(self.verdict.worse)}
        return {"winner": self.winner, **verdict, "means": dict(self.means)}

    def summary(self) -> str:
        """Return one phrase for people."""
        verdict = self.verdict
        if not verdict.rows:
            return "there was no candidate"
        gain = f"{verdict.difference:+.3f} on {verdict.rows} validation rows, p {verdict.p:.2g}"
        if self.winner:
            return f"kept {self.winner!r} ({gain})"
        if verdict.worse:
            return f"refused: anchors got worse ({', '.join(verdict.worse)}; {gain})"
        return f"nothing was shown to be better ({gain}; needed {verdict.level:.2g})"


def rungs(rows: int, challengers: int) -> list[int]:
    """Return the number of rows that each look has compared on by its end; the last is all of them."""
    # Halving the field at every look needs log2(challengers) looks to one finalist, and one more on all rows.
    looks = max(2, math.ceil(math.log2(max(challengers, 1))) + 1)
    sizes = [math.ceil(rows / 2**back) for back in reversed(range(looks))]
    return sorted({max(size, min(FEWEST_ROWS, rows)) for size in sizes})


def spend_alpha(share: float) -> float:
    """
    Return the part of a test's level that is spent once a share of its rows is measured.

    The power family of Kim and DeMets (1987) with exponent 3: early looks get little, so the last has nearly all.
    """
    return share**3


def choose(
    current: V,
    challengers: Mapping[str, V],
    rows: Sequence[Example],
    measure: Measure[V],
    level: float,
    anchors: Sequence[Example] = (),
) -> Plan[Choice[V]]:
    """
    Compare challengers with the current version on the same rows and return the version to go on with.

    `measure` gives (E,) mean rewards. The best challenger is accepted once it is proven and no anchor, a row that may
    not get worse, did. Challengers whose version equals an earlier one's, or the current one's, are left out.
    """
    # Successive halving, with a test at every look. For 4 challengers and 80 rows:
    #
    #     look      1           2           3
    #     rows      1..20       21..40      41..80          each row is measured once per challenger
    #     field     a b c d     a b         a               the better half goes on
    #     level     l s1 / 4    l s2 / 4    l s3 / 4        s = share^3 - (share of the look before)^3
    #
    # The shares s add up to 1, and each of the k challengers gets 1/k of them (Bonferroni). So the chance that any
    # challenger without a gain is proven at any look is at most `level`.
    finalists: dict[str, V] = {}
    versions = {current.version}
    for name, challenger in challengers.items():
        if challenger.version not in versions:
            versions.add(challenger.version)
            finalists[name] = challenger
    if not finalists or not rows:
        return Choice(current, "", Verdict(False, 0.0, 0))

    candidates = {"": current, **finalists}
    scores = {name: np.zeros(0) for name in candidates}  # (rows so far,) each
    alive, done, best = list(finalists), 0, Verdict(False, 0.0, 0)
    proofs: dict[str, Verdict] = {}
    for size in rungs(len(rows), len(finalists)):
        # Measure the field on the rows that are new at this look.
        names = ["", *alive]
        fresh = yield [measure(candidates[name], rows[done:size]) for name in names]
        for name, values in zip(names, fresh, strict=True):
            scores[name] = np.append(scores[name], values)

        # Test each on all rows so far. A proof stays: the level of its look is spent.
        share, share_before = size / len(rows), done / len(rows)
        part = level * (spend_alpha(share) - spend_alpha(share_before)) / len(finalists)
        verdicts = {name: compare_scores(scores[""], scores[name], part) for name in alive}
        for name, verdict in verdicts.items():
            if verdict.accepted:
                proofs.setdefault(name, verdict)
        done = size

        # The leader is accepted by a proof of this look or of an earlier one, as long as it is still ahead.
        alive.sort(key=lambda name: -verdicts[name].difference)
        best, proof = verdicts[alive[0]], proofs.get(alive[0])
        if proof and best.difference > 0:
            best = replace(best, accepted=True, p=proof.p, level=proof.level)

        # Stop where more rows could hardly change the choice: a lone leader is proven, or nobody is ahead.
        if (len(alive) == 1 and best.accepted) or (share >= FUTILITY_SHARE and best.difference <= 0):
            break
        alive = alive[: math.ceil(len(alive) / 2)]

    if best.accepted and anchors:
        before, after = yield [measure(current, anchors), measure(candidates[alive[0]], anchors)]
        worse = tuple(row.id for row, b, a in zip(anchors, before, after, strict=True) if a < b)
        best = replace(best, accepted=not worse, worse=worse)
    winner = alive[0] if best.accepted else ""
    means = {name or "current": float(np.mean(values)) for name, values in scores.items()}
    return Choice(candidates[winner], winner, best, means)


def compare_scores(before: Scores, after: Scores, level: float) -> Verdict:
    """Accept where (E,) paired differences show a gain at a one-sided level."""
    differences = np.asarray(after, float) - np.asarray(before, float)
    p = gain_p_value(differences)
    return Verdict(p <= level, float(np.mean(differences)), len(differences), p, level)
