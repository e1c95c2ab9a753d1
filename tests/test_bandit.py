"""The softmax policy that benches train in the place of a language model."""

from itertools import product

import numpy as np
import pytest
import torch

from bench.simulated.bandit import END, Softmax, features, logps
from edgewise.learner.methods.batch import Batch
from edgewise.toolkit.groups.sampling.hints import HINTS_HEADER, add_hints
from edgewise.toolkit.types import Example, Message

LETTERS = "ab"


@pytest.fixture
def policy() -> Softmax:
    made = Softmax(["r1", "r2", "0a"], LETTERS, 3)
    made.tables[:] = np.random.default_rng(0).normal(size=made.tables.shape)
    return made


def asked(policy: Softmax, text: str) -> tuple[int, ...]:
    return policy.encode([Message("user", text)])


def test_sampled_logprobs_equal_those_of_the_update(policy) -> None:
    prompts = [asked(policy, "r1"), asked(policy, "r2" + HINTS_HEADER + "- ab")]
    drawn = [each for prompt in prompts for each in policy.sample(prompt, 50, np.random.default_rng(1))]
    batch = Batch.from_lists([x.prompt_ids for x in drawn], [x.completion_ids for x in drawn], [0] * 100, [0.0] * 100)
    found = logps(policy, batch)[0].sum(1).tolist()
    assert found == pytest.approx([sum(x.logprobs) for x in drawn], abs=1e-5)


def test_chances_and_lengths_are_those_of_its_draws(policy) -> None:
    prompt = asked(policy, "r1")
    drawn = policy.sample(prompt, 20_000, np.random.default_rng(2))
    ended = [policy.tokenizer.decode(x.completion_ids) for x in drawn if x.completion_ids[-1] == END]
    assert policy.chance(prompt, ["ab", "b"]) == pytest.approx(
        sum(word in ("ab", "b") for word in ended) / len(drawn), abs=0.015
    )
    assert policy.length_of(prompt) == pytest.approx(np.mean([len(x.completion_ids) for x in drawn]), abs=0.02)
    words = ["".join(each) for count in range(3) for each in product(LETTERS, repeat=count)]
    assert policy.chance(prompt, words) == pytest.approx(len(ended) / len(drawn), abs=0.015)


def test_learning_with_a_hint_moves_the_row_without_it(policy) -> None:
    row = Example("r1", (Message("user", "r1"),))
    hinted = policy.encode(add_hints(row, ["a"]).messages)
    batch = Batch.from_lists([hinted], [[1, END]], [0], [1.0])
    before = policy.chance(asked(policy, "r1"), ["a"])
    (-logps(policy, batch)[0].sum()).backward()
    torch.optim.SGD(policy.parameters(), 0.1).step()
    assert policy.chance(asked(policy, "r1"), ["a"]) > before
    assert not policy.weights[0].any()


def test_a_prompt_is_its_question_and_what_is_shown() -> None:
    solved = "Question: r5 k1\nAnswer: ba\n\n"
    assert features(solved + "r1 k1" + HINTS_HEADER + "- ab") == ["r1", "k1", "0b", "1a", "0a", "1b"]
