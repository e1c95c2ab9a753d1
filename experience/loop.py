"""
Learning in words: rollouts, comparison, a candidate library, the screen, and again.

Everything here is a plan (see `toolkit.types.Plan`): it runs the same against a scripted model one call at a
time and against an API at full concurrency. Stages stream: a group is compared as soon as its own last run is
graded, while other groups still roll out; only the update of the library waits for the whole batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from experience import distil, ops, rules
from experience.config import ExperienceConfig
from experience.distil import Comparison, Distiller, Unreadable
from experience.gate import Choice, Scores, choose
from experience.library import Kind, Library
from toolkit import agent
from toolkit.agent import Agent
from toolkit.collect import booked
from toolkit.errors import AllFailed
from toolkit.evaluate import Arm, compare
from toolkit.groups.select import batches, shuffled
from toolkit.run import Outcome
from toolkit.seeds import seed as seed_of
from toolkit.task import Task
from toolkit.types import Example, Group, Note, Plan, Rollout, Sampling

MEASURING = 0


@dataclass(frozen=True, slots=True)
class Study:
    """A finished group and what was made of it; `skipped` says why it was not compared."""

    group: Group
    comparison: Comparison = Comparison()
    skipped: str = ""

    @property
    def proposals(self) -> tuple[ops.Operation, ...]:
        """The operations that the group proposes."""
        return self.comparison.proposals


@dataclass(frozen=True, slots=True)
class StepRecord:
    """
    What one step saw and did; `to_json` is what RUN/steps/NNN/step.json holds.

    `outcomes` is what became of the operations of the batch update. `incomplete` says why there was none.
    """

    number: int
    epoch: int
    studies: tuple[Study, ...]
    outcomes: tuple[ops.Outcome, ...]
    incomplete: str
    choice: Choice | None
    library: Library

    def to_json(self) -> dict[str, Any]:
        """Plain data: rewards and tool calls of the groups, proposals, operations, the choice, the library."""
        return {
            "step": self.number,
            "epoch": self.epoch,
            "complete": not self.incomplete,
            "incomplete": self.incomplete,
            "statistics": statistics([study.group for study in self.studies]),
            "groups": [_study_json(study) for study in self.studies],
            "operations": ops.as_json(self.outcomes),
            "screen": self.choice.to_json() if self.choice else None,
            "library": self.library.to_json(),
        }

    def summary(self) -> str:
        """One line for people."""
        found = statistics([study.group for study in self.studies])
        applied = sum(outcome.applied for outcome in self.outcomes)
        screened = f"; {self.choice.summary()}" if self.choice else ""
        failed = f"; incomplete: {self.incomplete}" if self.incomplete else ""
        return (
            f"step {self.number}: mean reward {found['mean_reward']:.2f}, {found['mixed']:.0%} of groups mixed, "
            f"{applied} of {len(self.outcomes)} operations applied{failed}{screened}; "
            f"{len(self.library)} lessons"
        )


def learn(task: Task, config: ExperienceConfig) -> Plan[Outcome]:
    """
    The whole job: learn a library on the training rows, then measure it on the test rows.

    The start is an empty library. Ends with the evaluation of both on rows that learning never saw.
    """
    start = library = Library(place=config.place, labelled=config.labelled)
    records: list[StepRecord] = []
    for epoch in range(1, config.epochs + 1):
        for batch in batches(shuffled(task.train, config.seed, epoch), config.batch_size):
            number = len(records) + 1
            record = yield from booked(_step(task, config, library, batch, number, epoch), number)
            yield Note("step", record)
            records.append(record)
            library = record.library
        if config.direct:
            break
    arms = {"before": Library(), "after": library} if library.lessons else {"before": Library()}
    evaluation = yield from booked(evaluate(task, config, arms), MEASURING)
    files, unchanged = ({"library.json": each.to_json()} for each in (library, start))
    return Outcome(evaluation, files, unchanged)


def evaluate(task: Task, config: ExperienceConfig, libraries: Mapping[str, Library]) -> Plan[Any]:
    """Run libraries on the same test rows and samples; returns a `toolkit.evaluate.Evaluation`."""
    yield Note("stage", f"measuring on {len(task.test)} held-out rows")
    groups = yield [measure(task, config, library, task.test) for library in libraries.values()]
    yield Note("groups", [group for arm in groups for group in arm])
    _check_alive([run for arm in groups for group in arm for run in group.members])
    arms = [Arm(name, tuple(found)) for name, found in zip(libraries, groups, strict=True)]
    if len(arms) == 1:
        arms = [*arms, Arm("after", arms[0].groups)]
    return compare(arms, ks=tuple(sorted({1, config.samples})))


def _check_alive(runs: Sequence[Rollout]) -> None:
    """Raise AllFailed where every single run broke: that says nothing of the lessons."""
    if runs and all(run.failed for run in runs):
        raise AllFailed(
            f"Every one of {len(runs)} rollouts failed, the first one so: {runs[0].error} The failures are "
            "recorded: once the cause is mended, begin anew with another --run."
        )


def measure(
    task: Task, config: ExperienceConfig, library: Library, rows: Sequence[Example], payer: str = "measure"
) -> Plan[list[Group]]:
    """Groups of `config.samples` runs on rows under a library, with the settings and seeds of use."""
    user = _agent(task, config, config.measuring, payer)
    return (yield [_group(task, config, user, library, row, config.samples, MEASURING) for row in rows])


def statistics(groups: Sequence[Group]) -> dict[str, float]:
    """Mean reward, pass@G (any run of a group at full reward), share of mixed groups, tool calls a run."""
    runs = [run for group in groups for run in group.members]
    return {
        "runs": len(runs),
        "failed": sum(run.failed for run in runs),
        "mean_reward": _mean([reward for group in groups for reward in group.rewards]),
        "pass": _mean([any(r >= 1 for r in group.rewards) for group in groups]),
        "mixed": _mean([group.mixed for group in groups]),
        "tool_calls": _mean([run.tool_calls for run in runs]),
    }


def _step(
    task: Task, config: ExperienceConfig, library: Library, batch: Sequence[Example], number: int, epoch: int
) -> Plan[StepRecord]:
    distiller = _distiller(config)
    if config.direct:
        yield Note("stage", f"writing lessons from {len(batch)} tasks without rollouts")
        studies, proposals = [], (yield from distil.direct(distiller, batch, library))
    else:
        yield Note("stage", f"step {number}, epoch {epoch}: {len(batch)} groups of {config.group_size}")
        studies = yield [study(task, config, distiller, library, row, number) for row in batch]
        proposals = tuple(op for found in studies for op in found.proposals)
        yield Note("groups", [found.group for found in studies])
        _check_alive([run for found in studies for run in found.group.members])
    propose = _joined if pooled(task, config) else _updated
    found = yield from propose(config, distiller, library, proposals, number)
    if not (config.screen and task.validation):
        after = next(iter(found.libraries.values()), library)
        return StepRecord(number, epoch, tuple(studies), found.outcomes, found.incomplete, None, after)
    choice = yield from _screen(task, config, library, found.libraries)
    outcomes = found.outcomes
    return StepRecord(number, epoch, tuple(studies), outcomes, found.incomplete, choice, choice.library)


def study(
    task: Task, config: ExperienceConfig, distiller: Distiller, library: Library, row: Example, step: int
) -> Plan[Study]:
    """One group from its first rollout to its proposals."""
    group = yield from _group(task, config, learner(task, config), library, row, config.group_size, step)
    reason = _no_lesson(config, group)
    if reason:
        return Study(group, skipped=reason)
    try:
        if pooled(task, config):
            return Study(group, (yield from rules.propose(distiller, task, group)))
        return Study(group, (yield from distil.study(distiller, group, library)))
    except Unreadable as error:
        return Study(group, skipped=str(error))


def pooled(task: Task, config: ExperienceConfig) -> bool:
    """Whether lessons are pooled by right answer (see `experience.rules`)."""
    return config.pool and config.truth and not config.direct and rules.recurring(task.train)


def learner(task: Task, config: ExperienceConfig) -> Agent:
    """The model as it is run while learning."""
    return _agent(task, config, config.learning, "rollout")


def _no_lesson(config: ExperienceConfig, group: Group) -> str:
    """Why a group is not compared: all runs broke, or there are rewards to see and they are all equal."""
    if all(run.failed for run in group.members):
        return "every run failed"
    if not config.truth or config.group_size == 1 or group.mixed:
        return ""
    if config.learn_from == "unsolved" and max(group.rewards, default=1) < 1:
        return ""
    return "all rewards are equal"


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Libraries that could follow the current one, the best guess first; what became of its operations."""

    libraries: Mapping[str, Library]
    outcomes: tuple[ops.Outcome, ...] = ()
    incomplete: str = ""


def _updated(
    config: ExperienceConfig,
    distiller: Distiller,
    library: Library,
    proposals: tuple[ops.Operation, ...],
    step: int,
) -> Plan[_Candidates]:
    """The distiller's update of the library, and the proposals taken as they stand."""
    joined, outcomes = ops.apply(library, proposals, born=step, words=config.words)
    as_proposed = {"as proposed": _trim(joined, config.lessons)} if config.screen else {}
    try:
        final = yield from distil.update(distiller, library, proposals)
    except Unreadable as error:
        return _Candidates(as_proposed, outcomes, str(error))
    after, outcomes = ops.apply(library, final, born=step, words=config.words)
    updated = _trim(after, config.lessons)
    # Lessons about form may help where those about content mislead, and the other way round.
    kinds = {f"{kind} only": updated.only(kind) for kind in get_args(Kind)}
    return _Candidates({"updated": updated, **as_proposed, **kinds}, outcomes)


def _joined(
    config: ExperienceConfig,
    distiller: Distiller,
    library: Library,
    proposals: tuple[ops.Operation, ...],
    step: int,
) -> Plan[_Candidates]:
    """Several draws of one lesson per right answer; the outcomes are those of the first."""
    drawn = yield from rules.join(distiller, library, proposals, config.draws, seed_of(config.seed, step))
    found = [ops.apply(library, final, born=step, words=config.words) for final in drawn]
    libraries = {f"draw {n}": _trim(after, config.lessons) for n, (after, _) in enumerate(found, 1)}
    return _Candidates(libraries, found[0][1])


def _screen(
    task: Task, config: ExperienceConfig, library: Library, candidates: Mapping[str, Library]
) -> Plan[Choice]:
    """Compare candidates with the current library; where lessons are pooled, their swaps are candidates too."""
    rows = shuffled(task.validation, config.seed, 0)[: config.screen_rows]
    first = next(iter(candidates.values()), library)
    placed = {f"placed {place}": replace(first, place=place) for place in config.try_places}
    candidates = {**candidates, **placed}
    yield Note("stage", f"comparing {len(candidates)} candidate libraries on {len(rows)} validation rows")
    seen: dict[tuple[str, str], Group] = {}

    def groups(candidate: Library, some: Sequence[Example]) -> Plan[list[Group]]:
        """No row is run, or graded, twice under one library."""
        new = [row for row in some if (candidate.version, row.id) not in seen]
        for group in (yield from measure(task, config, candidate, new, "screen")):
            seen[candidate.version, group.example.id] = group
        return [seen[candidate.version, row.id] for row in some]

    def scores(candidate: Library, some: Sequence[Example]) -> Plan[Scores]:
        found = yield from groups(candidate, some)
        return np.array([_mean(group.rewards) for group in found])

    sizes: tuple[int, ...] = ()
    if pooled(task, config):
        # All candidates are measured on all rows on the way, so there is nothing to save by halving.
        candidates = yield from _swapped(candidates, config.swaps, lambda each: groups(each, rows))
        sizes = (len(rows),)
    choice = yield from choose(library, candidates, rows, scores, sizes)
    yield Note("groups", [seen[key] for key in sorted(seen)])
    return choice


def _swapped(
    candidates: Mapping[str, Library], swaps: int, groups: Callable[[Library], Plan[list[Group]]]
) -> Plan[dict[str, Library]]:
    """The candidates, and libraries made of them by swapping one lesson at a time into the best so far."""
    found = dict(candidates)
    measured = yield [groups(each) for each in found.values()]
    for number in range(1, swaps + 1):
        swapped = rules.swap(list(found.values()), measured)
        if swapped is None:
            break
        measured.append((yield from groups(swapped)))
        found[f"swap {number}"] = swapped
    return found


def _group(
    task: Task,
    config: ExperienceConfig,
    runner: Agent,
    library: Library,
    row: Example,
    size: int,
    step: int,
) -> Plan[Group]:
    return agent.group(
        runner,
        row,
        library.dress(row.messages),
        task.reward,
        judge=config.judge or config.distiller or config.model,
        size=size,
        seed=seed_of(config.seed, step),
        version=library.version,
    )


def _agent(task: Task, config: ExperienceConfig, sampling: Sampling, payer: str) -> Agent:
    return Agent(config.model, sampling, task.tools, config.turns, config.calling, payer=payer)


def _distiller(config: ExperienceConfig) -> Distiller:
    return Distiller(
        model=config.distiller or config.model,
        sampling=Sampling(config.distiller_temperature, max_tokens=config.distiller_max_tokens),
        truth=config.truth,
        operations=config.operations,
        words=config.words,
        summaries=config.summaries,
    )


def _trim(library: Library, most: int) -> Library:
    """At most `most` lessons: those drawn from most examples stay, of equals the newer ones."""
    ranked = sorted(library.lessons, key=lambda x: (-len(x.sources), -x.born))[:most]
    kept = {x.id for x in ranked}
    return replace(library, lessons=tuple(x for x in library.lessons if x.id in kept))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _study_json(study: Study) -> dict[str, Any]:
    return {
        "example": study.group.example.id,
        "rewards": list(study.group.rewards),
        "summaries": list(study.comparison.summaries),
        "over_limit": [op.model_dump() for op in study.comparison.over_limit],
        "proposals": [op.model_dump() for op in study.proposals],
        "skipped": study.skipped,
    }
