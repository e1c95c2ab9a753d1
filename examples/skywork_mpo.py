"""
Skywork R1V2 in two stages (arXiv 2504.16656): preferences first (MPO), then GRPO with a buffer of selected samples.

    python examples/skywork_mpo.py                 SmolLM2-135M learns short sentences; --quick is too short to learn
    python examples/skywork_mpo.py --run runs/sky  resumes a stopped run from its current stage

1. MPO. The model answers every training row several times. Two answers with different rewards are a pair. Steps on
   pairs descend on three losses: prefer the chosen answer, classify each by itself, and write the chosen one.
2. GRPO with a buffer. Samples of earlier steps with an advantage replace groups whose rewards are all equal.

The script prints the share of good sentences for words that no stage has used. It is a small version of the method and
has no number of the paper. There, a rule and a reward model grade answers of a 38B model about pictures, and chosen and
rejected answers are 15 points of that reward model apart. Here, a rule grades a sentence as 1 or 0.
"""

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

from edgewise import Event, Message, Task, train
from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.generate import CompletionRequest, sample
from edgewise.learner.update.preference import prefer, rank_answers
from edgewise.toolkit.tracking.events import StepFinished

WORDS = """
    cat bread Norway hammer river music dog horse cow sheep goat pig rabbit mouse lion tiger bear wolf fox deer
    cheese butter rice soup salad apple banana orange lemon pear cherry potato tomato carrot cake cookie honey sugar
    Germany Italy Spain Greece Poland Sweden Egypt Kenya India China Japan Canada Mexico Brazil Chile Peru Cuba saw
    axe shovel ladder knife broom chair table window door garden mountain forest island ocean bridge tower castle
    village market school doctor teacher farmer pilot singer baker winter summer morning evening letter picture
""".split()
HELD_OUT = 24
PROMPT = 'Write one sentence of at most eight words with the word "{word}".'
ANSWERS, PAIRS, LONGEST, LR = 8, 2, 20, 1e-5
"""Answers per row, maximum pairs per row, tokens per answer, and the learning rate of both stages."""


def short(completion: str, word: str = "", **_: object) -> float:
    """Return 1 for a whole short sentence with the word, else 0."""
    text = completion.strip()
    return float(text[-1:] in (".", "!", "?") and len(text.split()) <= 8 and word.lower() in text.lower())


class AnsweredPrompt(NamedTuple):
    """A prompt, answers to it as token ids, and their rewards."""

    prompt: tuple[int, ...]
    answers: list[tuple[int, ...]]
    rewards: list[float]


def sample_answers(policy: Policy, words: list[str], count: int, seed: int) -> list[AnsweredPrompt]:
    """Return graded answers to each word, all sampled in one batch."""
    prompts = [policy.encode([Message("user", PROMPT.format(word=word))]) for word in words]
    asks = [
        CompletionRequest(prompt, LONGEST, seed=seed + i)
        for i, prompt in enumerate(p for p in prompts for _ in range(count))
    ]
    drawn = [x.ids for x in sample(policy, asks)]
    groups = [drawn[i * count : (i + 1) * count] for i in range(len(words))]
    rewards = [[short(policy.decode(ids), word) for ids in g] for word, g in zip(words, groups, strict=True)]
    return [AnsweredPrompt(*each) for each in zip(prompts, groups, rewards, strict=True)]


def show(stage: str, weights: str) -> None:
    """Print the mean reward of four answers to each held-out word."""
    rewards = [r for each in sample_answers(Policy.load(weights), WORDS[-HELD_OUT:], 4, seed=0) for r in each.rewards]
    print(f"{stage}: {sum(rewards) / len(rewards):.3f} of {len(rewards)} held-out answers are right", flush=True)


def learn_preferences(model: str, words: list[str], folder: Path) -> None:
    """Stage 1: learn from pairs of the model's own answers, and save the weights in `folder`."""
    policy = Policy.load(model)
    own = sample_answers(policy, words, ANSWERS, seed=10**6)
    pairs = [pair for i, each in enumerate(own) for pair in rank_answers(*each, gap=1.0, most=PAIRS, seed=i)]
    print(f"{len(pairs)} pairs of {len(words)} rows", flush=True)
    prefer(policy, policy.create_optimizer(lr=LR), pairs, on_loss=lambda x: print(f"  loss {x:.3f}", flush=True))
    policy.save(folder.with_suffix(".part"))
    folder.with_suffix(".part").rename(folder)


def train_with_buffer(model: str, words: list[str], steps: int, run: Path) -> None:
    """Stage 2: GRPO with the buffer, as in `edgewise improve --by weights --set method=skywork_r1v2`."""
    rows = {"train": [{"word": word} for word in words], "test": [{"word": word} for word in WORDS[-HELD_OUT:]]}
    train(
        Task.from_rows(rows, prompt=PROMPT, target="", reward=short, name="sentences"),
        model=model,
        method="skywork_r1v2",
        steps=steps,
        batch_size=min(8, len(words)),
        group_size=ANSWERS,
        max_tokens=LONGEST,
        lr=LR,
        force=True,
        run=run,
        on_event=on_event,
    )


def on_event(event: Event) -> None:
    if isinstance(event, StepFinished):
        print(event.record.summary(), flush=True)


def main() -> None:
    """Run both stages, and print the score after each."""
    parser = argparse.ArgumentParser(description="MPO, then GRPO with a buffer")
    parser.add_argument("--model", default="smollm2-135m", help="an embedded model, or a folder of one")
    parser.add_argument("--rows", type=int, default=48, help="words to learn from")
    parser.add_argument("--steps", type=int, default=15, help="steps of the second stage")
    parser.add_argument("--run", type=Path, help="folder for the weights of both stages")
    parser.add_argument("--quick", action="store_true", help="8 words, 2 steps")
    options = parser.parse_args()
    rows, steps = (8, 2) if options.quick else (options.rows, options.steps)
    words = WORDS[:-HELD_OUT][:rows]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.run or Path(scratch)
        first, second = folder / "mpo", folder / "grpo"
        show("before", options.model)
        if not first.is_dir():
            learn_preferences(options.model, words, first)
        show("after MPO", str(first))
        train_with_buffer(f"torch/{first.resolve()}", words, steps, second)
        show("after MPO and GRPO", str(second / "weights"))


if __name__ == "__main__":
    main()
