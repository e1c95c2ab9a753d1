"""
How often a run finds a true lesson, and what it costs: a distiller that writes one true lesson and noise beside it.

The true lesson adds 5, 10 or 20 points to the pass rate of every row (as far as rates go: the mean gain is printed).
A run finds it if its artefact holds it at the end. Beside the gate: the rule of the best mean on validation rows, in
the same runs. `noise` is the share of runs whose artefact holds lessons that do nothing.
"""

import sys

import numpy as np
from common import quick, report
from simulated.learning import LESSON, Simulated, run, spread, task

GAINS = (0.05, 0.10, 0.20)
SETTINGS = {"epochs": 3, "batch_size": 40}


def main() -> int:
    runs = 5 if quick() else 60
    rows = task(40, 200, 100)
    figures: dict[str, object] = {"runs": runs, "validation_rows": len(rows.validation)}
    found: dict[tuple[float, str], float] = {}
    for gain in GAINS:
        for rule in ("gate", "raw_mean"):
            held, noisy, calls, true = [], [], [], []
            for number in range(runs):
                rates = spread(np.random.default_rng(number), rows)
                model = Simulated(rates, written(number), {"true": gain})
                outcome = run(model, rows, raw=rule == "raw_mean", seed=number, **SETTINGS)
                names = {LESSON.findall(x["text"])[0] for x in outcome.files["library.json"]["lessons"]}
                held.append("true" in names)
                noisy.append(bool(names - {"true"}))
                calls.append(sum(model.asked.values()) - model.asked["measure"])
                true.append(np.mean([min(1, rates[r.id] + gain) - rates[r.id] for r in rows.validation]))
            found[gain, rule] = float(np.mean(held))
            figures[f"+{100 * gain:.0f} {rule}"] = {
                "true_gain": round(float(np.mean(true)), 3),
                "found": round(float(np.mean(held)), 3),
                "noise": round(float(np.mean(noisy)), 3),
                "calls": int(np.mean(calls)),
            }
            print(f"+{gain:.2f} {rule}: {figures[f'+{100 * gain:.0f} {rule}']}", file=sys.stderr)
    holds = found[0.20, "gate"] >= found[0.20, "raw_mean"]
    return report("true_lessons", figures, "at +20 found in no fewer runs than by the raw mean", holds)


def written(number: int):
    """Lessons of one run: every third is the true one, the others are noise."""
    return lambda n: "lesson true" if n % 3 == 0 else f"lesson noise{n % 7}of{number}"


if __name__ == "__main__":
    sys.exit(main())
