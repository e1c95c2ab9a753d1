"""
Whether a change may take the place of what is there: one test for libraries, graphs and weights.

All candidates and the current one answer the same rows, which no candidate was made from, with the same seeds, so
differences are paired. Successive halving spends few rows on bad candidates (Karnin, Koren, Somekh 2013); each
round is a look of a group sequential test, and the chance of accepting anything false in the whole run stays at
most `alpha` (docs/decisions/0003-gate.md).

E rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from edgewise.toolkit.evaluation.statistics import gain_p
from edgewise.toolkit.types import Example, Plan

FEWEST = 20
HALF = 0.5


class Versioned(Protocol):
    """What can be compared: equal versions answer alike."""

    @property
    def version(self) -> str:
        """A short hash."""
        ...


V = TypeVar("V", bound=Versioned)
Scores = np.ndarray
Measure = Callable[[V, Sequence[Example]], Plan[Scores]]


@dataclass(frozen=True, slots=True)
class Spending:
    """
    How much of the run's error rate each test may use.

    `tests` share `alpha` equally. A test that accepts, or that had nothing to test, hands its level on to the next
    one (the online fallback procedure, Tian and Ramdas 2021), which keeps the chance of any false acceptance at
    most `alpha`.
    """

    alpha: float
    tests: int
    done: int = 0
    carried: float = 0.0

    @property
    def level(self) -> float:
        """What the next test may use; 0 when all that was planned is spent."""
        return self.carried + (self.alpha / self.tests if self.done < self.tests else 0.0)

    def after(self, choice: "Choice[Any]") -> "Spending":
        """The spending after a choice: where nothing was tested, nothing was spent."""
        unspent = bool(choice.winner) or not choice.verdict.rows
        return replace(self, done=self.done + 1, carried=self.level if unspent else 0.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    Whether a change is accepted: `difference` is its mean paired gain over `rows` rows.

    `p` is the one-sided p-value of "there is no gain" and `level` what it had to reach at that look; `worse` are
    ids of anchors that got worse.
    """

    accepted: bool
    difference: float
    rows: int
    p: float = 1.0
    level: float = 0.0
    worse: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice(Generic[V]):
    """What to go on with, the name of the winning challenger ("" if the current one stays), and why."""

    chosen: V
    winner: str
    verdict: Verdict
    means: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the step's record."""
        verdict = self.verdict
        return {
            "winner": self.winner,
            "accepted": verdict.accepted,
            "difference": verdict.difference,
            "rows": verdict.rows,
            "p": verdict.p,
            "level": verdict.level,
            "worse": list(verdict.worse),
            "means": dict(self.means),
        }

    def summary(self) -> str:
        """One phrase for people."""
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
    """How many rows each look has compared on by its end; the last is all of them."""
    rounds = max(2, math.ceil(math.log2(max(challengers, 1))) + 1)
    sizes = [math.ceil(rows / 2**back) for back in reversed(range(rounds))]
    return sorted({max(size, min(FEWEST, rows)) for size in sizes})


def spent(share: float) -> float:
    """
    The part of a test's level that is spent by the time a share of its rows is in.

    The cube: early looks get little, so the last has nearly all (Kim and DeMets 1987, power family).
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
    Compare challengers with the current one on the same rows and return what to go on with.

    `measure` gives (E,) mean rewards. A challenger is proven at a look if its one-sided p-value is within the part
    of `level` that the look may spend, divided by the number of challengers. The best of those left is accepted
    once it is proven and no anchor, a row that may not get worse, did. It ends early when that is clear: when the one
    that is left is proven, or nobody is ahead on half of the rows.

    Challengers whose version equals that of one before them, or of the current one, are left out.
    """
    field_ = _distinct(current, challengers)
    if not field_ or not rows:
        return Choice(current, "", Verdict(False, 0.0, 0))
    scores = {name: np.zeros(0) for name in ("", *field_)}
    things = {"": current, **field_}
    alive, done, found = list(field_), 0, Verdict(False, 0.0, 0)
    proofs: dict[str, Verdict] = {}
    for size in rungs(len(rows), len(field_)):
        names = ["", *alive]
        fresh = yield [measure(things[name], rows[done:size]) for name in names]
        scores.update({n: np.append(scores[n], new) for n, new in zip(names, fresh, strict=True)})
        part = level * (spent(size / len(rows)) - spent(done / len(rows))) / len(field_)
        done = size
        verdicts = {name: better(scores[""], scores[name], part) for name in alive}
        proofs = {**{name: each for name, each in verdicts.items() if each.accepted}, **proofs}
        alive.sort(key=lambda name: -verdicts[name].difference)
        found = _with_proof(verdicts[alive[0]], proofs.get(alive[0]))
        if _clear(found, len(alive), size / len(rows)):
            break
        alive = alive[: math.ceil(len(alive) / 2)]
    if found.accepted:
        found = yield from _with_anchors(found, current, things[alive[0]], anchors, measure)
    winner = alive[0] if found.accepted else ""
    means = {name or "current": float(np.mean(values)) for name, values in scores.items()}
    return Choice(things[winner], winner, found, means)


def better(before: Scores, after: Scores, level: float) -> Verdict:
    """Accept where (E,) paired differences show a gain at a one-sided level."""
    differences = np.asarray(after, float) - np.asarray(before, float)
    p = gain_p(differences)
    return Verdict(p <= level, float(np.mean(differences)), len(differences), p, level)


def _with_proof(latest: Verdict, proof: Verdict | None) -> Verdict:
    """
    The verdict on all rows so far.

    What was shown at an earlier look stays shown, with the p-value of that look, while it is still ahead.
    """
    if proof is None or latest.difference <= 0:
        return latest
    return replace(latest, accepted=True, p=proof.p, level=proof.level)


def _clear(best: Verdict, alive: int, share: float) -> bool:
    """Whether more rows would not change the choice, or hardly could."""
    return (alive == 1 and best.accepted) or (share >= HALF and best.difference <= 0)


def _with_anchors(
    verdict: Verdict, current: V, chosen: V, anchors: Sequence[Example], measure: Measure[V]
) -> Plan[Verdict]:
    if not anchors:
        return verdict
    before, after = yield [measure(current, anchors), measure(chosen, anchors)]
    worse = tuple(row.id for row, b, a in zip(anchors, before, after, strict=True) if a < b)
    return replace(verdict, accepted=not worse, worse=worse)


def _distinct(current: V, challengers: Mapping[str, V]) -> dict[str, V]:
    seen, kept = {current.version}, {}
    for name, each in challengers.items():
        if each.version not in seen:
            seen.add(each.version)
            kept[name] = each
    return kept
