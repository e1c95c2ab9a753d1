"""
One step of learning: groups are run and compared, candidate libraries are made, the gate decides.

Stages stream: a group is compared as soon as its own last run is graded, while other groups still roll out; only
the candidates wait for the whole batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from edgewise.experience.distil import distiller, pooling
from edgewise.experience.distil.distiller import Comparison, Unreadable
from edgewise.experience.effects import estimate
from edgewise.experience.effects.estimate import Dropped, Seen
from edgewise.experience.library import operations
from edgewise.experience.library.library import Library
from edgewise.experience.proposers import candidates, gepa
from edgewise.experience.proposers.candidates import Candidates
from edgewise.experience.spec import USUAL, Job
from edgewise.experience.training import rollouts as runs
from edgewise.experience.training.rollouts import Offer
from edgewise.toolkit.errors import AllFailed
from edgewise.toolkit.evaluation.comparison import reward_of
from edgewise.toolkit.evaluation.gate import Choice, Scores, Spending, Verdict, choose
from edgewise.toolkit.groups.sampling import rollout_plan
from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.groups.sampling.row_selection import shuffled
from edgewise.toolkit.types import Example, Group, Note, Plan, Rollout


@dataclass(frozen=True, slots=True)
class State:
    """What one step hands to the next; only the loop writes it."""

    library: Library
    spending: Spending
    memory: Memory = field(default_factory=Memory)
    seen: tuple[Seen, ...] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """
    A finished group and what was made of it; `skipped` says why there is no comparison.

    `signal` says whether there was something to compare.
    """

    group: Group
    comparison: Comparison = Comparison()
    skipped: str = ""
    signal: bool = True

    @property
    def proposals(self) -> tuple[operations.Operation, ...]:
        """The operations that the group proposes."""
        return self.comparison.proposals

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "example": self.group.example.id,
            "rewards": list(self.group.rewards),
            "summaries": list(self.comparison.summaries),
            "over_limit": [op.model_dump() for op in self.comparison.over_limit],
            "proposals": [op.model_dump() for op in self.proposals],
            "skipped": self.skipped,
        }


@dataclass(frozen=True, slots=True)
class StepRecord:
    """
    What one step saw and did; `to_json` is what RUN/steps/NNN/step.json holds.

    `outcomes` is what became of the operations of the batch update, `incomplete` why there was none. `dropped`
    are lessons that measurably did harm. `state` is what the next step starts from.
    """

    number: int
    epoch: int
    studies: tuple[Study, ...]
    outcomes: tuple[operations.Outcome, ...]
    incomplete: str
    choice: Choice[Library] | None
    dropped: tuple[Dropped, ...]
    state: State

    @property
    def library(self) -> Library:
        """The library after the step."""
        return self.state.library

    def to_json(self) -> dict[str, Any]:
        """Plain data: rewards and tool calls of the groups, proposals, operations, the choice, the library."""
        return {
            "step": self.number,
            "epoch": self.epoch,
            "complete": not self.incomplete,
            "incomplete": self.incomplete,
            "statistics": statistics([study.group for study in self.studies]),
            "groups": [study.to_json() for study in self.studies],
            "operations": operations.as_json(self.outcomes),
            "gate": self.choice.to_json() if self.choice else None,
            "dropped": [asdict(each) for each in self.dropped],
            "library": self.library.to_json(),
        }

    def summary(self) -> str:
        """One line for people."""
        found = statistics([study.group for study in self.studies])
        applied = sum(outcome.applied for outcome in self.outcomes)
        decided = f"; {self.choice.summary()}" if self.choice else ""
        failed = f"; incomplete: {self.incomplete}" if self.incomplete else ""
        gone = sum(not each.kept for each in self.dropped)
        dropped = f"; {gone} harmful dropped" if gone else ""
        return (
            f"step {self.number}: mean reward {found['mean_reward']:.2f}, {found['mixed']:.0%} of groups mixed, "
            f"{applied} of {len(self.outcomes)} operations applied{failed}{decided}{dropped}; "
            f"{len(self.library)} lessons"
        )


def statistics(groups: Sequence[Group]) -> dict[str, float]:
    """Mean reward, pass@G (any run of a group at full reward), share of mixed groups, tool calls a run."""
    runs = [run for group in groups for run in group.members]
    return {
        "runs": len(runs),
        "failed": sum(run.failed for run in runs),
        "mean_reward": mean([reward for group in groups for reward in group.rewards]),
        "pass": mean([any(r >= 1 for r in group.rewards) for group in groups]),
        "mixed": mean([group.mixed for group in groups]),
        "tool_calls": mean([run.tool_calls for run in runs]),
    }


def step(job: Job, state: State, queue: Sequence[Example], number: int, epoch: int) -> Plan[StepRecord]:
    """Learn from the first rows of `queue` that have something to teach, at most `batch_size` of them."""
    if job.config.proposer == "gepa":
        studies, seen, found = yield from _searched(job, state.library, queue, number, epoch)
    else:
        studies, seen, found = yield from _proposed(job, state.library, queue, number, epoch)
    choice = yield from _decided(job, state, found)
    library = choice.chosen if choice else next(iter(found.libraries.values()), state.library)
    after = _next(job, state, library, choice, studies, seen)
    kept, dropped = estimate.prune(after.library, job.sure(USUAL))
    record = (number, epoch, tuple(studies), found.outcomes, found.incomplete, choice, dropped)
    return StepRecord(*record, replace(after, library=kept))


def _next(
    job: Job,
    state: State,
    library: Library,
    choice: Choice[Library] | None,
    studies: Sequence[Study],
    seen: Sequence[Seen],
) -> State:
    """The state after a step, its lessons with what is known of their effects."""
    every = (*state.seen, *seen)
    groups = [] if job.task.reward.relative else [study.group for study in studies]
    spending = state.spending.after(choice) if choice else state.spending
    return State(estimate.attach(library, every), spending, state.memory.after(groups), every)


def _searched(
    job: Job, library: Library, queue: Sequence[Example], number: int, epoch: int
) -> Plan[tuple[list[Study], list[Seen], Candidates]]:
    """GEPA's search on the queue's first rows; there is no comparison, and a row that it never drew has no group."""
    rows = queue[: job.config.batch_size]
    calls = len(rows) * job.config.group_size
    yield Note(
        "stage", f"step {number}, epoch {epoch}: GEPA searches on {len(rows)} rows with {calls} rollouts"
    )
    groups, found = yield from gepa.search(job, library, rows, number)
    check_alive([run for group in groups for run in group.members])
    return [Study(group) for group in groups], [], found


def _proposed(
    job: Job, library: Library, queue: Sequence[Example], number: int, epoch: int
) -> Plan[tuple[list[Study], list[Seen], Candidates]]:
    """What groups of the queue's first rows, or the bare tasks, propose."""
    if job.config.direct:
        batch = queue[: job.config.batch_size]
        yield Note("stage", f"writing lessons from {len(batch)} tasks without rollouts")
        studies, seen = [], []
        proposals = yield from distiller.direct(job.distiller, batch, library)
    else:
        studies, seen = yield from _studied(job, library, queue, number, epoch)
        proposals = tuple(op for found in studies for op in found.proposals)
    return studies, seen, (yield from candidates.drawn(job, library, proposals, number))


def _studied(
    job: Job, library: Library, queue: Sequence[Example], number: int, epoch: int
) -> Plan[tuple[list[Study], list[Seen]]]:
    """Groups of the queue's first rows and what was made of them; with `refill`, until enough have signal."""
    config = job.config
    wanted = min(config.batch_size, len(queue))
    yield Note("stage", f"step {number}, epoch {epoch}: {wanted} groups of {config.group_size}")
    waiting = queue if config.refill else queue[:wanted]
    offered = yield from runs.offers(job, library, waiting, number)
    done: list[Rollout] = []

    def wave(rows: Sequence[Example]) -> Plan[list[Study]]:
        if config.allocate == "fixed":
            found = yield [study(job, library, row, offered[row.id]) for row in rows]
        else:
            groups = yield from runs.allocated_groups(job, rows, offered)
            found = yield [compared(job, library, group) for group in groups]
        yield Note("groups", [each.group for each in found])
        # Of the step so far: a wave may be a single row, and that one may be broken.
        done.extend(run for each in found for run in each.group.members)
        check_alive(done)
        return found

    studies = yield from rollout_plan.in_waves(waiting, wave, wanted, lambda found: found.signal)
    groups = [found.group for found in studies]
    return studies, [x for group in groups for x in runs.observed(job, group, offered[group.example.id])]


def study(job: Job, library: Library, row: Example, offer: Offer) -> Plan[Study]:
    """One group from its first rollout to its proposals."""
    group = yield from runs.learning_group(job, row, offer)
    return (yield from compared(job, library, group))


def compared(job: Job, library: Library, group: Group) -> Plan[Study]:
    """What a finished group proposes, if it has something to compare."""
    reason = _no_lesson(job, group)
    if reason:
        return Study(group, skipped=reason, signal=False)
    try:
        if job.pooled:
            return Study(group, (yield from pooling.propose(job.distiller, job.task, group)))
        return Study(group, (yield from distiller.study(job.distiller, group, library)))
    except Unreadable as error:
        return Study(group, skipped=str(error))


def _no_lesson(job: Job, group: Group) -> str:
    """Why a group is not compared: all runs broke, or there are rewards to see and they are all equal."""
    config = job.config
    if all(run.failed for run in group.members):
        return "every run failed"
    if not config.truth or config.group_size == 1 or group.mixed:
        return ""
    if config.learn_from == "unsolved" and max(group.rewards, default=1) < 1:
        return ""
    return "all rewards are equal"


def check_alive(runs: Sequence[Rollout]) -> None:
    """Raise AllFailed where every single run broke, or none could be graded: that says nothing of the lessons."""
    if runs and all(run.failed for run in runs):
        raise AllFailed(
            f"Every one of {len(runs)} rollouts failed, the first one so: {runs[0].error} The failures are "
            "recorded: once the cause is mended, begin anew with another --run."
        )
    graded = [run.score for run in runs if run.score and run.score.valid]
    if runs and not graded:
        said = next(
            (run.score.feedback for run in runs if run.score and run.score.feedback), "it gave no reason"
        )
        raise AllFailed(
            f"Not one of {len(runs)} answers was graded by the reward, for the first one: {said}. Once it is mended, "
            "begin anew with another --run."
        )


def _decided(job: Job, state: State, found: Candidates) -> Plan[Choice[Library] | None]:
    """The gate's choice between the current library and the candidates; None where it is off."""
    if not job.gated:
        return None
    rows = gate_rows(job)
    challengers = with_places(job, found.libraries)
    if not challengers or not rows:
        return Choice(state.library, "", Verdict(False, 0.0, 0))
    yield Note("stage", f"comparing {len(challengers)} candidate libraries on {len(rows)} validation rows")
    cached = Cached(job, state.library)
    level = state.spending.level
    choice = yield from choose(state.library, challengers, rows, cached.scores, level, job.anchors)
    yield Note("groups", cached.groups)
    return choice


def gate_rows(job: Job) -> tuple[Example, ...]:
    """The validation rows that candidates are compared on, the same in every step."""
    return shuffled(job.task.validation, job.config.seed, 0)[: job.config.gate_rows]


def with_places(job: Job, libraries: Mapping[str, Library]) -> dict[str, Library]:
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

    def __init__(self, job: Job, current: Library):
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
            check_alive([run for group in found for run in group.members])
        return [[reward_of(run) or 0.0 for run in group.members] for group in found]


def mean(values: Sequence[float]) -> float:
    """The mean; 0 for no values."""
    return float(np.mean(values)) if len(values) else 0.0
