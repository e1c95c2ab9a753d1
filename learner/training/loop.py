"""
Training in weights: steps of sampling and updating, checkpoints, and the evaluation before and after.

    load ──▶ sample groups ─▶ assign credit ─▶ update ─▶ record, checkpoint ──▶ evaluate ─▶ export ─▶ evaluate
               ▲                                                   │            trained             first weights
               └────────────── TrainingState, weights ◀────────────┘

A stopped run resumes from its last checkpoint. A step depends only on the weights, the optimizer, the state and the
seed of its number. So the steps after the checkpoint, run again, are the same.

A plan runs in the event loop. Its BlockingCalls run in threads of the driver, which wait for the compute thread.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgewise.learner.methods.method import describe
from edgewise.learner.monitoring import collapse, step_time
from edgewise.learner.monitoring.collapse import StepStats
from edgewise.learner.policy import checkpoint
from edgewise.learner.sampling.given_answers import create_answer_scorer
from edgewise.learner.sampling.lockstep import run_lockstep
from edgewise.learner.spec import WeightsSpec
from edgewise.learner.training.engine import Engine
from edgewise.learner.training.row_memory import select_fresh, update_memory
from edgewise.learner.training.sampler import Sampler
from edgewise.learner.training.state import TrainingState, WeightsStep
from edgewise.learner.update import collate
from edgewise.learner.update.gradient_step import UpdateStats
from edgewise.toolkit.errors import Hopeless
from edgewise.toolkit.evaluation.comparison import Arm, compare
from edgewise.toolkit.evaluation.statistics import mean
from edgewise.toolkit.groups.sampling.rollout_plan import SamplingRequest
from edgewise.toolkit.groups.sampling.row_history import Memory
from edgewise.toolkit.rollout.agent import Prompt, run_group, run_rollouts
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.run.artifact import WEIGHTS
from edgewise.toolkit.run.driver import charge_to_step
from edgewise.toolkit.run.runner import RunOutcome
from edgewise.toolkit.tracking import events
from edgewise.toolkit.tracking.events import GroupsFinished, StageStarted
from edgewise.toolkit.types import BlockingCall, Example, Group, Message, Plan, Rollout
from edgewise.toolkit.util.seeds import derive_seed

Groups = tuple[Group, ...]
EVAL_STEP = 0
CHECKPOINTS, PUSHED = "checkpoints", "pushed"
WEIGHTS_FILE = "weights.json"
"""File of an artefact that describes the training."""
SIGNAL_STEPS = 10
"""Steps in a row without any signal, after which learning ends."""
MAX_COLLAPSES = 3
"""Collapses after which learning stops at its best checkpoint."""


def learn(
    spec: WeightsSpec,
    path: Path,
    make_engine: Callable[..., Engine] = Engine,
    should_stop: Callable[[], str] = lambda: "",
) -> Plan[RunOutcome]:
    """
    Train on the training rows, with checkpoints under `path`, then evaluate on the test rows.

    `should_stop` is called before each step and returns why learning should end there, "" if it should not.
    """
    config, folder = spec.config, path / CHECKPOINTS
    yield StageStarted(f"loading {config.model}")
    engine: Engine = yield BlockingCall(make_engine, (config, spec.method))
    sampler, state = Sampler.from_config(config, engine, path / PUSHED), TrainingState()

    def has_unsaved_steps() -> bool:
        latest = checkpoint.find_latest(folder)
        return state.number > (int(latest.name) if latest else 0)

    try:
        seconds = yield BlockingCall(step_time.estimate_step_seconds, (engine.policy, config, spec.task.train[0]))
        yield StageStarted(f"training on {engine.policy.summary}; method {config.method}")
        yield StageStarted(f"a step will take up to about {seconds:.0f} seconds")

        # A server may still hold the weights of another run.
        if latest := checkpoint.find_latest(folder):
            state = TrainingState.from_json((yield BlockingCall(engine.restore, (latest,))))
            yield BlockingCall(sampler.update_weights, (state.number,))
            yield StageStarted(f"going on after step {state.number}")
        else:
            yield BlockingCall(sampler.update_weights, (0,))
            state = yield BlockingCall(save_checkpoint, (engine, state, folder))

        reason = ""
        while state.number < config.steps and not state.stopped and not (reason := should_stop()):
            record, state = yield from run_step(spec, sampler, state, folder)
            yield events.StepFinished(record)
        # The server holds a policy, too, and the evaluation is about this process's weights.
        sampler.close()
        if has_unsaved_steps():  # the evaluation loads other weights
            state = yield BlockingCall(save_checkpoint, (engine, state, folder))

        # The reason is not saved: a run that is resumed with a higher limit goes on learning.
        about = describe_training(spec, engine, config.method, spec.method.paper, spec.method.differs)
        trained = {**about, "steps": state.number, "stopped": state.stopped or reason}
        yield events.WeightsTrained(trained)
        after, before, weights = yield from evaluate_both(spec, engine, state.number, path)
        evaluation = compare([Arm("before", before), Arm("after", after)], ks=tuple(sorted({1, config.samples})))
        start = {**about, "steps": 0, "stopped": ""}
        return RunOutcome(evaluation, {WEIGHTS_FILE: trained}, {WEIGHTS_FILE: start}, folders={WEIGHTS: weights})
    except GeneratorExit:
        # A limit or Ctrl-C. Between two updates the weights are those of `state`, and steps since the last checkpoint
        # need not be done again. Sharded weights can't be saved, because the other processes take no part here.
        engine.stop()
        if engine.last_step == state.number and has_unsaved_steps() and not config.shard:
            save_checkpoint(engine, state, folder)
        raise
    finally:
        sampler.close()


# ---- a step ----------------------------------------------------------------------------------------


def run_step(
    spec: WeightsSpec, sampler: Sampler, state: TrainingState, folder: Path
) -> Plan[tuple[WeightsStep, TrainingState]]:
    """Sample groups, update on them, save now and then; return the record of the step and the next state."""
    number, engine, config, method = state.number + 1, sampler.engine, spec.config, spec.method
    slice_tokens = engine.slice_tokens
    yield StageStarted(f"step {number} of {config.steps}")
    groups, deferred = yield from sample_groups(spec, sampler, state.memory, number)
    fresh = select_fresh(groups)
    yield GroupsFinished(fresh)
    # Run files and statistics show what the policy sampled; replayed rollouts are there already.
    everyone = [rollout for group in fresh for rollout in group.rollouts]
    check_alive(everyone)

    # The update, on replayed and offline rollouts, too.
    scored = collate.collect_scored(groups)
    kl = (yield BlockingCall(engine.compute_kl, (scored,))) if "kl" in method.required_columns else None
    credited = collate.assign_credit(scored, method, kl)
    batch = collate.build_batch(credited)
    update: UpdateStats | None = None
    if batch is not None:
        update = yield BlockingCall(partial(engine.update, batch, number, slowed=state.slowed))
        yield BlockingCall(sampler.update_weights, (number,))

    # Statistics, of this step's own rollouts alone.
    own = [rollout for rollout in scored if rollout.is_fresh]
    statistics = StepStats(
        reward=mean([rollout.reward for rollout in own]),
        length=mean([rollout.length for rollout in own]),
        entropy=-mean([rollout.mean_logp for rollout in own if not math.isnan(rollout.mean_logp)]),
        kl=update.kl if update else 0.0,
        valid=mean([bool(rollout.score and rollout.score.valid) for rollout in everyone]),
        cut=mean([rollout.stop == "length" for rollout in everyone]),
        signal=mean([group.is_mixed for group in fresh]),
        loss=update.loss if update else 0.0,
    )
    state = replace(
        state,
        number=number,
        memory=update_memory(method, state.memory, groups, credited, deferred),
        history=(*state.history, statistics),
    )

    rollback = ""
    if config.monitor and (reason := collapse.detect_collapse(state.history)):
        state, rollback = yield BlockingCall(roll_back, (engine, state, folder, reason))
        yield BlockingCall(sampler.update_weights, (number,))
    elif number % config.save_every == 0 or number == config.steps:
        state = yield BlockingCall(save_checkpoint, (engine, state, folder))
    # After the checkpoint: a resumed run decides anew, from the same history.
    state = stop_without_signal(state)
    rate = float(engine.optimizer.param_groups[0]["lr"])
    epoch = 1 + (number - 1) * config.batch_size // len(spec.task.train)
    is_smaller = engine.slice_tokens < slice_tokens
    return WeightsStep(number, epoch, tuple(fresh), statistics, update, rate, rollback, is_smaller), state


def sample_groups(
    spec: WeightsSpec, sampler: Sampler, memory: Memory, number: int
) -> Plan[tuple[list[Group], list[Group]]]:
    """Sample the groups of a step by the method's axes 1 and 2; return them, and those left for the next step."""
    config, task, agent = spec.config, spec.task, spec.rollout_agent
    # One generator for the selection and the plan, in this order.
    rng = np.random.default_rng(derive_seed(config.seed, "select", number))

    def sample_rollouts(row: Example, start: int, count: int) -> Plan[tuple[Rollout, ...]]:
        prompts = [Prompt(row.messages, f"w{number - 1}")] * count
        seed = derive_seed(config.seed, "learn", number)
        # A reward that compares rollouts needs all of a row at once, which a second sample (`start`) can't have.
        return run_rollouts(
            agent, row, prompts, task.reward, judge=spec.judge, seed=seed, start=start, together=not start
        )

    request = SamplingRequest(
        tuple(spec.method.select(task.train, memory, rng, config.batch_size * config.refills)),
        config.batch_size,
        config.group_size,
        sample_rollouts,
        create_answer_scorer(lambda: sampler.engine.policy, task.reward, spec.judge, agent.role),
        memory,
        (number - 1) / config.steps,
        rng,
        spec.embed,
    )
    plan = run_lockstep([charge_to_step(spec.method.plan(request), number)], config.model, sampler.answer)
    # The plan's items pass through here, so that the groups that it defers can be seen.
    deferred: list[Group] = []
    value: Any = None
    while True:
        try:
            item = plan.send(value)
        except StopIteration as end:
            return end.value[0], deferred
        if isinstance(item, events.GroupsDeferred):
            deferred += item.groups
        value = yield item


def stop_without_signal(state: TrainingState) -> TrainingState:
    """
    Return the state, stopped if no group of the last steps had rollouts with different rewards.

    Raises Hopeless if none ever had.
    """
    last = state.history[-SIGNAL_STEPS:]
    if len(last) < SIGNAL_STEPS or any(stats.signal for stats in last):
        return state
    if any(stats.signal for stats in state.history):
        return replace(state, stopped=f"in {SIGNAL_STEPS} steps no row had runs with different rewards any more")
    raise Hopeless(
        f"In {SIGNAL_STEPS} steps no row had runs with different rewards (mean reward {last[-1].reward:.2f}), so "
        "nothing was learnt: the reward may be constant, or the rows far too hard or easy. Look into "
        "RUN/rollouts.jsonl."
    )


# ---- checkpoints -----------------------------------------------------------------------------------


def save_checkpoint(engine: Engine, state: TrainingState, folder: Path) -> TrainingState:
    """
    Save this step, delete all checkpoints but this one and the best, and return the state, which names the best.

    The last one is where a stopped run resumes, the best one where a collapse goes back to.
    """
    recent = mean([stats.reward for stats in state.history[-collapse.WINDOW_STEPS :]])
    if recent >= collapse.best_window_reward(state.history):
        state = replace(state, best=state.number)
    # Written before others are deleted: at any time one complete checkpoint exists.
    engine.save(folder, state.number, state.to_json())
    checkpoint.delete_others(folder, state.number, state.best)
    return state


def roll_back(engine: Engine, state: TrainingState, folder: Path, reason: str) -> tuple[TrainingState, str]:
    """Go back to the best checkpoint, at half the learning rate, or stop there; return the state and a description."""
    collapses, number = state.collapses + 1, state.number
    best = TrainingState.from_json(engine.restore(folder / f"{state.best:06d}"))
    # Its weights, memory and history, but the number goes on: each step has random numbers of its own.
    state = replace(
        best,
        number=number,
        slowed=0.5**collapses,
        collapses=collapses,
        best=number,
        stopped=f"{reason}, {collapses} times" if collapses >= MAX_COLLAPSES else "",
    )
    engine.save(folder, number, state.to_json())
    checkpoint.delete_others(folder, number)
    effect = "and stops" if state.stopped else f"and learns {state.slowed:g} times as fast"
    return state, f"{reason}: learning goes back to step {best.number} {effect}"


# ---- evaluation ------------------------------------------------------------------------------------


def describe_training(spec: WeightsSpec, engine: Engine, name: str, paper: str, differs: str) -> dict[str, Any]:
    """Return the part of weights.json that trained and first weights share."""
    return {
        "base": spec.config.model,
        "lora": spec.config.lora,
        "name": name,
        "paper": paper,
        "differs": differs,
        "method": describe(spec.method),
        "trained": engine.policy.summary,
    }


def evaluate_both(spec: WeightsSpec, engine: Engine, number: int, path: Path) -> Plan[tuple[Groups, Groups, Path]]:
    """Evaluate the trained weights, export them, load the first ones and evaluate those; the engine keeps these."""
    after = yield from evaluate_weights(spec, engine, f"w{number}")
    folder = path / WEIGHTS
    yield BlockingCall(engine.export, (folder,))
    yield BlockingCall(engine.reload)
    before = yield from evaluate_weights(spec, engine, "w0")
    return after, before, folder


def evaluate_weights(
    spec: WeightsSpec, engine: Engine, version: str, prompts: Mapping[str, tuple[Message, ...]] = MappingProxyType({})
) -> Plan[Groups]:
    """
    Answer the test rows by the current policy; `version` is that of the rollouts.

    `prompts` replace the messages of rows, by their ids.
    """
    config, rows = spec.config, spec.task.test
    yield StageStarted(f"measuring on {len(rows)} held-out rows")
    # The same seed in every arm: rows are answered with the same random numbers.
    options = {"judge": spec.judge, "size": config.samples, "seed": derive_seed(config.seed, EVAL_STEP)}
    plans = [
        run_group(spec.eval_agent, row, prompts.get(row.id, row.messages), spec.task.reward, version=version, **options)
        for row in rows
    ]
    plans = [charge_to_step(plan, EVAL_STEP) for plan in plans]
    groups = yield from run_lockstep(plans, config.model, engine.answer)
    yield GroupsFinished(groups)
    check_alive([rollout for group in groups for rollout in group.rollouts])
    return tuple(groups)
