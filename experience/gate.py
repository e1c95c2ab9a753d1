"""
Whether a candidate library may take the place of the current one.

All candidates and the current library answer the same validation rows with the same seeds, so differences are
paired. Successive halving spends few rows on the bad ones (Karnin, Koren, Somekh 2013). `better` is the one place
that decides acceptance; a stricter test goes there.

E rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experience.library import Library
from toolkit.types import Example, Plan

Scores = np.ndarray
Measure = Callable[[Library, Sequence[Example]], Plan[Scores]]
FEWEST = 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a change is accepted; `difference` is the mean paired gain over `rows` rows."""

    accepted: bool
    difference: float
    rows: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The library to go on with, the name of the winning challenger ("" if the current one stays), and why."""

    library: Library
    winner: str
    verdict: Verdict
    means: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the step's record."""
        verdict = {"accepted": self.verdict.accepted, "difference": self.verdict.difference}
        return {"winner": self.winner, **verdict, "rows": self.verdict.rows, "means": dict(self.means)}

    def summary(self) -> str:
        """One phrase for people."""
        if not self.verdict.rows:
            return "there was no candidate"
        gain = f"{self.verdict.difference:+.3f} on {self.verdict.rows} validation rows"
        return f"kept {self.winner!r} ({gain})" if self.winner else f"nothing beat the current one ({gain})"


def better(before: Scores, after: Scores) -> Verdict:
    """Accept when the mean paired difference (E,) is above zero."""
    difference = float(np.mean(after - before)) if len(before) else 0.0
    return Verdict(difference > 0, difference, len(before))


def rungs(rows: int, challengers: int) -> list[int]:
    """How many rows each round of halving has compared on by its end; the last is all of them."""
    rounds = max(1, math.ceil(math.log2(max(challengers, 1))) + 1)
    sizes = [math.ceil(rows / 2**back) for back in reversed(range(rounds))]
    return sorted({max(size, min(FEWEST, rows)) for size in sizes})


def choose(
    current: Library,
    challengers: Mapping[str, Library],
    rows: Sequence[Example],
    measure: Measure,
    sizes: Sequence[int] = (),
) -> Plan[Choice]:
    """
    Compare challengers with the current library on the same rows and return the one to go on with.

    `sizes` are the rows compared on by the end of each round of halving, `rungs` by default.

    Challengers that a model would see as equal to one before them, or to the current library, are left out.
    """
    field_ = _distinct(current, challengers)
    if not field_ or not rows:
        return Choice(current, "", Verdict(False, 0.0, 0))
    scores = {name: np.zeros(0) for name in ("", *field_)}
    libraries = {"": current, **field_}
    done, alive = 0, list(field_)
    for size in sizes or rungs(len(rows), len(field_)):
        names = ["", *alive]
        fresh = yield [measure(libraries[name], rows[done:size]) for name in names]
        scores.update({n: np.append(scores[n], new) for n, new in zip(names, fresh, strict=True)})
        done = size
        ranked = sorted(alive, key=lambda name: -float(np.mean(scores[name])))
        alive = ranked if done == len(rows) else ranked[: math.ceil(len(ranked) / 2)]
    verdict = better(scores[""], scores[alive[0]])
    winner = alive[0] if verdict.accepted else ""
    means = {name or "current": float(np.mean(values)) for name, values in scores.items()}
    return Choice(libraries[winner], winner, verdict, means)


def _distinct(current: Library, challengers: Mapping[str, Library]) -> dict[str, Library]:
    seen, kept = {current.version}, {}
    for name, library in challengers.items():
        if library.version not in seen:
            seen.add(library.version)
            kept[name] = library
    return kept
