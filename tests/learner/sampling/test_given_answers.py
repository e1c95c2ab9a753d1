"""Answers that nobody drew: their tokens, their place in a batch, and that they are learned from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgewise.learner.methods.published import find_method
from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.given_answers import create_answer_scorer, tokenize_answer
from edgewise.learner.update import collate
from edgewise.learner.update.gradient_step import UpdateConfig, compute_logps, update
from edgewise.toolkit.groups.sampling import rollout_plan
from edgewise.toolkit.groups.sampling.rollout_plan import SamplingRequest
from edgewise.toolkit.reward.reward import resolve_reward
from edgewise.toolkit.types import Example, Message, Rollout, Score, Step, TokenizedTurn
from tests.support.plans import play

ROW = Example("a", (Message("user", "What is 6 x 7?"),), "42", {"candidates": ["42", "41", "forty"]})


@pytest.fixture
def policy(folder: Path) -> Policy:
    return Policy.load(str(folder), device="cpu", dtype="float64")


def nobody(request):
    raise AssertionError("no model is asked here")


def build_request(policy: Policy) -> SamplingRequest:
    def draw(example, start, count):
        encoded = TokenizedTurn(policy.encode(example.messages), (65, 257), (-5.0, -5.0))
        step = Step(example.messages, Message("assistant", "A"), tokens=encoded)
        return tuple(Rollout("a", "solver", start + n, (step,), "stop", Score(0.0)) for n in range(count))
        yield

    give = create_answer_scorer(lambda: policy, resolve_reward("exact"), "", "solver")
    return SamplingRequest((ROW,), 1, 3, draw, give)


def test_tokens_of_an_answer_include_the_end_token(policy: Policy) -> None:
    result = tokenize_answer(policy, ROW, "42")
    assert policy.decode(result.completion_ids) == "42" and result.completion_ids[-1] in policy.stop_ids
    assert result.prompt_ids == policy.encode(ROW.messages)
    assert np.isnan(result.logprobs).all() and len(result.logprobs) == len(result.completion_ids)


@pytest.mark.parametrize("name", ["grao", "dagrpo"])
def test_a_reference_is_learned_from_where_all_failed(policy: Policy, name: str) -> None:
    method = find_method(name)
    groups = play(method.plan(build_request(policy)), nobody)
    batch = collate.build_batch(collate.assign_credit(collate.collect_scored(groups), method))
    assert batch is not None and len(batch) == 4
    reference = batch.select_rows([3])

    def likely() -> float:
        with torch.no_grad():
            return float(compute_logps(policy, reference)[0].sum())

    before = likely()
    done = update(
        policy, torch.optim.SGD(policy.parameters(), lr=0.05), method, batch, UpdateConfig(), torch.Generator()
    )
    assert done.steps == 1 and likely() > before


def test_listed_answers_are_graded_and_compared(policy: Policy) -> None:
    method = find_method("rift")
    groups = play(method.plan(build_request(policy)), nobody)
    result = collate.collect_scored(groups)
    assert [member.reward for member in result] == [1, 0, 0]
    known = collate.assign_credit(result, method)
    assert known.credit == pytest.approx([2**0.5, -(0.5**0.5), -(0.5**0.5)], abs=1e-4)
    batch = collate.build_batch(known)
    assert batch is not None
    done = update(
        policy, torch.optim.SGD(policy.parameters(), lr=0.05), method, batch, UpdateConfig(), torch.Generator()
    )
    assert done.steps == 1


def test_plan_without_offline_answers_needs_no_scorer(policy: Policy) -> None:
    assert len(play(rollout_plan.fixed(build_request(policy)), nobody)[0].rollouts) == 3
