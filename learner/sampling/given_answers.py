"""Answers that nobody drew, as rollouts that the policy learns from: references and listed candidates."""

from collections.abc import Callable
from dataclasses import replace
from math import nan

from edgewise.learner.policy.policy import Policy
from edgewise.toolkit.groups.sampling.rollout_plan import OFFLINE_VERSION, ScoreGivenAnswer
from edgewise.toolkit.reward.reward import Reward
from edgewise.toolkit.types import TokenizedTurn, Example, Message, Plan, Rollout, Step


def giving(policy: Callable[[], Policy], reward: Reward, judge: str, role: str) -> ScoreGivenAnswer:
    """
    What `toolkit.groups.sampling.rollout_plan.SamplingRequest.give` is: the answer as the policy would write it, ended and graded.

    Its log-probabilities are NaN, for nobody drew it: where a ratio is taken, the policy before the update did.
    """

    def give(example: Example, answer: str) -> Plan[Rollout]:
        encoded = written(policy(), example, answer)
        step = Step(example.messages, Message("assistant", answer), tokens=encoded)
        run = Rollout(example.id, role, 0, (step,), "stop", version=OFFLINE_VERSION)
        score = yield from reward.grade(example, run, judge)
        return replace(run, score=score)

    return give


def written(policy: Policy, example: Example, answer: str) -> TokenizedTurn:
    """Prompt and answer in tokens, with the one that ends a reply, where the tokenizer has it."""
    tokenizer = policy.tokenizer
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    reply = (*tokenizer.encode(answer, add_special_tokens=False), *end)
    return TokenizedTurn(policy.encode(example.messages), reply, (nan,) * len(reply))
