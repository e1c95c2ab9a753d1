"""
Final pruning: measure doubtful lessons by leaving each out once, then drop harmful ones.

It comes after the last decision of the gate, so it may use the gate's validation rows; nothing is accepted on them
afterwards.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from edgewise.experience.effects import pruning
from edgewise.experience.library.library import Library
from edgewise.experience.spec import HARM_CONFIDENCE, ExperienceSpec
from edgewise.experience.training.gate import RewardCache, select_gate_rows
from edgewise.experience.training.records import ExperienceState
from edgewise.toolkit.tracking.events import EffectsMeasured, GroupsFinished, StageStarted
from edgewise.toolkit.types import Plan

FINAL_CONFIDENCE = 0.8
"""
How sure it must be that a lesson does harm, where doubtful ones were left out once.

At the end that is decided once, and the library is measured as a whole afterwards. It finds what is harmful with a
third of the rollouts that 0.975 takes, and costs a useless lesson in five (bench/effect.py).
"""


@dataclass(frozen=True, slots=True)
class FinalPruning:
    """
    The record of the final pruning; `to_json` is the content of RUN/effects.json.

    `ablation_ids` are the lessons that were left out once, on `rows` rows; `harmful` those found harmful.
    """

    library: Library
    ablation_ids: tuple[str, ...]
    rows: int
    harmful: tuple[pruning.PrunedLesson, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "left_out": list(self.ablation_ids),
            "rows": self.rows,
            "dropped": [asdict(lesson) for lesson in self.harmful],
            "library": self.library.to_json(),
        }


def prune_final_library(spec: ExperienceSpec, state: ExperienceState) -> Plan[Library]:
    """Return the library without harmful lessons, its undecided ones measured; without a gate, as it is."""
    library, rows = state.library, select_gate_rows(spec)
    if not spec.is_gated:
        # Nothing tests the library afterwards, so no lesson goes on a confidence of 0.8.
        yield EffectsMeasured(FinalPruning(library, (), 0, ()))
        return library

    # An ablation for each doubtful lesson: rewards on the same rows and seeds with the whole library and without it.
    doubtful = pruning.select_undecided(library, spec.config.leave_one_out) if len(rows) > 1 else ()
    if doubtful:
        yield StageStarted(f"measuring {len(doubtful)} lessons, each left out once on {len(rows)} rows")
        cache = RewardCache(spec, library)
        parts = [library.with_lessons(x for x in library.lessons if x is not out) for out in doubtful]
        with_all, *without = yield [cache.measure_rewards(part, rows) for part in (library, *parts)]
        effects = {lesson.id: lesson.effect for lesson in library.lessons}
        for lesson, rewards in zip(doubtful, without, strict=True):
            # Pooled with the estimate from exposures, by inverse variance.
            ablation = pruning.estimate_ablation(with_all, rewards)
            effects[lesson.id] = pruning.pool_effects(lesson.effect, ablation)
        yield GroupsFinished(cache.groups)
        library = library.with_lessons(replace(x, effect=effects[x.id]) for x in library.lessons)

    confidence = spec.harm_confidence(FINAL_CONFIDENCE if doubtful else HARM_CONFIDENCE)
    library, harmful = pruning.prune(library, confidence)
    ids = tuple(lesson.id for lesson in doubtful)
    yield EffectsMeasured(FinalPruning(library, ids, len(rows) if doubtful else 0, harmful))
    return library
