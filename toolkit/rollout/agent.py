"""
The turn loop of an agent, as a plan: ask, use the tools that were called, ask again.

A model that calls tools natively is served natively. One that does not is told in words how to call them
(`by_text`), and its answer is read for such calls; with "auto" words are used once a server refuses tools.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgewise.toolkit.environments.protocol import World
from edgewise.toolkit.reward.reward import Reward
from edgewise.toolkit.rollout.episode import check_equal_starts, run_episode
from edgewise.toolkit.rollout.tool_calls import (
    CallFormat,
    Delegation,
    parse_calls,
    is_tools_refusal,
    execute_call,
    render_result,
    number_calls,
    add_call_instructions,
)
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
    Tool,
)
from edgewise.toolkit.util.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Agent:
    """
    How a model is run on an example: its name, sampling, tools and the most turns it may take, and its world.

    `role` is the name under which its runs are grouped; `payer` the role they are booked on.
    """

    model: str
    sampling: Sampling = Sampling()
    tools: tuple[FunctionTool | Delegation, ...] = ()
    turns: int = 50
    calling: CallFormat = "auto"
    role: str = "solver"
    payer: str = "rollout"
    world: World | None = None


def run_rollout(
    agent: Agent, example: Example, messages: tuple[Message, ...], *, sample: int, seed: int
) -> Plan[Rollout]:
    """
    One run of `agent` on `messages`: until it answers without a tool call, fails, or is out of turns.

    One that has a world acts in it instead, see `toolkit.rollout.episode`.
    """
    payer = BilledTo(agent.payer, example=example.id)
    if agent.world:
        blank = Rollout(example.id, agent.role, sample, (), "stop", seed=seed)

        def ask(seen: tuple[Message, ...], turn: int) -> Request:
            # A seed for each turn: with one for all, who comes back to a state would do the same again for ever.
            return _request(agent, seen, sample, derive_seed(seed, turn), payer, True)

        return (yield from run_episode(agent.world, ask, example, messages, turns=agent.turns, blank=blank))
    steps: list[Step] = []
    by_text = agent.calling == "text"
    seen = add_call_instructions(messages, agent.tools) if by_text else messages

    def ended(stop: StopReason, error: str = "") -> Rollout:
        return Rollout(example.id, agent.role, sample, tuple(steps), stop, seed=seed, error=error)

    while len(steps) < agent.turns:
        request = _request(agent, seen, sample, seed, payer, by_text)
        reply: Reply = yield request
        if is_tools_refusal(reply, request) and agent.calling == "auto":
            # From the start again: a server may take the tools and then refuse the messages that answer them.
            by_text, seen = True, add_call_instructions(messages, agent.tools)
            steps.clear()
            continue
        if reply.failed:
            return ended(reply.stop, reply.error)
        said = parse_calls(reply.message, len(steps)) if by_text and agent.tools else reply.message
        steps.append(Step(seen, said, reply.usage, reply.latency, reply.tokens))
        if not said.tool_calls:
            return ended(reply.stop)
        results = yield [execute_call(agent.tools, call, number) for call, number in number_calls(steps)[-1]]
        calls = tuple(result for result in results if isinstance(result, Rollout))
        steps[-1] = replace(steps[-1], subrollouts=calls)
        told = [render_result(call, result, by_text) for call, result in zip(said.tool_calls, results, strict=True)]
        seen = (*seen, reply.message, *told)
    return ended("turns")


def run_graded_rollout(
    agent: Agent,
    example: Example,
    messages: tuple[Message, ...],
    reward: Reward,
    *,
    judge: str,
    sample: int,
    seed: int,
) -> Plan[Rollout]:
    """A rollout that is graded as soon as it ends, and noted."""
    run = yield from run_rollout(agent, example, messages, sample=sample, seed=seed)
    score = yield from reward.grade(example, run, judge)
    graded = replace(run, score=score)
    yield RolloutFinished(graded)
    return graded


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one run is asked, and the version of what it was dressed with."""

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
    A graded run for each prompt, with the sample indices from `start` on.

    Each has a seed made of `seed`, the row and its index. `together` grades them against each other, where the
    reward can.
    """
    seeds = [derive_seed(seed, example.id, sample) for sample in range(start, start + len(prompts))]
    numbered = list(zip(prompts, seeds, range(start, start + len(prompts)), strict=True))
    if not (together and reward.grade_group):
        found = yield [
            run_graded_rollout(agent, example, prompt.messages, reward, judge=judge, sample=sample, seed=own)
            for prompt, own, sample in numbered
        ]
    else:
        plain = yield [
            run_rollout(agent, example, prompt.messages, sample=sample, seed=own)
            for prompt, own, sample in numbered
        ]
        scores = yield from reward.grade_group(example, plain, judge)
        found = [replace(run, score=score) for run, score in zip(plain, scores, strict=True)]
        for run in found:
            yield RolloutFinished(run)
    if agent.world:
        check_equal_starts(agent.world, found)
    return tuple(replace(run, version=p.version) for p, run in zip(prompts, found, strict=True))


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
    """`size` graded runs on one example, all asked the same."""
    prompts = [Prompt(messages, version)] * size
    return Group(
        example, agent.role, (yield from run_rollouts(agent, example, prompts, reward, judge=judge, seed=seed))
    )


def _request(
    agent: Agent, seen: tuple[Message, ...], sample: int, seed: int, payer: BilledTo, by_text: bool
) -> Request:
    tools: tuple[Tool, ...] = () if by_text else tuple(function.tool for function in agent.tools)
    return Request(agent.model, seen, replace(agent.sampling, seed=seed), tools, sample, payer=payer)
