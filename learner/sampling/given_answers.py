"""Answers that no policy sampled, as rollouts to learn from: references and listed candidates."""

from collections.abc import Callable
from dataclasses import replace
from math import nan

from edgewise.learner.policy.policy import Policy
from edgewise.toolkit.groups.sampling.rollout_plan import OFFLINE_VERSION, ScoreGivenAnswer
from edgewise.toolkit.reward.reward import Reward
from edgewise.toolkit.types import Example, Message, Plan, Rollout, Step, TokenizedTurn


def create_answer_scorer(policy: Callable[[], Policy], reward: Reward, judge: str, role: str) -> ScoreGivenAnswer:
    """
    Return `SamplingRequest.score_answer`: a plan that tokenizes an answer, grades it, and returns it as a rollout.

    Its log-probabilities are NaN. Where an update needs a ratio, the policy before the update takes their place.
    """

    def score_answer(example: Example, answer: str) -> Plan[Rollout]:
        step = Step(example.messages, Message("assistant", answer), tokens=tokenize_answer(policy(), example, answer))
        rollout = Rollout(example.id, role, 0, (step,), "stop", version=OFFLINE_VERSION)
        score = yield from reward.grade(example, rollout, judge)
        return replace(rollout, score=score)

    return score_answer


def tokenize_answer(policy: Policy, example: Example, answer: str) -> TokenizedTurn:
    """Return prompt and answer in tokens, with the end token, if the tokenizer has one."""
    # The end token is learnt, too: without it the policy would not learn to stop after the answer.
    tokenizer = policy.tokenizer
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    completion = (*tokenizer.encode(answer, add_special_tokens=False), *end)
    return TokenizedTurn(policy.encode(example.messages), completion, (nan,) * len(completion))
