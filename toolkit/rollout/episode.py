"""
One episode, as a plan: an agent acts in an environment, one action per turn; each turn is a step of its rollout.

The row's prompt stands in the system message, so that each user message is what the environment showed and nothing
else. Equal states are then equal texts, which step-level credit compares.

The action is read from the reply: the last <action>...</action> in it, else its last line. A leading "Action:", quotes
and a full stop do not count. Where the environment lists legal actions, case does not matter. An illegal action uses
up a turn and does nothing else: the agent is told so, and sees the same state again.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from edgewise.toolkit.environments.protocol import (
    EnvironmentFailure,
    Turn,
    World,
    call_environment,
    get_method,
    parse_turn,
)
from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.types import FAILURES, Example, Message, Plan, Reply, Request, Rollout, Score, Step, StopReason

INSTRUCTIONS = "Each message shows you where you are. End each answer with one action, on a line of its own."
ILLEGAL_ACTION = "That is no action that is possible here.\n"
ACTION_TAG = re.compile(r"<action>(.*?)</action>", re.DOTALL | re.IGNORECASE)
DECORATION = " \t`'\"*."

BuildRequest = Callable[[tuple[Message, ...], int], Request]


def run_episode(
    world: World,
    build_request: BuildRequest,
    example: Example,
    messages: tuple[Message, ...],
    *,
    turns: int,
    empty: Rollout,
) -> Plan[Rollout]:
    """
    Return `empty` with the steps of an episode: until the environment is done, a failure, or `turns` turns.

    `build_request` makes the request from a prompt and the number of the turn, from 0. The score is the
    environment's: the sum of its rewards, with the parts "success" and "step_reward N", N from 0, and its last text as
    feedback. A failure ends this rollout alone: its stop is "failed" or "timeout", and `error` says why.
    """
    # The last user message moves into the system message, before `INSTRUCTIONS`.
    rest, texts = list(messages), [INSTRUCTIONS]
    if rest and rest[-1].role == "user":
        texts.insert(0, rest.pop().content)
    if rest and rest[0].role == "system":
        texts.insert(0, rest.pop(0).content)
    head = (Message("system", "\n\n".join(texts)), *rest)

    environment, turn, warning, error = None, Turn(""), "", ""
    # Steps that end before a failure stay in the rollout.
    steps: list[Step] = []
    rewards: list[float] = []
    stop: StopReason
    try:
        environment = yield from call_environment(world, "making it", world.make)
        reset, step = (get_method(world, environment, name) for name in ("reset", "step"))
        turn = yield from call_environment(world, "reset", reset, example, read=parse_turn)
        while not turn.done and len(steps) < turns:
            # The prompt: the task, past turns as far as they are shown, the present state.
            past = steps if world.history is None else steps[max(0, len(steps) - world.history) :]
            history = [message for row in past for message in (row.prompt[-1], row.completion)]
            prompt = (*head, *history, Message("user", warning + render_turn(turn)))

            reply: Reply = yield build_request(prompt, len(steps))
            if reply.failed:
                raise EnvironmentFailure(reply.stop, reply.error)
            steps.append(Step(prompt, reply.message, reply.usage, reply.latency, reply.tokens))

            action = parse_action(reply.message.content, turn.legal)
            if action:
                name = f"step {len(steps)}, {action!r}"
                turn = yield from call_environment(world, name, step, action, read=parse_turn)
            rewards.append(turn.reward if action else 0.0)
            warning = "" if action else ILLEGAL_ACTION
        stop = "stop" if turn.done else "turns"
    except EnvironmentFailure as failure:
        stop, error = failure.stop, str(failure)

    # After a timeout a call still runs in its thread: to close the environment under it could hang as well.
    close = getattr(environment, "close", None)
    if stop != "timeout" and callable(close):
        with suppress(EnvironmentFailure):
            yield from call_environment(world, "close", close)

    score = None
    if stop not in FAILURES:
        parts = {} if turn.success is None else {"success": float(turn.success)}
        parts |= {f"step_reward {n}": reward for n, reward in enumerate(rewards) if reward}
        score = Score(sum(rewards), parts, feedback=turn.text)
    return replace(empty, steps=tuple(steps), stop=stop, score=score, error=error)


def check_equal_starts(world: World, rollouts: Sequence[Rollout]) -> None:
    """Raise TaskError where rollouts of one row started in different states: they can't be compared."""
    starts = {rollout.steps[0].prompt[-1].content for rollout in rollouts if rollout.steps}
    if len(starts) > 1:
        raise TaskError(
            f"the environment {world.name} began differently in two runs of row {rollouts[0].example!r}: let "
            "what reset shows depend on the row alone"
        )


def is_episode(rollout: Rollout) -> bool:
    """Return whether a rollout is an episode; then the last message of each prompt is the environment's text."""
    return any(head.content.endswith(INSTRUCTIONS) for step in rollout.steps[:1] for head in step.prompt[:1])


def render_turn(turn: Turn) -> str:
    """Return the text that the agent sees of a turn."""
    return f"{turn.text}\nActions: {', '.join(turn.legal)}" if turn.legal else turn.text


def parse_action(completion: str, legal: Sequence[str]) -> str:
    """Return the action in a completion, as the environment spells it; "" for none, or none that is legal."""
    tagged = ACTION_TAG.findall(completion)
    lines = [line for line in completion.splitlines() if line.strip()]
    text = tagged[-1] if tagged else lines[-1] if lines else ""
    # Decoration may stand around the whole line and around the action behind "Action:".
    words = re.sub(r"^action:", "", text.strip(DECORATION), flags=re.IGNORECASE).strip(DECORATION)
    action = " ".join(words.split())
    if not legal:
        return action
    return next((name for name in legal if " ".join(name.split()).casefold() == action.casefold()), "")
