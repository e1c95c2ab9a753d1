"""
M-GRPO without weights (arXiv 2511.13288, at the level of arXiv 2510.08191): a planner and its sub-agents learn lessons.

A step runs K rollouts of planner and sub-agents on each row, and makes two levels of groups of them (`mas.two_level.advantages`).
At each level, winners and losers by advantage are compared, and the comparisons of a step update the library of
that level. The gate then decides, by the answers of planner and sub-agents together, whether the new libraries take the
place of the old ones.

Sub-agents are also compared where a planner's rule would see nothing: in queries whose main rewards are all equal, and
among the siblings of one main run that failed, where the shared part of their rewards drops out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from edgewise.experience.distil import distiller
from edgewise.experience.distil.distiller import UnreadableReply
from edgewise.experience.library import operations
from edgewise.experience.library.library import Library
from edgewise.mas.two_level.advantages import (
    MAIN,
    Align,
    copy_weights,
    alignment_depth,
    equal_weights,
    inverse_weights,
    build_levels,
)
from edgewise.mas.two_level.comparison import QueryStudy, compare_contrast, build_contrasts
from edgewise.mas.two_level.delegation import SUB, sub_rollouts
from edgewise.mas.two_level.system import (
    EXPERT,
    TwoLevelConfig,
    TwoLevelSpec,
    TwoLibraries,
    mean_rewards,
    prepare_spec,
    sample_rollouts,
)
from edgewise.toolkit.evaluation.gate import Choice, AlphaSpending, choose
from edgewise.toolkit.groups.sampling.row_selection import split_batches, shuffle
from edgewise.toolkit.reward.reward import RewardSpec
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.run.driver import charge_to_step
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import GroupsFinished, StageStarted, StepFinished
from edgewise.toolkit.types import Example, Plan, Rollout
from edgewise.toolkit.util.seeds import derive_seed

ALIGN: Mapping[str, Align] = {"exact": inverse_weights, "off": equal_weights}


@dataclass(frozen=True, slots=True)
class LibraryUpdate:
    """A library after a step's operations on it, what became of each, and why there are none ("" if nothing broke)."""

    library: Library
    outcomes: tuple[operations.OperationOutcome, ...] = ()
    incomplete: str = ""


@dataclass(frozen=True, slots=True)
class TwoLevelStep:
    """
    What one step saw and did: `updates` by level, the `libraries` to go on with, and why them.

    `choice` is None where the gate is off.
    """

    number: int
    epoch: int
    queries: tuple[QueryStudy, ...]
    updates: Mapping[str, LibraryUpdate]
    libraries: TwoLibraries
    choice: Choice[TwoLibraries] | None

    @property
    def skipped(self) -> dict[str, dict[str, int]]:
        """By level: how many queries taught it nothing, and why."""
        levels = [level for each in self.queries for level in (each.main, each.sub)]
        return {
            role: dict(Counter(x.skipped for x in levels if x.group.role == role and x.skipped))
            for role in (MAIN, SUB)
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data, as in RUN/steps/NNN/step.json."""
        return {
            "step": self.number,
            "epoch": self.epoch,
            "skipped": self.skipped,
            "queries": [each.to_json() for each in self.queries],
            "outcomes": {level: operations.as_json(each.outcomes) for level, each in self.updates.items()},
            "incomplete": {level: each.incomplete for level, each in self.updates.items() if each.incomplete},
            "gate": self.choice.to_json() if self.choice else None,
            "libraries": self.libraries.to_json(),
        }

    def summary(self) -> str:
        """One line for people."""
        taught = {level: len(self.queries) - sum(why.values()) for level, why in self.skipped.items()}
        decided = f"; {self.choice.summary()}" if self.choice else ""
        return (
            f"step {self.number}: of {len(self.queries)} rows {taught[MAIN]} had signal for the planner and "
            f"{taught[SUB]} for sub-agents{decided}; lessons: {len(self.libraries.planner)} for the planner, "
            f"{len(self.libraries.sub)} for sub-agents"
        )


@dataclass(frozen=True, slots=True)
class TwoLevelResult:
    """Both libraries at the end of a run, and its steps."""

    libraries: TwoLibraries
    steps: tuple[TwoLevelStep, ...] = field(repr=False)


# ---- the loop --------------------------------------------------------------------------------------


def learn_two_levels(
    task: Task,
    config: TwoLevelConfig,
    *,
    start: TwoLibraries | None = None,
    expert: RewardSpec = EXPERT,
    roles: Mapping[str, str] | None = None,
) -> Plan[TwoLevelResult]:
    """
    Learn lessons for a planner and for its sub-agents on the task's training rows.

    `expert` grades a sub-agent's answer to its sub-task: anything that a task's reward can be, a judge by default.
    `roles` are names of sub-agents with the instruction of each; a single plain one by default. Each step is noted.
    Raises AllFailed where every run of a step broke, and RewardError for an expert that is none.
    """
    setup = prepare_spec(task, config, expert, roles)
    plan = [(e, rows) for e in range(1, config.epochs + 1) for rows in _batches(setup, e)]
    libraries = start or TwoLibraries(Library(place=config.place), Library(place=config.place))
    spending, steps = AlphaSpending(config.alpha, max(1, len(plan))), []
    for number, (epoch, rows) in enumerate(plan, 1):
        record = yield from charge_to_step(
            _step(setup, libraries, spending.level, rows, number, epoch), number
        )
        yield StepFinished(record)
        libraries, steps = record.libraries, [*steps, record]
        spending = spending.after(record.choice) if record.choice else spending
    return TwoLevelResult(libraries, tuple(steps))


def _batches(setup: TwoLevelSpec, epoch: int) -> list[tuple[Example, ...]]:
    return split_batches(shuffle(setup.task.train, setup.config.seed, epoch), setup.config.batch_size)


def _step(
    setup: TwoLevelSpec,
    libraries: TwoLibraries,
    level: float,
    rows: Sequence[Example],
    number: int,
    epoch: int,
) -> Plan[TwoLevelStep]:
    yield StageStarted(f"step {number}, epoch {epoch}: {len(rows)} groups of {setup.config.group_size}")
    studied = yield from _studied(setup, libraries, rows, number)
    check_alive([run for each in studied for run in each.main.group.rollouts], needs_score=True)
    found = yield [_updated(setup, libraries, studied, role, number) for role in setup.learning]
    updates: dict[str, LibraryUpdate] = dict(zip(setup.learning, found, strict=True))
    choice = yield from _decided(setup, libraries, _candidates(libraries, updates), level)
    return TwoLevelStep(number, epoch, tuple(studied), updates, *choice)


def _studied(
    setup: TwoLevelSpec, libraries: TwoLibraries, rows: Sequence[Example], number: int
) -> Plan[list[QueryStudy]]:
    """What was made of each row; rows wait for each other only where D comes from all of them."""
    c = setup.config
    if c.align != "copies" or c.depth:
        align = partial(copy_weights, depth=c.depth) if c.depth and c.align == "copies" else ALIGN[c.align]
        return (yield [_row(setup, libraries, row, align, number) for row in rows])
    groups = yield [sample_rollouts(setup, libraries, row, number) for row in rows]
    align = partial(
        copy_weights, depth=alignment_depth([len(sub_rollouts(run)) for runs in groups for run in runs])
    )
    pairs = zip(rows, groups, strict=True)
    return (yield [_compared(setup, libraries, row, runs, align, number) for row, runs in pairs])


def _row(
    setup: TwoLevelSpec, libraries: TwoLibraries, row: Example, align: Align, number: int
) -> Plan[QueryStudy]:
    runs = yield from sample_rollouts(setup, libraries, row, number)
    return (yield from _compared(setup, libraries, row, runs, align, number))


def _compared(
    setup: TwoLevelSpec,
    libraries: TwoLibraries,
    row: Example,
    runs: Sequence[Rollout],
    align: Align,
    number: int,
) -> Plan[QueryStudy]:
    """The two levels of a row's runs, and the comparisons made in them."""
    c = setup.config
    main, sub = build_levels(row, runs, align, derive_seed(c.seed, "align", number, row.id))
    yield GroupsFinished([level.group for level in (main, sub) if level.group.rollouts])
    drawn = build_contrasts(main, sub, setup.delegation, c.shown, c.siblings)
    found = yield [compare_contrast(setup.distiller, each, libraries.of(each.level)) for each in drawn]
    return QueryStudy(main, sub, tuple(found))


def _updated(
    setup: TwoLevelSpec, libraries: TwoLibraries, studied: Sequence[QueryStudy], role: str, number: int
) -> Plan[LibraryUpdate]:
    """The library of a level after the distiller's update of it by what the step's comparisons propose."""
    c, library = setup.config, libraries.of(role)
    proposals = [op for each in studied for op in each.proposals(role)]
    try:
        final = yield from distiller.update_library(setup.distiller, library, proposals)
    except UnreadableReply as error:
        return LibraryUpdate(library, incomplete=str(error))
    after, outcomes = operations.apply(library, final, born=number, words=c.words, guard=setup.guard)
    kept = after.fit_budget(c.lessons, c.library_tokens)
    gone = [x for x in after.lessons if x not in kept.lessons]
    return LibraryUpdate(
        kept, (*outcomes, *(operations.record_removal(x, c.lessons, c.library_tokens) for x in gone))
    )


def _candidates(libraries: TwoLibraries, updates: Mapping[str, LibraryUpdate]) -> dict[str, TwoLibraries]:
    """Both levels changed, and each by itself: what helps one side may mislead the other."""
    planner, sub = (updates[role].library if role in updates else libraries.of(role) for role in (MAIN, SUB))
    return {
        "both": TwoLibraries(planner, sub),
        "planner lessons": replace(libraries, planner=planner),
        "sub-agent lessons": replace(libraries, sub=sub),
    }


def _decided(
    setup: TwoLevelSpec, libraries: TwoLibraries, challengers: Mapping[str, TwoLibraries], level: float
) -> Plan[tuple[TwoLibraries, Choice[TwoLibraries] | None]]:
    """What to go on with, and the gate's choice; None where it is off."""
    c = setup.config
    if c.gate == "off":
        return challengers["both"], None
    rows = shuffle(setup.task.validation, c.seed, 0)[: c.gate_rows]
    scores = partial(mean_rewards, setup, payer="gate")
    choice = yield from choose(libraries, challengers, rows, scores, level)
    return choice.chosen, choice
