"""
GRPO in one file: what `edgewise improve --by weights` does in every step, by the same functions, with nothing around it.

    python examples/grpo_in_one_file.py                       SmolLM2-135M learns to answer with one word
    python examples/grpo_in_one_file.py some/model/directory  any causal model with a chat template

A step: sample a group of replies for each question, grade them, compare each with its group, and make the tokens of
those that did better than the others more likely.
"""

import sys

import torch

from learner.batch import Batch, slices
from learner.forward import logps
from learner.loss import clipped
from learner.policy import Policy
from learner.sample import Ask, sample
from learner.update import tokens
from learner.weigh import per_sequence
from toolkit.groups.advantage import standardised
from toolkit.groups.table import Table
from toolkit.types import Message

QUESTIONS = {
    "Is a cat an animal, a fruit or a tool?": "animal",
    "Is an apple an animal, a fruit or a tool?": "fruit",
    "Is a hammer an animal, a fruit or a tool?": "tool",
    "Is a horse an animal, a fruit or a tool?": "animal",
}
GROUP, STEPS, LONGEST = 8, 12, 12


def reward(reply: str, right: str) -> float:
    """1 for the right word alone, something for a reply that is short, less for one that goes on."""
    return float(reply.strip(" .").lower() == right) or 0.2 / (1 + len(reply.split()))


def main(name: str = "smollm2-135m", steps: int = STEPS) -> list[float]:
    policy = Policy.load(name)
    optimizer = policy.optimizer(lr=2e-5)
    print(policy.chosen)
    means = []
    for step in range(1, steps + 1):
        # 1. Sample: every prompt is encoded once for its whole group.
        prompts = [policy.encode([Message("user", question)]) for question in QUESTIONS for _ in range(GROUP)]
        asks = [Ask(prompt, LONGEST, seed=1000 * step + i) for i, prompt in enumerate(prompts)]
        drawn = sample(policy, asks)

        # 2. Grade, and compare each reply with its group: A = (r - mean) / std.
        right = [answer for answer in QUESTIONS.values() for _ in range(GROUP)]
        rewards = [reward(policy.decode(x.ids), y) for x, y in zip(drawn, right, strict=True)]
        groups = [i // GROUP for i in range(len(asks))]
        advantage = standardised(Table.of(groups, rewards))

        # 3. Weigh every token once, on the whole batch; then go through it in slices that fit into memory.
        batch = Batch.of(prompts, [x.ids for x in drawn], groups, advantage.tolist())
        weights = per_sequence(batch)
        optimizer.zero_grad()
        for rows in slices(batch, tokens=4096):
            part = batch.rows(rows)
            logp, _ = logps(policy, part)
            x = tokens(part, logp)
            (clipped(x) * weights[rows, : logp.shape[1]] * x.mask).sum().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()

        means.append(sum(rewards) / len(rewards))
        print(f"step {step:2}: mean reward {means[-1]:.2f}; {policy.decode(drawn[0].ids)!r}")
    return means


if __name__ == "__main__":
    main(*sys.argv[1:2])
