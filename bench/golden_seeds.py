"""
Every golden number of the methods of the seeds, in float64: see `tests/support/golden_seeds.py` and
`tests/support/golden_steps.py`.

What is printed with six digits or more must hold to 1e-6, what has four or five to half of its last digit. That every
row obeys every law is `tests/laws/test_methods.py`, which is run too.
"""

import subprocess
import sys

from common import ROOT, quick, report

from edgewise.learner.methods.published import METHODS
from tests.support import golden_seeds, golden_steps

LAWS = "tests/laws/test_methods.py"


def main() -> int:
    quick()
    worst, count, missed = 0.0, 0, 0
    for method, cases in {**golden_seeds.CASES, **golden_steps.CASES}.items():
        errors = []
        for case in cases:
            for found, printed, room in case.pairs():
                count, missed = count + 1, missed + (abs(found - printed) > room)
                errors.append(abs(found - printed) if room <= 1e-6 else 0.0)
        worst = max(worst, *errors)
        print(f"{method:20} {len(errors):3} numbers, largest error {max(errors):.1e}")
    command = [sys.executable, "-m", "pytest", "-q", LAWS]
    laws = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(laws.stdout.strip().splitlines()[-1])
    figures = {
        "methods": len(METHODS),
        "numbers": count,
        "numbers_missed": missed,
        "largest_error": worst,
        "laws_hold": laws.returncode == 0,
    }
    holds = not missed and worst <= 1e-6 and laws.returncode == 0
    return report("golden_seeds", figures, "absolute error <= 1e-6 in float64; every law for every row", holds)


if __name__ == "__main__":
    sys.exit(main())
