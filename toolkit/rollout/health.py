"""Stop a run whose rollouts can't teach anything, before it spends more."""

from collections.abc import Sequence

from edgewise.toolkit.errors import AllFailed
from edgewise.toolkit.types import Rollout

_NEW_RUN = "fix the cause, then start a new run with a different --run."


def check_alive(rollouts: Sequence[Rollout], *, needs_score: bool = False) -> None:
    """
    Raise `AllFailed` where every rollout failed; with `needs_score` also where none has a valid score.

    Nothing can be learnt from such rollouts, and the next step would most likely fail in the same way.
    """
    if not rollouts:
        return
    if all(rollout.failed for rollout in rollouts):
        # The journal replays failures too, so the same run would end here again.
        raise AllFailed(
            f"Every one of {len(rollouts)} rollouts failed, the first one so: {rollouts[0].error} "
            f"The failures are recorded: {_NEW_RUN}"
        )

    scores = [rollout.score for rollout in rollouts if rollout.score]
    if needs_score and not any(score.valid for score in scores):
        reason = next((score.feedback for score in scores if score.feedback), "it gave no reason")
        raise AllFailed(
            f"Not one of {len(rollouts)} answers was graded by the reward, for the first one: {reason}. "
            f"To go on, {_NEW_RUN}"
        )
