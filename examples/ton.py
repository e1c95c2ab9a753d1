"""
TON, Think or Not (arXiv 2505.16854), on text: a model learns when a question needs a thought before the answer.

    python examples/ton.py                   SmolLM2-135M counts words of a kind; --quick is too short to learn much
    python examples/ton.py --run runs/ton    resumes a stopped run from its current stage

0. Reverse thinking: the model receives question and answer, and writes the thought between them.
1. Thought dropout: it imitates <think>thought</think><answer>...</answer>, where half of the thoughts are two newlines.
2. GRPO, with a point for this form, an empty thought included, and one for the right answer; none for skipping.

The script prints figures of held-out rows, easy ones of two words and hard ones of five. It is a small version of the
method and has no number of the paper, whose models of 3B and 7B process pictures and write useful thoughts. Learning
rates are higher here, for a small model. That of stage 1 is constant; the paper's decays as a cosine.
"""

import argparse
import random
import re
import tempfile
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from edgewise import Event, Message, Task, train
from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.generate import CompletionRequest, sample
from edgewise.learner.update.imitation import Demonstration, imitate
from edgewise.toolkit.tracking.events import StepFinished

KINDS = {
    "animals": "cat dog horse cow sheep goat pig rabbit mouse lion tiger bear wolf fox deer".split(),
    "colours": "red blue green yellow black white pink brown orange purple grey violet".split(),
    "foods": "bread rice cheese soup cake pasta butter salad pizza bacon honey sugar".split(),
}
EASY, HARD, HELD_OUT = 2, 5, 48  # words of an easy and of a hard row, and rows to measure on
PROMPT = "{question} Answer as <think>your thought</think><answer>the number</answer>."
REVERSE = "{question} The answer is {target}. Explain briefly how to find it."
FORM = re.compile(r"<think>(.*?)</think>\s*<answer>(.*?)</answer>", re.DOTALL)
THOUGHT, LONGEST = 32, 56  # tokens
DROPPED, EPOCHS, RATE = 0.5, 2, 3e-5  # share of dropped thoughts; passes and learning rate of stage 1


class Row(NamedTuple):
    question: str
    target: str
    size: int


def make_puzzles(count: int, seed: int) -> list[Row]:
    """Return easy and hard rows in turn; all right answers are equally likely."""
    rng, rows = random.Random(seed), []
    for i in range(count):
        size, kind = (EASY, HARD)[i % 2], rng.choice(list(KINDS))
        right = rng.randint(0, size)
        others = [word for name, words in KINDS.items() if name != kind for word in words]
        words = rng.sample(KINDS[kind], right) + rng.sample(others, size - right)
        rng.shuffle(words)
        rows.append(Row(f"How many of these are {kind}: {', '.join(words)}?", str(right), size))
    return rows


def graded(completion: str, target: str) -> float:
    """Return 1 point for the form and 1 for the right answer in it."""
    form = FORM.fullmatch(completion.strip())
    return 1.0 + (form[2].strip() == target) if form else 0.0


def sample_replies(policy: Policy, prompts: list[str], longest: int, temperature: float) -> list[tuple[str, int]]:
    """Return the reply to each prompt, and its number of tokens."""
    encoded = [policy.encode([Message("user", prompt)]) for prompt in prompts]
    drawn = sample(policy, [CompletionRequest(ids, longest, temperature, seed=i) for i, ids in enumerate(encoded)])
    return [(policy.decode(x.ids).strip(), len(x.ids)) for x in drawn]


def show(stage: str, weights: str) -> None:
    """Print figures of easy and of hard held-out rows."""
    rows = make_puzzles(HELD_OUT, seed=1)
    answers = sample_replies(Policy.load(weights), [PROMPT.format(question=row.question) for row in rows], LONGEST, 1.0)
    for name, size in (("easy", EASY), ("hard", HARD)):
        mine = [(row, *each) for row, each in zip(rows, answers, strict=True) if row.size == size]
        forms = [FORM.fullmatch(text) for _, text, _ in mine]
        figures = {
            "right": mean(graded(text, row.target) == 2 for row, text, _ in mine),
            "in the form": mean(form is not None for form in forms),
            "without a thought": mean(form is not None and not form[1].strip() for form in forms),
            "tokens": mean(count for *_, count in mine),
        }
        print(f"{stage}, {name}:", ", ".join(f"{x} {y:.2f}" for x, y in figures.items()), flush=True)


def reverse_thinking(policy: Policy, rows: list[Row]) -> list[str]:
    """Stage 0: return the model's own thought for each row."""
    thoughts = sample_replies(policy, [REVERSE.format(**row._asdict()) for row in rows], THOUGHT, temperature=0.7)
    print(f"a thought: {thoughts[0][0]!r}", flush=True)
    return [text.replace("<", "") for text, _ in thoughts]


def imitate_thoughts(model: str, rows: list[Row], folder: Path) -> None:
    """Stage 1: imitate thoughts and answers, and save the weights in `folder`."""
    policy, rng, pairs = Policy.load(model), random.Random(2), []
    thoughts = reverse_thinking(policy, rows)
    for row, thought in list(zip(rows, thoughts, strict=True)) * EPOCHS:
        thought = "\n\n" if rng.random() < DROPPED else thought
        text = f"<think>{thought}</think><answer>{row.target}</answer>"
        ids = policy.tokenizer.encode(text, add_special_tokens=False)
        prompt = policy.encode([Message("user", PROMPT.format(question=row.question))])
        pairs.append(Demonstration(prompt, (*ids, policy.tokenizer.eos_token_id)))
    losses = imitate(policy, policy.create_optimizer(lr=RATE), pairs)
    print(f"imitation: {losses[0]:.2f} nats a token at first, {losses[-1]:.2f} at last", flush=True)
    policy.save(folder.with_suffix(".part"))
    folder.with_suffix(".part").rename(folder)


def reinforce(model: str, rows: list[Row], steps: int, run: Path) -> None:
    """Stage 2: GRPO, as in `edgewise improve --by weights`."""
    split = {"train": [row._asdict() for row in rows], "test": [row._asdict() for row in make_puzzles(8, seed=1)]}
    task = Task.from_rows(split, prompt=PROMPT, reward=graded, name="counting")
    settings = {"steps": steps, "batch_size": 4, "group_size": 8, "max_tokens": LONGEST, "lr": 1e-5}
    train(task, model=model, method="grpo", run=run, on_event=on_event, force=True, **settings)


def on_event(event: Event) -> None:
    if isinstance(event, StepFinished):
        print(event.record.summary(), flush=True)


def main() -> None:
    """Run the three stages, and print the figures after each."""
    parser = argparse.ArgumentParser(description="TON on text, stage by stage")
    parser.add_argument("--model", default="smollm2-135m", help="an embedded model, or a folder of one")
    parser.add_argument("--rows", type=int, default=160, help="rows to learn from")
    parser.add_argument("--steps", type=int, default=30, help="steps of GRPO")
    parser.add_argument("--run", type=Path, help="folder for the weights of all stages")
    parser.add_argument("--quick", action="store_true", help="16 rows, 2 steps")
    options = parser.parse_args()
    count, steps = (16, 2) if options.quick else (options.rows, options.steps)
    rows = make_puzzles(count, seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        first, second = ((options.run or Path(scratch)) / name for name in ("dropout", "grpo"))
        show("before", options.model)
        if not first.is_dir():
            imitate_thoughts(options.model, rows, first)
        show("after thought dropout", str(first))
        reinforce(f"torch/{first.resolve()}", rows, steps, second)
        show("after GRPO", str(second / "weights"))


if __name__ == "__main__":
    main()
