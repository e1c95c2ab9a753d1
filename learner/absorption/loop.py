"""
Absorbing lessons: steps of answering with them and learning without them, checkpoints, and the measurement.

The teacher is the model as it was, with the lessons in its prompt; the pupil the same model, without them, in the
weights that are trained. Every step follows from the weights and from the seed of its number, as in `learner.training.loop`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgewise.learner.absorption.spec import AbsorbSpec
from edgewise.learner.hardware.compute_thread import run_in_compute_thread
from edgewise.learner.methods.method import describe
from edgewise.learner.monitoring.collapse import mean
from edgewise.learner.monitoring.retention import ABSORBED, BEFORE, LESSONS, measure_retention
from edgewise.learner.policy import checkpoint
from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.lockstep import run_lockstep
from edgewise.learner.training.engine import Engine
from edgewise.learner.training.loop import CHECKPOINTS, WEIGHTS_FILE, evaluate_weights
from edgewise.learner.update import collate
from edgewise.learner.update.imitation import Demonstration, imitate
from edgewise.toolkit.errors import Hopeless
from edgewise.toolkit.evaluation.comparison import Arm, compare
from edgewise.toolkit.groups.sampling.row_selection import split_batches, shuffle
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
Asked = Mapping[str, tuple[Message, ...]]
"""The messages of rows with the lessons in them, by the row's id."""


@dataclass(frozen=True, slots=True)
class AbsorbState:
    """What one step hands to the next beside the weights: its number, and how many answers were learnt from."""

    number: int = 0
    answers: int = 0


@dataclass(frozen=True, slots=True)
class AbsorbStep:
    """What a step saw and did; `losses` are nats an answer token, of each update."""

    number: int
    epoch: int
    groups: tuple[Group, ...]
    kept: int
    losses: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        found = collate.collect_scored(self.groups)
        return {
            "step": self.number,
            "epoch": self.epoch,
            "statistics": {
                "runs": sum(len(each.rollouts) for each in self.groups),
                "mean_reward": mean([member.reward for member in found]),
                "mixed": mean([each.is_mixed for each in self.groups]),
                "length": mean([member.length for member in found]),
                "kept": self.kept,
                "loss": mean(self.losses) if self.losses else None,
            },
            "groups": [{"example": g.example.id, "rewards": list(g.rewards)} for g in self.groups],
        }

    def summary(self) -> str:
        """One line for people."""
        numbers = self.to_json()["statistics"]
        learnt = f"loss {numbers['loss']:.2f} nats a token" if self.losses else "nothing to learn from"
        return (
            f"step {self.number}: mean reward with the lessons {numbers['mean_reward']:.2f}, "
            f"{self.kept} of {numbers['runs']} answers kept; {learnt}"
        )


def distil(job: AbsorbSpec, path: Path) -> Plan[RunOutcome]:
    """Learn from answers to the training rows, with checkpoints under `path`, then measure on the test rows."""
    yield StageStarted(f"loading {job.config.model}")
    engine: Engine = yield BlockingCall(load_engine, (job,))
    asked = yield from job.lessons.insert_lessons([*job.task.train, *job.task.test])
    yield StageStarted(f"training on {engine.policy.summary}")
    folder, state = path / CHECKPOINTS, AbsorbState()
    if found := checkpoint.find_latest(folder):
        state = AbsorbState(**(yield BlockingCall(engine.restore, (found,))))
        yield StageStarted(f"going on after step {state.number}")
    while state.number < job.config.steps:
        yield StageStarted(f"step {state.number + 1} of {job.config.steps}")
        record, state = yield from step(job, engine, asked, state)
        if state.number % job.config.save_every == 0 or state.number == job.config.steps:
            yield BlockingCall(_saved, (engine, state, folder))
        yield StepFinished(record)
    if not state.answers:
        raise Hopeless(
            "No answer that the model gave with these lessons was worth learning: all had the same reward, or none "
            "could be graded. Look into RUN/rollouts.jsonl."
        )
    return (yield from _outcome(job, engine, asked, state, path))


@run_in_compute_thread
def load_engine(job: AbsorbSpec) -> Engine:
    """The model, which also knows what it was before it learnt."""
    engine = Engine(job.config, job.method)
    engine.policy.with_reference()
    return engine


def _saved(engine: Engine, state: AbsorbState, folder: Path) -> None:
    engine.save(folder, state.number, asdict(state))
    checkpoint.delete_others(folder, state.number)


# ---- a step ----------------------------------------------------------------------------------------


def step(job: AbsorbSpec, engine: Engine, asked: Asked, state: AbsorbState) -> Plan[tuple[AbsorbStep, AbsorbState]]:
    """Draw and grade answers of the teacher, and let the pupil learn those that are worth it."""
    number, model = state.number + 1, job.config.model
    epoch, rows = select_rows(job, number)
    plans = [charge_to_step(_drawn(job, asked[row.id], row, number), number) for row in rows]
    groups = yield from run_lockstep(plans, model, partial(answer_as_teacher, engine))
    yield GroupsFinished(groups)
    check_alive([run for group in groups for run in group.rollouts])
    answers = select_answers(groups)
    pairs = [pair for row, run in answers for pair in build_demonstrations(engine.policy, job.rollout_agent, row, run)]
    losses = yield BlockingCall(partial(imitate_answers, job, engine, pairs, number))
    record = AbsorbStep(number, epoch, tuple(groups), len(answers), tuple(losses))
    return record, AbsorbState(number, state.answers + len(answers))


def select_rows(job: AbsorbSpec, number: int) -> tuple[int, Sequence[Example]]:
    """The epoch of a step, from 1, and its rows: all of them once an epoch, in a new order."""
    each = math.ceil(len(job.task.train) / job.config.batch_size)
    epoch, place = divmod(number - 1, each)
    return epoch + 1, split_batches(shuffle(job.task.train, job.config.seed, epoch), job.config.batch_size)[place]


def _drawn(job: AbsorbSpec, messages: tuple[Message, ...], row: Example, number: int) -> Plan[Group]:
    prompts = [Prompt(messages, f"{job.lessons.version}/{number}")] * job.config.group_size
    seed = derive_seed(job.config.seed, "absorb", number)
    found = yield from run_rollouts(
        job.rollout_agent, row, prompts, job.task.reward, judge=job.judge, seed=seed, together=True
    )
    return Group(row, job.rollout_agent.role, found)


@run_in_compute_thread
def answer_as_teacher(engine: Engine, requests: Sequence[Request]) -> Sequence[Reply]:
    """Replies of the teacher: the model as it was before it learnt."""
    with engine.policy.reference():
        return engine.answer(requests)


def select_answers(groups: Sequence[Group]) -> list[tuple[Example, Rollout]]:
    """
    The runs to learn from: no worse than the mean of their row, and better than the worst of all.

    Where all of them are equal, that is none: nothing says that the lessons did any good.
    """
    found = collate.collect_scored(groups)
    least = min((member.reward for member in found), default=0.0)
    means = {n: mean([m.reward for m in found if m.group == n]) for n in {m.group for m in found}}
    good = [m for m in found if m.reward > least and m.reward >= means[m.group] - 1e-9]
    return [(groups[member.group].example, member.rollout) for member in good]


def build_demonstrations(policy: Policy, agent: Agent, row: Example, run: Rollout) -> list[Demonstration]:
    """A pair for each step of a run: what it would have read without lessons, and what it wrote."""
    plain, dressed = add_call_instructions(row.messages, agent.tools), run.steps[0].prompt
    return [
        Demonstration(policy.encode((*plain, *each.prompt[len(dressed) :])), each.tokens.completion_ids)
        for each in run.steps
        if each.tokens and each.tokens.completion_ids
    ]


@run_in_compute_thread
def imitate_answers(job: AbsorbSpec, engine: Engine, pairs: Sequence[Demonstration], number: int) -> list[float]:
    """The loss of each update of a step on its pairs."""
    config = job.config
    engine.set_learning_rate(number)
    return imitate(
        engine.policy,
        engine.optimizer,
        pairs,
        epochs=config.epochs,
        batch_size=config.minibatch,
        clip=config.clip,
        seed=derive_seed(config.seed, "absorb", number),
    )


# ---- the measurement -------------------------------------------------------------------------------


def _outcome(job: AbsorbSpec, engine: Engine, asked: Asked, state: AbsorbState, path: Path) -> Plan[RunOutcome]:
    """The measurement of what was learnt, of what it began with, and of that with its lessons."""
    about = {
        "base": job.config.model,
        "lora": job.config.lora,
        "name": NAME,
        "paper": PAPER,
        "differs": f"imitates graded answers that the model gave with lessons {job.lessons.version} in its prompt",
        "method": describe(job.method),
        "trained": engine.policy.summary,
        "stopped": "",
    }
    now = {**about, "steps": state.number}
    yield WeightsTrained(now)
    absorbed = yield from evaluate_weights(job, engine, f"w{state.number}")
    folder = path / WEIGHTS
    yield BlockingCall(partial(engine.export, folder))
    yield BlockingCall(engine.reload)
    before = yield from evaluate_weights(job, engine, "w0")
    dressed = yield from evaluate_weights(job, engine, job.lessons.version, asked)
    arms = {BEFORE: before, ABSORBED: absorbed, LESSONS: dressed}
    found = compare([Arm(name, tuple(groups)) for name, groups in arms.items()])
    now |= {"kept": measure_retention(found).to_json()}
    yield WeightsTrained(now)
    return RunOutcome(
        found, {WEIGHTS_FILE: now}, {WEIGHTS_FILE: {**about, "steps": 0}}, (job.lessons.version,), {WEIGHTS: folder}
    )
