"""Gate: compare candidate libraries with the current one on validation rows, and choose one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgewise.experience.library.library import Library
from edgewise.experience.proposers.candidates import Candidates
from edgewise.experience.spec import ExperienceSpec, LessonSpec
from edgewise.experience.training import rollouts
from edgewise.experience.training.records import ExperienceState, mean_or_zero
from edgewise.toolkit.evaluation.comparison import valid_reward
from edgewise.toolkit.evaluation.gate import Choice, Scores, Verdict, choose
from edgewise.toolkit.groups.sampling.row_selection import shuffle
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.tracking.events import GroupsFinished, StageStarted
from edgewise.toolkit.types import Example, Group, Plan


def choose_library(
    spec: ExperienceSpec, state: ExperienceState, candidates: Candidates
) -> Plan[Choice[Library] | None]:
    """Choose between the current library and the candidates; None where the gate is off."""
    if not spec.is_gated:
        return None
    rows = select_gate_rows(spec)
    challengers = add_placements(spec, candidates.libraries)
    # Nothing to test: the choice still counts as a test, so that its level is handed on to the next one.
    if not challengers or not rows:
        return Choice(state.library, "", Verdict(False, 0.0, 0))

    yield StageStarted(f"comparing {len(challengers)} candidate libraries on {len(rows)} validation rows")
    cache, level = RewardCache(spec, state.library), state.spending.level
    choice = yield from choose(state.library, challengers, rows, cache.measure_means, level, spec.anchors)
    # At the end and sorted, so that the recorded order does not depend on replies.
    yield GroupsFinished(cache.groups)
    return choice


def select_gate_rows(spec: LessonSpec) -> tuple[Example, ...]:
    """Return the validation rows that candidates are compared on, the same in every step."""
    return shuffle(spec.task.validation, spec.config.seed, 0)[: spec.config.gate_rows]


def add_placements(spec: ExperienceSpec, libraries: Mapping[str, Library]) -> dict[str, Library]:
    """Return the candidates, and the best guess in other places of the prompt."""
    best = next(iter(libraries.values()), None)
    places = spec.config.try_places if best else ()
    return {**libraries, **{f"placed {place}": replace(best, place=place) for place in places if best}}


class RewardCache:
    """
    Rewards of libraries on rows: no row runs twice under one library.

    Where every rollout under the `current` library fails, AllFailed is raised; another library that fails them all,
    such as by being too long for the model, is just a bad candidate.
    """

    def __init__(self, spec: ExperienceSpec, current: Library):
        self._spec = spec
        self._current = current.version
        self._groups: dict[tuple[str, str], Group] = {}  # by version of the library and id of the row

    @property
    def groups(self) -> list[Group]:
        """All groups so far, in an order that does not depend on when replies arrive."""
        return [self._groups[key] for key in sorted(self._groups)]

    def measure_means(self, library: Library, rows: Sequence[Example]) -> Plan[Scores]:
        """Return the mean reward of each row under a library: [row]."""
        rewards = yield from self.measure_rewards(library, rows)
        return np.array([mean_or_zero(of_row) for of_row in rewards])

    def measure_rewards(self, library: Library, rows: Sequence[Example]) -> Plan[list[list[float]]]:
        """Return rewards under a library: [row][sample]. A failed rollout counts 0, as in the evaluation."""
        # The gate's rungs grow, so the rows of an earlier rung come again.
        new = [row for row in rows if (library.version, row.id) not in self._groups]
        for group in (yield from rollouts.measure(self._spec, library, new, "gate")):
            self._groups[library.version, group.example.id] = group

        groups = [self._groups[library.version, row.id] for row in rows]
        if library.version == self._current:
            check_alive([rollout for group in groups for rollout in group.rollouts], needs_score=True)
        return [[valid_reward(rollout) or 0.0 for rollout in group.rollouts] for group in groups]
