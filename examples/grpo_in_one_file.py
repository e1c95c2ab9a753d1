"""
GRPO in one file: a step of `edgewise improve --by weights`, with the same functions and nothing around them.

    python examples/grpo_in_one_file.py                       SmolLM2-135M learns to keep its sentences short
    python examples/grpo_in_one_file.py some/model/directory  any causal model with a chat template

A step samples a group of replies to each question, grades them, and compares each with its group. Then it makes the
tokens of the better replies more likely.
"""

import sys

import torch

from edgewise.learner.attention.logprobs import compute_logps
from edgewise.learner.methods.batch import Batch, split_into_slices
from edgewise.learner.methods.losses import clipped
from edgewise.learner.methods.token_weights import per_sequence
from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.generate import CompletionRequest, sample
from edgewise.learner.update.gradient_step import build_loss_inputs
from edgewise.toolkit.groups.advantage import standardised
from edgewise.toolkit.groups.table import Table
from edgewise.toolkit.types import Message

WORDS = ("cat", "bread", "Norway", "hammer", "river", "music")
QUESTION = 'Write one sentence of at most eight words with the word "{}".'
GROUP, STEPS, LONGEST = 8, 15, 20


def reward(reply: str, word: str) -> float:
    """Return 1 for a whole short sentence with the word, else 0."""
    return float(reply.strip()[-1:] in (".", "!", "?") and len(reply.split()) <= 8 and word in reply)


def main(name: str = "smollm2-135m", steps: str = str(STEPS)) -> None:
    policy = Policy.load(name)
    optimizer = policy.create_optimizer(lr=1e-5)
    print(policy.summary)
    for step in range(1, int(steps) + 1):
        # 1. Sample. Every prompt is encoded once for its whole group.
        words = [word for word in WORDS for _ in range(GROUP)]
        prompts = [policy.encode([Message("user", QUESTION.format(word))]) for word in words]
        asks = [CompletionRequest(prompt, LONGEST, seed=1000 * step + i) for i, prompt in enumerate(prompts)]
        drawn = sample(policy, asks)

        # 2. Grade, and compare each reply with its group: A = (r - mean) / std (arXiv 2402.03300).
        rewards = [reward(policy.decode(x.ids), word) for x, word in zip(drawn, words, strict=True)]
        groups = [i // GROUP for i in range(len(asks))]
        advantage = standardised(Table.from_arrays(groups, rewards))

        # 3. Weigh every token once, on the whole batch; then run slices that fit into memory.
        batch = Batch.from_lists(prompts, [x.ids for x in drawn], groups, advantage.tolist())
        weights = per_sequence(batch)
        optimizer.zero_grad()
        for rows in split_into_slices(batch, tokens=4096):
            part = batch.select_rows(rows)
            logp, _ = compute_logps(policy, part)
            values = clipped(build_loss_inputs(part, logp))
            (values * weights[rows, : values.shape[1]]).sum().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        print(f"step {step:2}: mean reward {sum(rewards) / len(rewards):.2f}; {policy.decode(drawn[0].ids)!r}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
