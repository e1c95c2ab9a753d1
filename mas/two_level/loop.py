"""
M-GRPO without weights (arXiv 2511.13288, at the level of arXiv 2510.08191): a planner and its sub-agents learn lessons.

A step samples K rollouts of planner and sub-agents on each row, and makes two levels of groups of them
(`mas.two_level.advantages`). At each level the distiller compares winners and losers by advantage, and the
comparisons of a step update the library of that level. The gate then decides, by the answers of planner and
sub-agents together, whether the new libraries take the place of the old ones:

    rows ── sample ── main level ── compare ── update planner's library ─┐
                └──── sub level ─── compare ── update sub-agents' library ┴─ gate ── both, one of them, or neither

Sub-agents are also compared where the rule for planners has no signal: in queries whose main rewards are all equal, and
among the siblings of one main rollout that failed, where the shared part of their rewards drops out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from edgewise.experience.distil.distiller import UnreadableReply, update_library
from edgewise.experience.library.library import Library
from edgewise.experience.library.operations import OperationOutcome, as_json
from edgewise.experience.proposers.candidates import apply_within_caps
from edgewise.experience.training.gate import select_gate_rows
from edgewise.experience.training.records import summarise_groups
from edgewise.mas.two_level.advantages import (
    MAIN,
    Align,
    alignment_depth,
    build_levels,
    copy_weights,
    equal_weights,
    inverse_weights,
)
from edgewise.mas.two_level.comparison import QueryStudy, build_contrasts, compare_contrast
from edgewise.mas.two_level.delegation import SUB, sub_rollouts
from edgewise.mas.two_level.libraries import FILE, TOOLS_FILE, TwoLibraries
from edgewise.mas.two_level.system import EVALUATION_STEP, TwoLevelSpec, mean_rewards, measure_rows, sample_rollouts
from edgewise.toolkit.evaluation.comparison import Arm, Evaluation, compare
from edgewise.toolkit.evaluation.gate import AlphaSpending, Choice, choose
from edgewise.toolkit.groups.sampling.row_selection import shuffle, split_batches
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.run.driver import charge_to_step
from edgewise.toolkit.run.runner import RunOutcome
from edgewise.toolkit.tracking.events import GroupsFinished, StageStarted, StepFinished
from edgewise.toolkit.types import Example, Plan, Rollout
from edgewise.toolkit.util.seeds import derive_seed

ALIGNMENTS: Mapping[str, Align] = {"exact": inverse_weights, "off": equal_weights}


@dataclass(frozen=True, slots=True)
class LibraryUpdate:
    """A library after a step's operations, their outcomes, and why there are none ("" where nothing failed)."""

    library: Library
    outcomes: tuple[OperationOutcome, ...] = ()
    incomplete: str = ""


@dataclass(frozen=True, slots=True)
class TwoLevelStep:
    """
    Record of one step: `updates` by level, the `libraries` that the next step starts from, and the gate's `choice`.

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
        """By level: how many queries had no signal, and why."""
        levels = [level for query in self.queries for level in (query.main, query.sub)]
        return {
            role: dict(Counter(x.skipped for x in levels if x.group.role == role and x.skipped)) for role in (MAIN, SUB)
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as in RUN/steps/NNN/step.json."""
        updates = self.updates.items()
        return {
            "step": self.number,
            "epoch": self.epoch,
            "statistics": summarise_groups([query.main.group for query in self.queries]),
            "skipped": self.skipped,
            "queries": [query.to_json() for query in self.queries],
            "outcomes": {level: as_json(update.outcomes) for level, update in updates},
            "incomplete": "; ".join(f"{level}: {x.incomplete}" for level, x in updates if x.incomplete),
            "gate": self.choice.to_json() if self.choice else None,
            "libraries": self.libraries.to_json(),
        }

    def summary(self) -> str:
        """Return one line for people."""
        signal = {level: len(self.queries) - sum(why.values()) for level, why in self.skipped.items()}
        incomplete = [f"{level} incomplete: {x.incomplete}" for level, x in self.updates.items() if x.incomplete]
        return "; ".join(
            [
                f"step {self.number}: of {len(self.queries)} rows {signal[MAIN]} had signal for the planner and "
                f"{signal[SUB]} for sub-agents",
                *incomplete,
                *([self.choice.summary()] if self.choice else []),
                f"lessons: {len(self.libraries.planner)} for the planner, {len(self.libraries.sub)} for sub-agents",
            ]
        )


@dataclass(frozen=True, slots=True)
class TwoLevelResult:
    """Both libraries at the end of learning, and its steps."""

    libraries: TwoLibraries
    steps: tuple[TwoLevelStep, ...] = field(repr=False)


# ---- the loop --------------------------------------------------------------------------------------


def learn(spec: TwoLevelSpec) -> Plan[RunOutcome]:
    """Learn both libraries on the training rows, then evaluate the system on test rows that learning never saw."""
    start = empty_libraries(spec)
    learnt = (yield from learn_two_levels(spec, start)).libraries
    arms = {"before": start, **({"after": learnt} if learnt.version != start.version else {})}
    evaluation = yield from charge_to_step(evaluate_two_levels(spec, arms), EVALUATION_STEP)
    tools = [function.tool.name for function in spec.task.tools]
    files, unchanged = ({FILE: x.to_json(), TOOLS_FILE: tools} for x in (learnt, start))
    return RunOutcome(evaluation, files, unchanged)


def empty_libraries(spec: TwoLevelSpec) -> TwoLibraries:
    """Return two libraries without lessons, at their place in the prompt."""
    empty = Library(place=spec.config.place, labelled=spec.config.labelled)
    return TwoLibraries(empty, empty)


def learn_two_levels(spec: TwoLevelSpec, start: TwoLibraries | None = None) -> Plan[TwoLevelResult]:
    """
    Learn lessons for a planner and for its sub-agents on the task's training rows; emits each step.

    Raises AllFailed where every rollout of a step failed.
    """
    config = spec.config
    libraries = start or empty_libraries(spec)
    schedule = [
        (epoch, rows)
        for epoch in range(1, config.epochs + 1)
        for rows in split_batches(shuffle(spec.task.train, config.seed, epoch), config.batch_size)
    ]
    spending = AlphaSpending(config.alpha, max(1, len(schedule)))
    steps = []
    for number, (epoch, rows) in enumerate(schedule, 1):
        plan = run_step(spec, libraries, spending.level, rows, number, epoch)
        step = yield from charge_to_step(plan, number)
        yield StepFinished(step)
        steps.append(step)
        libraries = step.libraries
        if step.choice:
            spending = spending.after(step.choice)
    return TwoLevelResult(libraries, tuple(steps))


def run_step(
    spec: TwoLevelSpec, libraries: TwoLibraries, alpha: float, rows: Sequence[Example], number: int, epoch: int
) -> Plan[TwoLevelStep]:
    """Sample, compare, update and gate; `alpha` is the error rate that the gate may spend."""
    yield StageStarted(f"step {number}, epoch {epoch}: {len(rows)} groups of {spec.config.group_size}")
    queries = yield from _study_rows(spec, libraries, rows, number)
    check_alive([rollout for query in queries for rollout in query.main.group.rollouts], needs_score=True)

    # The two libraries are updated at the same time: neither update reads the other.
    levels = spec.learning_levels
    results = yield [update_level(spec, libraries, queries, level, number) for level in levels]
    updates: dict[str, LibraryUpdate] = dict(zip(levels, results, strict=True))

    # Both levels changed, and each by itself: what helps one side may mislead the other.
    planner, sub = (updates[x].library if x in updates else libraries.at_level(x) for x in (MAIN, SUB))
    candidates = {
        "both": TwoLibraries(planner, sub),
        "planner lessons": replace(libraries, planner=planner),
        "sub-agent lessons": replace(libraries, sub=sub),
    }
    if not spec.is_gated:
        return TwoLevelStep(number, epoch, tuple(queries), updates, candidates["both"], None)
    measure = partial(mean_rewards, spec, payer="gate")
    choice = yield from choose(libraries, candidates, select_gate_rows(spec), measure, alpha, spec.anchors)
    return TwoLevelStep(number, epoch, tuple(queries), updates, choice.chosen, choice)


def _study_rows(
    spec: TwoLevelSpec, libraries: TwoLibraries, rows: Sequence[Example], number: int
) -> Plan[list[QueryStudy]]:
    """Sample and compare each row; rows wait for each other only where D comes from all of them."""
    config = spec.config

    def study_row(row: Example, align: Align) -> Plan[QueryStudy]:
        rollouts = yield from sample_rollouts(spec, libraries, row, number)
        return (yield from _compare_row(spec, libraries, row, rollouts, align, number))

    if config.align != "copies":
        return (yield [study_row(row, ALIGNMENTS[config.align]) for row in rows])
    if config.depth:
        return (yield [study_row(row, partial(copy_weights, depth=config.depth)) for row in rows])

    groups = yield [sample_rollouts(spec, libraries, row, number) for row in rows]
    counts = [len(sub_rollouts(rollout)) for rollouts in groups for rollout in rollouts]
    align = partial(copy_weights, depth=alignment_depth(counts))
    pairs = zip(rows, groups, strict=True)
    return (yield [_compare_row(spec, libraries, row, runs, align, number) for row, runs in pairs])


def _compare_row(
    spec: TwoLevelSpec, libraries: TwoLibraries, row: Example, rollouts: Sequence[Rollout], align: Align, number: int
) -> Plan[QueryStudy]:
    """Build the two levels of a row's rollouts, and make the comparisons in them."""
    config = spec.config
    main, sub = build_levels(row, rollouts, align, derive_seed(config.seed, "align", number, row.id))
    yield GroupsFinished([level.group for level in (main, sub) if level.group.rollouts])
    contrasts = build_contrasts(main, sub, spec.delegation, config.shown, config.siblings)
    results = yield [
        compare_contrast(spec.distiller, contrast, libraries.at_level(contrast.level)) for contrast in contrasts
    ]
    return QueryStudy(main, sub, tuple(results))


def update_level(
    spec: TwoLevelSpec, libraries: TwoLibraries, queries: Sequence[QueryStudy], level: str, number: int
) -> Plan[LibraryUpdate]:
    """Update the library of a level by the operations that the step's comparisons propose for it."""
    library = libraries.at_level(level)
    proposals = [op for query in queries for op in query.proposals(level)]
    try:
        operations = yield from update_library(spec.distiller, library, proposals)
    except UnreadableReply as error:
        return LibraryUpdate(library, incomplete=str(error))
    return LibraryUpdate(*apply_within_caps(spec, library, operations, number))


def evaluate_two_levels(spec: TwoLevelSpec, arms: Mapping[str, TwoLibraries]) -> Plan[Evaluation]:
    """Run libraries on the test rows with the same samples, and compare them with the first of them."""
    rows = spec.task.test
    yield StageStarted(f"measuring on {len(rows)} held-out rows")
    groups = yield [measure_rows(spec, libraries, rows) for libraries in arms.values()]
    check_alive([run for arm in groups for group in arm for run in group.rollouts], needs_score=True)
    measured = [Arm(name, tuple(arm)) for name, arm in zip(arms, groups, strict=True)]
    if len(measured) == 1:
        # Nothing was learnt: the start is its own "after".
        measured.append(Arm("after", measured[0].groups))
    return compare(measured, ks=tuple(sorted({1, spec.config.samples})))
