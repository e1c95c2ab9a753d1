"""Runs stop where no rollout can teach anything."""

import pytest

from edgewise.toolkit.errors import AllFailed
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.types import Rollout, Score

FAILED = Rollout("r", "solver", 0, (), "failed", error="too long.")
UNGRADED = Rollout("r", "solver", 0, (), "stop", score=Score(0.0, valid=False, feedback="no number"))
GRADED = Rollout("r", "solver", 0, (), "stop", score=Score(0.0))


def test_all_rollouts_failed() -> None:
    with pytest.raises(AllFailed, match=r"Every one of 2 rollouts failed, the first one so: too long\..*--run"):
        check_alive([FAILED, FAILED])


def test_no_rollout_was_graded() -> None:
    check_alive([UNGRADED, UNGRADED])
    with pytest.raises(AllFailed, match=r"Not one of 2 answers was graded .*: no number"):
        check_alive([UNGRADED, UNGRADED], needs_score=True)


@pytest.mark.parametrize("rollouts", [[], [FAILED, GRADED], [UNGRADED, GRADED]])
def test_one_good_rollout_is_enough(rollouts: list[Rollout]) -> None:
    check_alive(rollouts, needs_score=True)
