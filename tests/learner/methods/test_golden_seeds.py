"""The numbers of the methods of the seeds, and how big each method is."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import golden_seeds, golden_steps

ROOT = Path(__file__).parents[3]
CASES = [
    pytest.param(case, id=f"{method}: {case.name}")
    for method, cases in {**golden_seeds.CASES, **golden_steps.CASES}.items()
    for case in cases
]


@pytest.mark.parametrize("case", CASES)
def test_methods_match_numbers_of_papers_and_public_code(case) -> None:
    for value, expected, tolerance in case.pairs():
        assert value == pytest.approx(expected, abs=tolerance, rel=0)


def test_methods_stay_small() -> None:
    done = subprocess.run([sys.executable, ROOT / "bench" / "size.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
