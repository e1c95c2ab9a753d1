"""
Distillation of a library: steps of answering with lessons and learning without them, checkpoints, and the evaluation.

    teacher: first weights, lessons in the prompt ──▶ answers ─ graded ─▶ those with a good reward
    student: trained weights, no lessons          ◀── imitates them: -log p(answer | prompt without lessons)

A step depends only on the weights, the optimizer, the state and the seed of its number, as in `learner.training.loop`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgewise.learner.absorption.spec import AbsorbSpec
from edgewise.learner.hardware.compute_thread import run_in_compute_thread
from edgewise.learner.monitoring.retention import ABSORBED, BEFORE, LESSONS, measure_retention
from edgewise.learner.policy import checkpoint
from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.lockstep import run_lockstep
from edgewise.learner.training import loop
from edgewise.learner.training.engine import Engine
from edgewise.learner.update.collate import collect_scored
from edgewise.learner.update.imitation import Demonstration, imitate
from edgewise.toolkit.errors import Hopeless
from edgewise.toolkit.evaluation.comparison import Arm, compare
from edgewise.toolkit.evaluation.statistics import mean
from edgewise.toolkit.groups.sampling.row_selection import shuffle, split_batches
from edgewise.toolkit.rollout.agent import Agent, Prompt, run_rollouts
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.rollout.tool_calls import add_call_instructions
from edgewise.toolkit.run.artifact import WEIGHTS
from edgewise.toolkit.run.driver import charge_to_step
from edgewise.toolkit.run.runner import RunOutcome
from edgewise.toolkit.tracking.events import GroupsFinished, StageStarted, StepFinished, WeightsTrained
from edgewise.toolkit.types import BlockingCall, Example, Group, Message, Plan, Reply, Request, Rollout
from edgewise.toolkit.util.seeds import derive_seed

NAME, PAPER = "absorbed", "2209.15189"
Prompts = Mapping[str, tuple[Message, ...]]
"""Messages of rows with their lessons, by the row's id."""


@dataclass(frozen=True, slots=True)
class AbsorbState:
    """State beside the weights, saved in each checkpoint: the step's number, and the answers learnt from so far."""

    number: int = 0
    answers: int = 0


@dataclass(frozen=True, slots=True)
class AbsorbStep:
    """Record of a step: its groups, how many answers were selected, and the losses of its updates in nats a token."""

    number: int
    epoch: int
    groups: tuple[Group, ...]
    answers: int
    losses: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with the names of step.json."""
        scored = collect_scored(self.groups)
        return {
            "step": self.number,
            "epoch": self.epoch,
            "statistics": {
                "runs": sum(len(group.rollouts) for group in self.groups),
                "mean_reward": mean([rollout.reward for rollout in scored]),
                "mixed": mean([group.is_mixed for group in self.groups]),
                "length": mean([rollout.length for rollout in scored]),
                "kept": self.answers,
                "loss": mean(self.losses) if self.losses else None,
            },
            "groups": [{"example": g.example.id, "rewards": list(g.rewards)} for g in self.groups],
        }

    def summary(self) -> str:
        """Return one line for people."""
        statistics = self.to_json()["statistics"]
        outcome = f"loss {statistics['loss']:.2f} nats a token" if self.losses else "nothing to learn from"
        return (
            f"step {self.number}: mean reward with the lessons {statistics['mean_reward']:.2f}, "
            f"{self.answers} of {statistics['runs']} answers kept; {outcome}"
        )


def distil(spec: AbsorbSpec, path: Path) -> Plan[RunOutcome]:
    """Learn from answers to the training rows, with checkpoints under `path`, then evaluate on the test rows."""
    config, folder, state = spec.config, path / loop.CHECKPOINTS, AbsorbState()
    yield StageStarted(f"loading {config.model}")
    engine: Engine = yield BlockingCall(load_engine, (spec,))
    # Once, for all rows: the lessons of a row do not change while the weights learn.
    prompts = yield from spec.lessons.insert_lessons([*spec.task.train, *spec.task.test])
    yield StageStarted(f"training on {engine.policy.summary}")
    if latest := checkpoint.find_latest(folder):
        state = AbsorbState(**(yield BlockingCall(engine.restore, (latest,))))
        yield StageStarted(f"going on after step {state.number}")

    while state.number < config.steps:
        yield StageStarted(f"step {state.number + 1} of {config.steps}")
        record, state = yield from run_step(spec, engine, prompts, state)
        if state.number % config.save_every == 0 or state.number == config.steps:
            yield BlockingCall(engine.save, (folder, state.number, asdict(state)))
            yield BlockingCall(checkpoint.delete_others, (folder, state.number))
        yield StepFinished(record)
    # Before the evaluation, which would compare the weights with themselves.
    if not state.answers:
        raise Hopeless(
            "No answer that the model gave with these lessons was worth learning: all had the same reward, or none "
            "could be graded. Look into RUN/rollouts.jsonl."
        )

    # Three arms: the trained weights, the first ones, and these with the lessons.
    version = spec.lessons.version
    differs = f"imitates graded answers that the model gave with lessons {version} in its prompt"
    start = {**loop.describe_training(spec, engine, NAME, PAPER, differs), "stopped": "", "steps": 0}
    trained = {**start, "steps": state.number}
    yield WeightsTrained(trained)
    absorbed, before, weights = yield from loop.evaluate_both(spec, engine, state.number, path)
    with_lessons = yield from loop.evaluate_weights(spec, engine, version, prompts)
    arms = {BEFORE: before, ABSORBED: absorbed, LESSONS: with_lessons}
    evaluation = compare([Arm(name, groups) for name, groups in arms.items()])
    trained |= {"kept": measure_retention(evaluation).to_json()}
    yield WeightsTrained(trained)
    files = {loop.WEIGHTS_FILE: trained}, {loop.WEIGHTS_FILE: start}
    return RunOutcome(evaluation, *files, (version,), {WEIGHTS: weights})


@run_in_compute_thread
def load_engine(spec: AbsorbSpec) -> Engine:
    """Load the model, with the first weights as its reference: the teacher."""
    engine = Engine(spec.config, spec.method)
    engine.policy.with_reference()
    return engine


# ---- a step ----------------------------------------------------------------------------------------


def run_step(
    spec: AbsorbSpec, engine: Engine, prompts: Prompts, state: AbsorbState
) -> Plan[tuple[AbsorbStep, AbsorbState]]:
    """Sample and grade answers of the teacher, and let the student learn the good ones."""
    number, agent, config = state.number + 1, spec.rollout_agent, spec.config
    epoch, rows = select_rows(spec, number)

    def sample_group(row: Example) -> Plan[Group]:
        variants = [Prompt(prompts[row.id], f"{spec.lessons.version}/{number}")] * config.group_size
        seed = derive_seed(config.seed, "absorb", number)
        rollouts = yield from run_rollouts(
            agent, row, variants, spec.task.reward, judge=spec.judge, seed=seed, together=True
        )
        return Group(row, agent.role, rollouts)

    # All rows in lockstep, so that the teacher answers in one batch; a judge's calls come in between.
    plans = [charge_to_step(sample_group(row), number) for row in rows]
    groups = yield from run_lockstep(plans, config.model, partial(answer_as_teacher, engine))
    yield GroupsFinished(groups)
    check_alive([rollout for group in groups for rollout in group.rollouts])

    answers = select_answers(groups)
    demonstrations = [
        item for row, rollout in answers for item in build_demonstrations(engine.policy, agent, row, rollout)
    ]
    # Several updates on answers of one teacher: it does not move, so the answers do not grow old.
    losses = yield BlockingCall(imitate_answers, (spec, engine, demonstrations, number))
    record = AbsorbStep(number, epoch, tuple(groups), len(answers), tuple(losses))
    return record, AbsorbState(number, state.answers + len(answers))


def select_rows(spec: AbsorbSpec, number: int) -> tuple[int, Sequence[Example]]:
    """Return the epoch of a step, from 1, and its rows: all of them once an epoch, in a new order."""
    rows, size = spec.task.train, spec.config.batch_size
    epoch, index = divmod(number - 1, math.ceil(len(rows) / size))
    return epoch + 1, split_batches(shuffle(rows, spec.config.seed, epoch), size)[index]


@run_in_compute_thread
def answer_as_teacher(engine: Engine, requests: Sequence[Request]) -> Sequence[Reply]:
    """Return replies of the first weights."""
    with engine.policy.reference():
        return engine.answer(requests)


def select_answers(groups: Sequence[Group]) -> list[tuple[Example, Rollout]]:
    """
    Return the rollouts to learn from: at least the mean reward of their row, and more than the lowest of all.

    None if all rewards are equal: then no reward speaks for the lessons.
    """
    scored = collect_scored(groups)
    lowest = min((rollout.reward for rollout in scored), default=0.0)
    means = {n: mean([x.reward for x in scored if x.group == n]) for n in {x.group for x in scored}}
    # Rounding of a mean must not leave out equal rewards.
    good = [x for x in scored if x.reward > lowest and x.reward >= means[x.group] - 1e-9]
    return [(groups[x.group].example, x.rollout) for x in good]


def build_demonstrations(policy: Policy, agent: Agent, row: Example, rollout: Rollout) -> list[Demonstration]:
    """Return a demonstration for each step of a rollout: its prompt without the lessons, and what it wrote."""
    plain, with_lessons = add_call_instructions(row.messages, agent.tools), rollout.steps[0].prompt
    # The first prompt is replaced; messages after it, such as results of tools, stay.
    return [
        Demonstration(policy.encode((*plain, *step.prompt[len(with_lessons) :])), step.tokens.completion_ids)
        for step in rollout.steps
        if step.tokens and step.tokens.completion_ids
    ]


@run_in_compute_thread
def imitate_answers(
    spec: AbsorbSpec, engine: Engine, demonstrations: Sequence[Demonstration], number: int
) -> list[float]:
    """Return the loss of each update of a step."""
    config = spec.config
    engine.set_learning_rate(number)
    sizes = {"epochs": config.epochs, "batch_size": config.minibatch, "clip": config.clip}
    seed = derive_seed(config.seed, "absorb", number)
    return imitate(engine.policy, engine.optimizer, demonstrations, **sizes, seed=seed)
