"""
Skywork R1V2 in two stages (arXiv 2504.16656): preferences first (MPO), then GRPO with a buffer of selected samples.

    python examples/skywork_mpo.py                 SmolLM2-135M keeps sentences short; with --quick, too short to learn
    python examples/skywork_mpo.py --run runs/sky  a run that was stopped goes on from the stage that it was in

1. The model answers every training row several times. Two answers whose rewards differ are a pair, and steps on pairs
   descend on MPO's three losses: the chosen answer rather than the other, each by itself, and the chosen one written.
2. GRPO, where groups whose rewards are all equal make room for samples of earlier steps that had an advantage.

What is printed is the share of good sentences to words that no stage has seen. This is the method in small and no
number of the paper: there a rule and a reward model grade what a model of 38B says of pictures, and chosen and
rejected are 15 points of that reward model apart; here a rule grades a sentence as 1 or 0.
"""

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

from edgewise.learner import train
from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.generate import CompletionRequest, sample
from edgewise.learner.update.preference import prefer, ranked
from edgewise.toolkit import Task
from edgewise.toolkit.tracking.events import Event, StepFinished
from edgewise.toolkit.types import Message

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
"""Answers to a row, pairs of them at most, tokens of an answer, and the learning rate of both stages."""


def short(completion: str, word: str = "", **_: object) -> float:
    """1 for a whole sentence with the word and not too long, else 0."""
    said = completion.strip()
    return float(said[-1:] in (".", "!", "?") and len(said.split()) <= 8 and word.lower() in said.lower())


class Answered(NamedTuple):
    """A prompt, answers to it as token ids, and their rewards."""

    prompt: tuple[int, ...]
    answers: list[tuple[int, ...]]
    rewards: list[float]


def answered(policy: Policy, words: list[str], count: int, seed: int) -> list[Answered]:
    """Answers to each word, all drawn together."""
    prompts = [policy.encode([Message("user", PROMPT.format(word=word))]) for word in words]
    asks = [
        CompletionRequest(prompt, LONGEST, seed=seed + i)
        for i, prompt in enumerate(p for p in prompts for _ in range(count))
    ]
    drawn = [x.ids for x in sample(policy, asks)]
    groups = [drawn[i * count : (i + 1) * count] for i in range(len(words))]
    rewards = [[short(policy.decode(ids), word) for ids in g] for word, g in zip(words, groups, strict=True)]
    return [Answered(*each) for each in zip(prompts, groups, rewards, strict=True)]


def show(stage: str, weights: str) -> None:
    """Print the mean reward of four answers to each held-out word."""
    rewards = [
        r for each in answered(Policy.load(weights), WORDS[-HELD_OUT:], 4, seed=0) for r in each.rewards
    ]
    print(
        f"{stage}: {sum(rewards) / len(rewards):.3f} of {len(rewards)} held-out answers are right", flush=True
    )


def preferences(model: str, words: list[str], folder: Path) -> None:
    """Stage 1: learn from pairs of the model's own answers, and leave the weights in `folder`."""
    policy = Policy.load(model)
    own = answered(policy, words, ANSWERS, seed=10**6)
    pairs = [pair for i, each in enumerate(own) for pair in ranked(*each, gap=1.0, most=PAIRS, seed=i)]
    print(f"{len(pairs)} pairs of {len(words)} rows", flush=True)
    prefer(policy, policy.create_optimizer(lr=LR), pairs, watch=lambda x: print(f"  loss {x:.3f}", flush=True))
    policy.save(folder.with_suffix(".part"))
    folder.with_suffix(".part").rename(folder)


def buffered(model: str, words: list[str], steps: int, run: Path) -> None:
    """Stage 2: GRPO with the buffer, as `edgewise improve --by weights --set method=skywork_r1v2` does it."""
    rows = {
        "train": [{"word": word} for word in words],
        "test": [{"word": word} for word in WORDS[-HELD_OUT:]],
    }
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
    """Both stages, and what each brought."""
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
            preferences(options.model, words, first)
        show("after MPO", str(first))
        buffered(f"torch/{first.resolve()}", words, steps, second)
        show("after MPO and GRPO", str(second / "weights"))


if __name__ == "__main__":
    main()
