"""
Rollouts of an agent, as plans: call the model, run the tools that it calls, call it again.

`run_rollout` is one rollout, `run_rollouts` and `run_group` run and grade several rollouts of one example.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgewise.toolkit.environments.protocol import World
from edgewise.toolkit.reward.reward import Reward
from edgewise.toolkit.rollout import tool_calls
from edgewise.toolkit.rollout.episode import check_equal_starts, run_episode
from edgewise.toolkit.tools.tool import FunctionTool
from edgewise.toolkit.tracking.events import RolloutFinished
from edgewise.toolkit.types import (
    BilledTo,
    Example,
    Group,
    Message,
    Plan,
    Reply,
    Request,
    Rollout,
    Sampling,
    Step,
    StopReason,
)
from edgewise.toolkit.util.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Agent:
    """
    A model with its sampling, its tools or its environment, and the most turns it may take.

    `role` is the name under which its rollouts are grouped, `payer` the role in the ledger. An agent with a `world`
    acts in it and has no tools.
    """

    model: str
    sampling: Sampling = Sampling()
    tools: tuple[FunctionTool | tool_calls.Delegation, ...] = ()
    turns: int = 50
    calling: tool_calls.CallFormat = "auto"
    role: str = "solver"
    payer: str = "rollout"
    world: World | None = None


def run_rollout(
    agent: Agent, example: Example, messages: tuple[Message, ...], *, sample: int, seed: int
) -> Plan[Rollout]:
    """
    Run `agent` on `messages` until it answers without a tool call, fails, or has used up its turns.

    An agent with a world runs an episode instead, see `toolkit.rollout.episode`.

    A turn of the loop is one step of the rollout:

        prompt ──▶ model ──▶ completion ──▶ no tool call: done
          ▲                      │
          │                      ▼ tool calls, all at once
          └── + completion ── results
    """
    payer = BilledTo(agent.payer, example=example.id)
    if agent.world:

        def build_request(prompt: tuple[Message, ...], turn: int) -> Request:
            # A seed per turn: with one for all turns, an agent that returns to a state would act the same for ever.
            sampling = replace(agent.sampling, seed=derive_seed(seed, turn))
            return Request(agent.model, prompt, sampling, sample=sample, payer=payer)

        empty = Rollout(example.id, agent.role, sample, (), "stop", seed=seed)
        return (yield from run_episode(agent.world, build_request, example, messages, turns=agent.turns, empty=empty))

    steps: list[Step] = []
    sampling = replace(agent.sampling, seed=seed)
    native_tools = tuple(function.tool for function in agent.tools)
    is_text = agent.calling == "text"
    prompt = tool_calls.add_call_instructions(messages, agent.tools) if is_text else messages

    def finish(stop: StopReason, error: str = "") -> Rollout:
        return Rollout(example.id, agent.role, sample, tuple(steps), stop, seed=seed, error=error)

    while len(steps) < agent.turns:
        tools = () if is_text else native_tools
        request = Request(agent.model, prompt, sampling, tools, sample, payer=payer)
        reply: Reply = yield request

        # A server without native tools: describe them in the prompt. From the first turn again, since a server may
        # accept the tools and then refuse the messages that carry their results. It happens once, as text needs no
        # native tools.
        if agent.calling == "auto" and tool_calls.is_tools_refusal(reply, request):
            is_text, prompt = True, tool_calls.add_call_instructions(messages, agent.tools)
            steps.clear()
            continue
        if reply.failed:
            return finish(reply.stop, reply.error)

        completion = reply.message
        if is_text and agent.tools:
            completion = tool_calls.parse_calls(completion, len(steps))
        steps.append(Step(prompt, completion, reply.usage, reply.latency, reply.tokens))
        if not completion.tool_calls:
            return finish(reply.stop)

        # All calls of a turn run at once; results keep the order of the calls.
        results = yield [
            tool_calls.execute_call(agent.tools, call, number) for call, number in tool_calls.number_calls(steps)[-1]
        ]
        subrollouts = tuple(result for result in results if isinstance(result, Rollout))
        steps[-1] = replace(steps[-1], subrollouts=subrollouts)
        answers = [
            tool_calls.render_result(call, result, is_text)
            for call, result in zip(completion.tool_calls, results, strict=True)
        ]
        # `reply.message`, not `completion`: calls in text stand in the content already.
        prompt = (*prompt, reply.message, *answers)
    return finish("turns")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages of a rollout, and the version of the library in them."""

    messages: tuple[Message, ...]
    version: str = ""


def run_rollouts(
    agent: Agent,
    example: Example,
    prompts: Sequence[Prompt],
    reward: Reward,
    *,
    judge: str,
    seed: int,
    start: int = 0,
    together: bool = False,
) -> Plan[tuple[Rollout, ...]]:
    """
    Run a rollout for each prompt, grade it as soon as it ends, and emit `RolloutFinished`.

    Sample indices count from `start`. Each rollout has a seed derived from `seed`, the example and its index. With
    `together`, rollouts are graded against each other, where the reward can.
    """

    def grade(plan: Plan[Rollout]) -> Plan[Rollout]:
        rollout = yield from plan
        score = yield from reward.grade(example, rollout, judge)
        graded = replace(rollout, score=score)
        yield RolloutFinished(graded)
        return graded

    plans = [
        run_rollout(agent, example, prompt.messages, sample=sample, seed=derive_seed(seed, example.id, sample))
        for sample, prompt in enumerate(prompts, start)
    ]
    if not (together and reward.grade_group):
        rollouts = yield [grade(plan) for plan in plans]
    else:
        # A comparison needs all answers, so no rollout is graded before the last one ends.
        ungraded = yield plans
        scores = yield from reward.grade_group(example, ungraded, judge)
        rollouts = [replace(rollout, score=score) for rollout, score in zip(ungraded, scores, strict=True)]
        for rollout in rollouts:
            yield RolloutFinished(rollout)
    if agent.world:
        check_equal_starts(agent.world, rollouts)
    return tuple(replace(rollout, version=prompt.version) for prompt, rollout in zip(prompts, rollouts, strict=True))


def run_group(
    agent: Agent,
    example: Example,
    messages: tuple[Message, ...],
    reward: Reward,
    *,
    judge: str,
    size: int,
    seed: int,
    version: str = "",
) -> Plan[Group]:
    """Run `size` graded rollouts of one example with the same prompt."""
    prompts = [Prompt(messages, version)] * size
    rollouts = yield from run_rollouts(agent, example, prompts, reward, judge=judge, seed=seed)
    return Group(example, agent.role, rollouts)
