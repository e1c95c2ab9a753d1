"""Compare candidate libraries with the current one on validation rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgewise.experience.library.library import Library
from edgewise.experience.proposers.candidates import Candidates
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training import rollouts as runs
from edgewise.experience.training.records import ExperienceState, mean
from edgewise.toolkit.evaluation.comparison import valid_reward
from edgewise.toolkit.evaluation.gate import Choice, Scores, Verdict, choose
from edgewise.toolkit.groups.sampling.row_selection import shuffle
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.tracking.events import GroupsFinished, StageStarted
from edgewise.toolkit.types import Example, Group, Plan


def _decided(job: ExperienceSpec, state: ExperienceState, found: Candidates) -> Plan[Choice[Library] | None]:
    """The gate's choice between the current library and the candidates; None where it is off."""
    if not job.is_gated:
        return None
    rows = gate_rows(job)
    challengers = with_places(job, found.libraries)
    if not challengers or not rows:
        return Choice(state.library, "", Verdict(False, 0.0, 0))
    yield StageStarted(f"comparing {len(challengers)} candidate libraries on {len(rows)} validation rows")
    cached = Cached(job, state.library)
    level = state.spending.level
    choice = yield from choose(state.library, challengers, rows, cached.scores, level, job.anchors)
    yield GroupsFinished(cached.groups)
    return choice


def gate_rows(job: ExperienceSpec) -> tuple[Example, ...]:
    """The validation rows that candidates are compared on, the same in every step."""
    return shuffle(job.task.validation, job.config.seed, 0)[: job.config.gate_rows]


def with_places(job: ExperienceSpec, libraries: Mapping[str, Library]) -> dict[str, Library]:
    """The candidates, and the best guess in other places of the prompt."""
    first = next(iter(libraries.values()), None)
    places = job.config.try_places if first else ()
    return {**libraries, **{f"placed {place}": replace(first, place=place) for place in places if first}}


class Cached:
    """
    Measures libraries on rows, no row twice under one library; it is asked to in an order that never varies.

    Where every run under the `current` library breaks, AllFailed is raised; another library that breaks them all,
    such as by being too long for the model, is just a bad one.
    """

    def __init__(self, job: ExperienceSpec, current: Library):
        self._job = job
        self._current = current.version
        self._seen: dict[tuple[str, str], Group] = {}

    @property
    def groups(self) -> list[Group]:
        """All groups that were measured."""
        return [self._seen[key] for key in sorted(self._seen)]

    def scores(self, library: Library, rows: Sequence[Example]) -> Plan[Scores]:
        """(E,) mean reward of each row under a library."""
        return np.array([mean(row) for row in (yield from self.rewards(library, rows))])

    def rewards(self, library: Library, rows: Sequence[Example]) -> Plan[list[list[float]]]:
        """(E, K) rewards under a library; a run that failed counts as 0, as in the final measurement."""
        new = [row for row in rows if (library.version, row.id) not in self._seen]
        for group in (yield from runs.measure(self._job, library, new, "gate")):
            self._seen[library.version, group.example.id] = group
        found = [self._seen[library.version, row.id] for row in rows]
        if library.version == self._current:
            check_alive([run for group in found for run in group.rollouts], needs_score=True)
        return [[valid_reward(run) or 0.0 for run in group.rollouts] for group in found]
