"""
One episode, as a plan: an agent acts in an environment, one action a turn, and each turn is a step of its rollout.

The row's prompt stands in the system message, so that each message of the user is what the environment showed and
nothing else: equal states are equal texts, which is what credit over steps compares.

What an agent does is read from its reply: the last <action>...</action> in it, else its last line; "Action:" before it,
quotes and a full stop around it do not count. Where the environment says what is legal, letters may be small or
capital. An action that is not legal costs a turn and nothing else: the agent is told, and sees the same state again.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from edgewise.toolkit.environments.protocol import EnvironmentFailure, Turn, World, call_environment, get_method, parse_turn
from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.types import (
    FAILURES,
    Example,
    Message,
    Plan,
    Reply,
    Request,
    Rollout,
    Score,
    Step,
    StopReason,
)

INSTRUCTIONS = "Each message shows you where you are. End each answer with one action, on a line of its own."
ILLEGAL_ACTION = "That is no action that is possible here.\n"
ACTION_TAG = re.compile(r"<action>(.*?)</action>", re.DOTALL | re.IGNORECASE)
DECORATION = " \t`'\"*."

BuildRequest = Callable[[tuple[Message, ...], int], Request]


@dataclass(slots=True)
class _Log:
    """What has happened so far."""

    environment: Any = None
    turn: Turn = Turn("")
    steps: list[Step] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)


def run_episode(
    world: World,
    ask: BuildRequest,
    example: Example,
    messages: tuple[Message, ...],
    *,
    turns: int,
    blank: Rollout,
) -> Plan[Rollout]:
    """
    `blank` with what happened: until the environment is done, something breaks, or `turns` are used up.

    `ask` makes the request of what is seen in a turn, from 0. The score is the environment's: the sum of its rewards,
    with the parts "success" and "step_reward N", N from 0, and what it showed last as feedback. Whatever breaks ends
    this rollout alone: its stop is "failed" or "timeout", its steps are kept, and `error` says why.
    """
    log, error = _Log(), ""
    try:
        stop = yield from _played(world, ask, example, _head(messages), turns, log)
    except EnvironmentFailure as broken:
        stop, error = broken.stop, str(broken)
    if stop != "timeout":
        yield from _closed(world, log.environment)
    score = None if stop in FAILURES else _score(log)
    return replace(blank, steps=tuple(log.steps), stop=stop, score=score, error=error)


def _played(
    world: World, ask: BuildRequest, example: Example, head: tuple[Message, ...], turns: int, log: _Log
) -> Plan[StopReason]:
    log.environment = yield from call_environment(world, "making it", world.make)
    reset, step = (get_method(world, log.environment, name) for name in ("reset", "step"))
    log.turn = yield from call_environment(world, "reset", reset, example, read=parse_turn)
    wrong = ""
    while not log.turn.done and len(log.steps) < turns:
        seen = (*head, *_past(log.steps, world.history), Message("user", wrong + render_turn(log.turn)))
        reply: Reply = yield ask(seen, len(log.steps))
        if reply.failed:
            raise EnvironmentFailure(reply.stop, reply.error)
        log.steps.append(Step(seen, reply.message, reply.usage, reply.latency, reply.tokens))
        action = parse_action(reply.message.content, log.turn.legal)
        if action:
            what = f"step {len(log.steps)}, {action!r}"
            log.turn = yield from call_environment(world, what, step, action, read=parse_turn)
        log.rewards.append(log.turn.reward if action else 0.0)
        wrong = "" if action else ILLEGAL_ACTION
    return "stop" if log.turn.done else "turns"


def check_equal_starts(world: World, runs: Sequence[Rollout]) -> None:
    """Raise TaskError where runs of one row did not begin alike: what they did after it can't be compared."""
    starts = {run.steps[0].prompt[-1].content for run in runs if run.steps}
    if len(starts) > 1:
        raise TaskError(
            f"the environment {world.name} began differently in two runs of row {runs[0].example!r}: let what reset "
            "shows depend on the row alone"
        )


def _closed(world: World, environment: Any) -> Plan[None]:
    """Close an environment that can be; how that ends matters to nobody."""
    close = getattr(environment, "close", None)
    if callable(close):
        with suppress(EnvironmentFailure):
            yield from call_environment(world, "close", close)


def is_episode(run: Rollout) -> bool:
    """Whether it is an episode: then the last message of what each step has seen is what the environment showed."""
    return any(head.content.endswith(INSTRUCTIONS) for step in run.steps[:1] for head in step.prompt[:1])


def render_turn(turn: Turn) -> str:
    """What the agent sees of a turn."""
    return f"{turn.text}\nActions: {', '.join(turn.legal)}" if turn.legal else turn.text


def parse_action(said: str, legal: Sequence[str]) -> str:
    """The action of a reply, as the environment spells it; "" where there is none, or none that is legal."""
    tagged = ACTION_TAG.findall(said)
    lines = [line for line in said.splitlines() if line.strip()]
    text = tagged[-1] if tagged else lines[-1] if lines else ""
    words = re.sub(r"^action:", "", text.strip(DECORATION), flags=re.IGNORECASE).strip(DECORATION)
    action = " ".join(words.split())
    if not legal:
        return action
    return next((each for each in legal if " ".join(each.split()).casefold() == action.casefold()), "")


def _head(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The row's messages, its last one of the user as the end of the system message, with how to act."""
    before, told = list(messages), [INSTRUCTIONS]
    if before and before[-1].role == "user":
        told.insert(0, before.pop().content)
    if before and before[0].role == "system":
        told.insert(0, before.pop(0).content)
    return (Message("system", "\n\n".join(told)), *before)


def _past(steps: Sequence[Step], history: int | None) -> Iterator[Message]:
    """The last turns that a prompt shows."""
    for step in steps[len(steps) - history if history is not None and history < len(steps) else 0 :]:
        yield from (step.prompt[-1], step.completion)


def _score(log: _Log) -> Score:
    rewards = {f"step_reward {n}": reward for n, reward in enumerate(log.rewards) if reward}
    success = {} if log.turn.success is None else {"success": float(log.turn.success)}
    return Score(sum(log.rewards), {**success, **rewards}, feedback=log.turn.text)
