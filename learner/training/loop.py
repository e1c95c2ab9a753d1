"""
Learning in weights: steps of sampling and updating, checkpoints, and the measurement before and after.

A run that was stopped goes on from its last checkpoint. Every step follows from the weights and from the seed of its
number, so what was lost after the checkpoint comes out as it was.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgewise.learner.methods.method import describe
from edgewise.learner.monitoring import collapse, step_time
from edgewise.learner.monitoring.collapse import StepStats, mean
from edgewise.learner.policy import checkpoint
from edgewise.learner.sampling.given_answers import create_answer_scorer
from edgewise.learner.sampling.lockstep import run_lockstep
from edgewise.learner.spec import WeightsSpec
from edgewise.learner.training.engine import Engine
from edgewise.learner.training.row_memory import select_fresh, update_memory
from edgewise.learner.training.sampler import Sampler
from edgewise.learner.training.state import TrainingState, WeightsStep
from edgewise.learner.update import collate
from edgewise.learner.update.collate import ScoredRollout
from edgewise.learner.update.gradient_step import UpdateStats
from edgewise.toolkit.errors import Hopeless
from edgewise.toolkit.evaluation.comparison import Arm, compare
from edgewise.toolkit.groups.sampling.rollout_plan import SamplingRequest
from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.rollout.agent import Prompt, run_group, run_rollouts
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.run.artifact import WEIGHTS
from edgewise.toolkit.run.driver import charge_to_step
from edgewise.toolkit.run.runner import RunOutcome
from edgewise.toolkit.tracking.events import (
    GroupsDeferred,
    GroupsFinished,
    StageStarted,
    StepFinished,
    WeightsTrained,
)
from edgewise.toolkit.types import BlockingCall, Example, Group, Message, Plan, Rollout
from edgewise.toolkit.util.seeds import derive_seed

MEASURING = 0
CHECKPOINTS, PUSHED = "checkpoints", "pushed"
WEIGHTS_FILE = "weights.json"
"""The file of an artefact that says what was trained, and how."""
DEAD = 10
"""Steps in a row without any signal, after which there is no point in going on."""
TRIES = 3
"""Collapses after which learning stops where it was best."""


def learn(
    spec: WeightsSpec, path: Path, make_engine: Callable[..., Engine] = Engine, should_stop: Callable[[], str] = lambda: ""
) -> Plan[RunOutcome]:
    """
    Train on the training rows, with checkpoints under `path`, then measure on rows that learning never saw.

    `enough` is asked before each step why learning should end there; "" if it should not.
    """
    yield StageStarted(f"loading {spec.config.model}")
    engine: Engine = yield BlockingCall(make_engine, (spec.config, spec.method))
    sampler = Sampler.from_config(spec.config, engine, path / PUSHED)
    folder, state = path / CHECKPOINTS, TrainingState()
    try:
        expected = yield BlockingCall(step_time.estimate_step_seconds, (engine.policy, spec.config, spec.task.train[0]))
        yield StageStarted(f"training on {engine.policy.summary}; method {spec.config.method}")
        yield StageStarted(f"a step will take up to about {expected:.0f} seconds")
        state = yield from _taken_up(engine, sampler, folder)
        why = ""
        while state.number < spec.config.steps and not state.stopped and not (why := should_stop()):
            record, state = yield from step(spec, sampler, state, folder)
            yield StepFinished(record)
        sampler.close()
        if state.number > _number(checkpoint.find_latest(folder)):  # other weights are loaded for the measurement
            state = yield BlockingCall(_saved, (engine, state, folder))
        # Not kept in `state`: a run that is taken up with a higher limit goes on learning.
        return (yield from _outcome(spec, engine, replace(state, stopped=state.stopped or why), path))
    except GeneratorExit:
        # A limit or Ctrl-C, between two updates: what was learnt since the last checkpoint need not be done again.
        engine.stop()
        if engine.last_step == state.number > _number(checkpoint.find_latest(folder)) and not spec.config.shard:
            _saved(engine, state, folder)
        raise
    finally:
        sampler.close()


def _number(found: Path | None) -> int:
    return int(found.name) if found else 0


def _taken_up(engine: Engine, sampler: Sampler, folder: Path) -> Plan[TrainingState]:
    """The state of the last checkpoint, with its weights in the engine; where there is none a new one, saved."""
    found = checkpoint.find_latest(folder)
    if found is None:
        yield BlockingCall(sampler.update_weights, (0,))  # a server may still hold those of another run
        return (yield BlockingCall(_saved, (engine, TrainingState(), folder)))
    state = TrainingState.from_json((yield BlockingCall(engine.restore, (found,))))
    yield BlockingCall(sampler.update_weights, (state.number,))
    yield StageStarted(f"going on after step {state.number}")
    return state


# ---- a step ----------------------------------------------------------------------------------------


def step(
    job: WeightsSpec, sampler: Sampler, state: TrainingState, folder: Path
) -> Plan[tuple[WeightsStep, TrainingState]]:
    """Sample groups, learn from them, and save what came of it now and then."""
    number, engine = state.number + 1, sampler.engine
    size = engine.slice_tokens
    yield StageStarted(f"step {number} of {job.config.steps}")
    heard = yield from sampled(job, sampler, state.memory, number)
    groups, fresh = heard.groups, select_fresh(heard.groups)
    yield GroupsFinished(fresh)
    check_alive([run for group in fresh for run in group.rollouts])
    found = collate.collect_scored(groups)
    distances = (yield BlockingCall(engine.compute_kl, (found,))) if "kl" in job.method.required_columns else None
    known = collate.assign_credit(found, job.method, distances)
    made = collate.build_batch(known)
    done: UpdateStats | None = None
    if made is not None:
        done = yield BlockingCall(partial(engine.update, made, number, slowed=state.slowed))
        yield BlockingCall(sampler.update_weights, (number,))
    seen = _seen(fresh, [member for member in found if member.is_fresh], done)
    state = replace(
        state,
        number=number,
        memory=update_memory(job.method, state.memory, groups, known, heard.later),
        history=(*state.history, seen),
    )
    went = ""
    if job.config.monitor and (why := collapse.detect_collapse(state.history)):
        state, went = yield BlockingCall(_back, (engine, state, folder, why))
        yield BlockingCall(sampler.update_weights, (number,))
    elif number % job.config.save_every == 0 or number == job.config.steps:
        state = yield BlockingCall(_saved, (engine, state, folder))
    state = _with_signal(state)
    rate = float(engine.optimizer.param_groups[0]["lr"])
    epoch = 1 + (number - 1) * job.config.batch_size // len(job.task.train)
    return WeightsStep(number, epoch, tuple(fresh), seen, done, rate, went, engine.slice_tokens < size), state


@dataclass(slots=True)
class SampledGroups:
    """What came of a step's plan: its groups, and those that it leaves for the next step."""

    groups: list[Group] = field(default_factory=list)
    later: list[Group] = field(default_factory=list)


def sampled(job: WeightsSpec, sampler: Sampler, memory: Memory, number: int) -> Plan[SampledGroups]:
    """The groups of a step, by the method's choice of rows and of rollouts."""
    config, rng = job.config, np.random.default_rng(derive_seed(job.config.seed, "select", number))
    queue = job.method.select(job.task.train, memory, rng, config.batch_size * config.refills)
    asked = SamplingRequest(
        tuple(queue),
        config.batch_size,
        config.group_size,
        partial(_drawn, job, number),
        create_answer_scorer(lambda: sampler.engine.policy, job.task.reward, job.judge, job.rollout_agent.role),
        memory,
        (number - 1) / config.steps,
        rng,
        job.embed,
    )
    heard = SampledGroups()
    plan = run_lockstep([charge_to_step(job.method.plan(asked), number)], config.model, sampler.answer)
    heard.groups = (yield from _overheard(plan, heard))[0]
    return heard


def _drawn(job: WeightsSpec, number: int, row: Example, start: int, count: int) -> Plan[tuple[Rollout, ...]]:
    prompts = [Prompt(row.messages, f"w{number - 1}")] * count
    seed = derive_seed(job.config.seed, "learn", number)
    return run_rollouts(
        job.rollout_agent,
        row,
        prompts,
        job.task.reward,
        judge=job.judge,
        seed=seed,
        start=start,
        together=not start,
    )


def _overheard(plan: Plan[Any], heard: SampledGroups) -> Plan[Any]:
    """The same plan; what it leaves for the next step is noted down too."""
    answer: Any = None
    try:
        while True:
            want = plan.send(answer)
            if isinstance(want, GroupsDeferred):
                heard.later += want.groups
            answer = yield want
    except StopIteration as done:
        return done.value


def _with_signal(state: TrainingState) -> TrainingState:
    """
    The state, which says so where no group of the last steps had runs with different rewards: learning is at its end.

    Raises Hopeless where none ever had.
    """
    last = state.history[-DEAD:]
    if len(last) < DEAD or any(each.signal for each in last):
        return state
    if any(each.signal for each in state.history):
        return replace(state, stopped=f"in {DEAD} steps no row had runs with different rewards any more")
    raise Hopeless(
        f"In {DEAD} steps no row had runs with different rewards (mean reward {last[-1].reward:.2f}), so nothing was "
        "learnt: the reward may be constant, or the rows far too hard or easy. Look into RUN/rollouts.jsonl."
    )


def _seen(groups: Sequence[Group], members: Sequence[ScoredRollout], done: UpdateStats | None) -> StepStats:
    everyone = [run for each in groups for run in each.rollouts]
    return StepStats(
        reward=mean([member.reward for member in members]),
        length=mean([member.length for member in members]),
        entropy=-mean([member.mean_logp for member in members if not math.isnan(member.mean_logp)]),
        kl=done.kl if done else 0.0,
        valid=mean([bool(run.score and run.score.valid) for run in everyone]),
        cut=mean([run.stop == "length" for run in everyone]),
        signal=mean([each.is_mixed for each in groups]),
        loss=done.loss if done else 0.0,
    )


# ---- checkpoints -----------------------------------------------------------------------------------


def _saved(engine: Engine, state: TrainingState, folder: Path) -> TrainingState:
    """Save this step, and keep it beside the best one; the state, which says which that is."""
    history = state.history
    recent = mean([each.reward for each in history[-collapse.WINDOW_STEPS :]])
    if recent >= collapse.best_window_reward(history):
        state = replace(state, best=state.number)
    engine.save(folder, state.number, state.to_json())
    checkpoint.delete_others(folder, state.number, state.best)
    return state


def _back(engine: Engine, state: TrainingState, folder: Path, why: str) -> tuple[TrainingState, str]:
    """The state after learning went back to its best checkpoint; it learns half as fast from there, or stops."""
    collapses, number = state.collapses + 1, state.number
    old = TrainingState.from_json(engine.restore(folder / f"{state.best:06d}"))
    state = replace(
        old,
        number=number,
        slowed=0.5**collapses,
        collapses=collapses,
        best=number,
        stopped=f"{why}, {collapses} times" if collapses >= TRIES else "",
    )
    engine.save(folder, number, state.to_json())
    checkpoint.delete_others(folder, number)
    what = "and stops" if state.stopped else f"and learns {state.slowed:g} times as fast"
    return state, f"{why}: learning goes back to step {old.number} {what}"


# ---- the measurement -------------------------------------------------------------------------------


def _outcome(job: WeightsSpec, engine: Engine, state: TrainingState, path: Path) -> Plan[RunOutcome]:
    """The measurement of the weights that were trained and of those that training began with."""
    about = {
        "base": job.config.model,
        "lora": job.config.lora,
        "name": job.config.method,
        "paper": job.method.paper,
        "differs": job.method.differs,
        "method": describe(job.method),
        "trained": engine.policy.summary,
    }
    learnt = {**about, "steps": state.number, "stopped": state.stopped}
    yield WeightsTrained(learnt)
    after = yield from evaluate_weights(job, engine, f"w{state.number}")
    folder = path / WEIGHTS
    yield BlockingCall(partial(engine.export, folder))
    yield BlockingCall(engine.reload)
    before = yield from evaluate_weights(job, engine, "w0")
    arms = [Arm("before", tuple(before)), Arm("after", tuple(after))]
    evaluation = compare(arms, ks=tuple(sorted({1, job.config.samples})))
    start = {**about, "steps": 0, "stopped": ""}
    return RunOutcome(evaluation, {WEIGHTS_FILE: learnt}, {WEIGHTS_FILE: start}, folders={WEIGHTS: folder})


def evaluate_weights(
    job: WeightsSpec,
    engine: Engine,
    version: str,
    asked: Mapping[str, tuple[Message, ...]] = MappingProxyType({}),
) -> Plan[list[Group]]:
    """
    The test rows, answered by the policy as it is now; `version` is what its rollouts are noted under.

    `asked` are messages to ask in place of a row's own, by its id.
    """
    rows = job.task.test
    yield StageStarted(f"measuring on {len(rows)} held-out rows")
    plans = [
        charge_to_step(_measured(job, row, asked.get(row.id, row.messages), version), MEASURING)
        for row in rows
    ]
    groups = yield from run_lockstep(plans, job.config.model, engine.answer)
    yield GroupsFinished(groups)
    check_alive([run for group in groups for run in group.rollouts])
    return groups


def _measured(job: WeightsSpec, row: Example, messages: tuple[Message, ...], version: str) -> Plan[Group]:
    return run_group(
        job.eval_agent,
        row,
        messages,
        job.task.reward,
        judge=job.judge,
        size=job.config.samples,
        seed=derive_seed(job.config.seed, MEASURING),
        version=version,
    )
