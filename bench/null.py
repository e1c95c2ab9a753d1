"""
How often a run changes the artefact when there is nothing to learn: a distiller that writes noise, whole runs.

Beside the gate: the rule of the best mean on validation rows, in the same runs, and GEPA's rule (a candidate whose sum
on a minibatch of 3 is higher than its parent's joins the pool; the best of the pool on validation rows is the result),
by the same number of proposals on rows of the same difficulties. `accepted` counts runs whose lessons changed before
the test rows had their say; `given` are runs that begin with a library of eight lessons that do nothing, each of which
is measured, and left out once at the end.
"""

import sys

import numpy as np
from common import quick, report
from simulated.learning import Simulated, accepted, changed, run, spread, task

from edgewise.experience.library.library import Library, make_lesson

STEPS, MINIBATCH = 6, 3


def gepa_changes(rng: np.random.Generator, rates: np.ndarray, proposals: int) -> bool:
    """Whether GEPA's acceptance rule ends with another candidate than the seed, when all are the same."""

    def scores(size: int) -> int:
        rows = rng.choice(rates, size, replace=size > len(rates))
        return int((rng.random(size) < rows).sum())

    best = seed = scores(len(rates))
    for _ in range(proposals):
        if scores(MINIBATCH) > scores(MINIBATCH):
            best = max(best, scores(len(rates)))
    return best > seed


def main() -> int:
    runs = 20 if quick() else 200
    rng = np.random.default_rng(0)
    rows = task(40, 100, 100)
    ended = {"gate": 0, "accepted": 0, "given": 0, "given_accepted": 0, "raw_mean": 0, "gepa_rule": 0}
    given = Library(tuple(make_lesson(f"lesson old{n}") for n in range(8)))
    for number in range(runs):
        rates = spread(rng, rows)
        settings = {"epochs": 3, "batch_size": 20, "seed": number}

        def noise(n: int, number: int = number) -> str:
            return f"lesson noise{n}of{number}"

        found = run(Simulated(rates, noise), rows, **settings)
        ended["gate"] += changed(found)
        ended["accepted"] += accepted(found)
        ended["raw_mean"] += changed(run(Simulated(rates, noise), rows, raw=True, **settings))
        found = run(Simulated(rates, noise), rows, start=given, leave_one_out=8, **settings)
        ended["given"] += changed(found)
        ended["given_accepted"] += accepted(found)
        validation = np.array([rates[row.id] for row in rows.validation])
        ended["gepa_rule"] += gepa_changes(rng, validation, STEPS)
        print(f"{number + 1}/{runs}", ended, file=sys.stderr)
    figures = {**{name: round(count / runs, 3) for name, count in ended.items()}, "runs": runs, "steps": STEPS}
    holds = max(figures[name] for name in ("accepted", "given_accepted")) <= 0.05
    return report("null", figures, "<= 0.05 of runs end with a changed artefact, or accept anything", holds)


if __name__ == "__main__":
    sys.exit(main())
