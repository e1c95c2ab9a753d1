"""
The last look at single lessons: what is undecided is left out once, and what does harm goes.

It comes after the last decision of the gate, so it may use the gate's validation rows; nothing is accepted on
them afterwards.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgewise.experience.effects import pruning
from edgewise.experience.effects.pruning import PrunedLesson
from edgewise.experience.library.library import Effect, Lesson, Library
from edgewise.experience.spec import HARM_CONFIDENCE, ExperienceSpec
from edgewise.experience.training.gate import Cached, gate_rows
from edgewise.experience.training.records import ExperienceState
from edgewise.toolkit.tracking.events import EffectsMeasured, GroupsFinished, StageStarted
from edgewise.toolkit.types import Example, Plan

SURE = 0.8
"""
How sure it must be that a lesson does harm, where doubtful ones were left out once.

At the end that is decided once, and the library is measured as a whole afterwards. It finds what is harmful with a
third of the rollouts that 0.975 takes, and costs a useless lesson in five (bench/effect.py).
"""


@dataclass(frozen=True, slots=True)
class Tidied:
    """What was measured at the end and what came of it; `to_json` is what RUN/effects.json holds."""

    library: Library
    left_out: tuple[str, ...]
    rows: int
    dropped: tuple[PrunedLesson, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "left_out": list(self.left_out),
            "rows": self.rows,
            "dropped": [asdict(each) for each in self.dropped],
            "library": self.library.to_json(),
        }


def tidied(job: ExperienceSpec, state: ExperienceState) -> Plan[Library]:
    """
    The library without lessons that do harm, its undecided ones measured by leaving each out once.

    Without a gate it is what the last step wrote.
    """
    library, rows = state.library, gate_rows(job)
    asked = pruning.select_undecided(library, job.config.leave_one_out) if job.is_gated and len(rows) > 1 else ()
    if asked:
        yield StageStarted(f"measuring {len(asked)} lessons, each left out once on {len(rows)} rows")
        library = yield from _measured(job, library, asked, rows)
    kept, dropped = pruning.prune(library, job.harm_confidence(SURE if asked else HARM_CONFIDENCE)) if job.is_gated else (library, ())
    yield EffectsMeasured(Tidied(kept, tuple(x.id for x in asked), len(rows) if asked else 0, dropped))
    return kept


def _measured(
    job: ExperienceSpec, library: Library, asked: Sequence[Lesson], rows: Sequence[Example]
) -> Plan[Library]:
    cached = Cached(job, library)
    without = [library.with_lessons(x for x in library.lessons if x is not lesson) for lesson in asked]
    everything, *others = yield [cached.rewards(each, rows) for each in (library, *without)]
    found: dict[str, Effect] = {
        lesson.id: pruning.estimate_ablation(everything, other) for lesson, other in zip(asked, others, strict=True)
    }
    yield GroupsFinished(cached.groups)
    return library.with_lessons(
        replace(x, effect=pruning.pool_effects(x.effect, found[x.id])) if x.id in found else x
        for x in library.lessons
    )
