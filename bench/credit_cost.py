"""
What grouping and credit cost: one group of 16 rollouts of 10,000 steps each, against the update of that very batch.

Rollouts walk through a house whose views are texts of some 120 characters. `views` of them are different, and near ones
are alike; `apart` is the worst case for exact anchors, every step another text. Credit is timed through the learner's
own code: the table of the rollouts, advantage and credit of a method, then the batch; "credit" are the advantage and
the credit with its grouping alone. Times are the least of repeats.

The update is measured, not assumed: SmolLM2-135M, steps of 64 tokens read and 16 written, of which all with the same
prompt share its encoding; seconds of one step, times 160,000. That is short for a step of an agent, and sharing makes
it shorter, so the share is an upper one for this model on this machine.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import one_update
from common import quick, report

from edgewise.learner.methods.method import Method, compute_advantages, override
from edgewise.learner.methods.published import METHODS
from edgewise.learner.update import collate
from edgewise.toolkit.groups.sampling.rollout_plan import set_marks
from edgewise.toolkit.types import Example, Group, Message, Rollout, Score, Step, TokenizedTurn

RUNS, STEPS = 16, 10_000
VIEWS = 600
PROMPT, REPLY = 64, 16
BAR = "every one < 1 % of an update's time, gathering of rollouts included"
THINGS = "lamp chair table shelf clock mirror basket kettle blanket candle drawer window ladder bottle".split()
ROOMS = "kitchen cellar attic hall garden study pantry porch".split()
ACTIONS = tuple(f"go {way}" for way in ("north", "south", "east", "west", "up", "down"))


def views(count: int, rng: np.random.Generator) -> list[str]:
    """Texts, in families that differ in a word or two."""

    def view(number: int) -> str:
        room, base = ROOMS[number % len(ROOMS)], np.random.default_rng(number // 4)
        words = [str(word) for word in base.choice(THINGS, 6)]
        words[number % 6] = str(rng.choice(THINGS))
        return f"You are in the {room} of house {number // 40}. There you see a {', a '.join(words)}. Doors: {number}."

    return [view(number) for number in range(count)]


def walk(texts: Sequence[str], number: int, steps: int, rng: np.random.Generator) -> Rollout:
    """A rollout from view to near view."""
    places = np.cumsum(rng.integers(-3, 4, steps)) % len(texts)
    moves = rng.integers(0, len(ACTIONS), steps)
    encoded = TokenizedTurn(tuple(range(PROMPT)), tuple(range(REPLY)), (-1.0,) * REPLY)
    made = tuple(
        Step((Message("user", texts[place]),), Message("assistant", ACTIONS[move]), tokens=encoded)
        for place, move in zip(places.tolist(), moves.tolist(), strict=True)
    )
    parts = {f"step_reward {i}": float(reward) for i, reward in enumerate(rng.random(steps) < 0.01)}
    return Rollout("house", "solver", number, made, "stop", Score(float(rng.random() < 0.5), parts))


def apart(runs: Sequence[Rollout]) -> list[Rollout]:
    """The same, with another text in each step."""

    def other(run: Rollout, number: int, step: Step) -> Step:
        return replace(step, prompt=(Message("user", f"{step.prompt[-1].content} {run.sample} {number}"),))

    return [
        replace(run, steps=tuple(other(run, number, step) for number, step in enumerate(run.steps))) for run in runs
    ]


def delegated(runs: Sequence[Rollout]) -> list[Rollout]:
    """Each step as a run that its rollout delegated."""
    return [
        set_marks(
            replace(run, role="worker", steps=(step,), score=Score(float(number % 3 == 0))), share=1 / len(run.steps)
        )
        for run in runs
        for number, step in enumerate(run.steps)
    ]


def least(work: Callable[[], object], repeats: int) -> float:
    """Seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def members(runs: Sequence[Rollout]) -> list[collate.ScoredRollout]:
    return collate.collect_scored([Group(Example("house", ()), "solver", tuple(runs))])


def cost(runs: Sequence[Rollout], method: Method) -> None:
    """All that stands between finished rollouts and the update."""
    assert collate.build_batch(collate.assign_credit(members(runs), method)) is not None


def update_seconds(steps: int, repeats: int) -> float:
    """Of the update of so many steps, by that of 64."""
    done = one_update.run(side="ours", prompts=1, prompt=PROMPT, group=64, reply=REPLY, repeats=repeats)
    return min(done["seconds"]) / 64 * steps


def main() -> int:
    steps = STEPS // 10 if quick() else STEPS
    rng = np.random.default_rng(0)
    texts = views(VIEWS, rng)
    runs = [walk(texts, number, steps, rng) for number in range(RUNS)]
    likeness = override(METHODS["gigpo"], "credit.threshold=0.9")
    works = {
        "grpo (broadcast)": (list, METHODS["grpo"]),
        "gigpo, equal states": (list, METHODS["gigpo"]),
        "gigpo, all apart": (apart, METHODS["gigpo"]),
        "gigpo, alike": (list, likeness),
        "gigpo, alike, greedy": (list, override(likeness, "credit.greedy=true")),
        "salt": (list, METHODS["salt"]),
        "salt, all apart": (apart, METHODS["salt"]),
        "hrpo": (list, METHODS["hrpo"]),
        "m_grpo": (delegated, METHODS["m_grpo"]),
    }
    update, found = update_seconds(RUNS * steps, 1 if quick() else 3), {}
    print(f"an update of {RUNS} x {steps} steps of {PROMPT} + {REPLY} tokens: {update:,.0f} s")
    print(f"{'':24}{'all':>8}  {'credit':>8}     share of all")
    for name, (dressed, method) in works.items():
        given, repeats = dressed(runs), 1 if quick() else 2
        seconds = least(partial(cost, given, method), repeats)
        credit = least(partial(compute_advantages, method, collate.build_table(members(given), method)), repeats)
        found[name] = {
            "seconds": round(seconds, 2),
            "credit_seconds": round(credit, 2),
            "percent": round(100 * seconds / update, 3),
        }
        print(f"{name:24}{seconds:8.2f} s{credit:8.2f} s {seconds / update:9.3%}", flush=True)
    figures = {"update_seconds": round(update), "views": VIEWS, **found}
    return report("credit_cost", figures, BAR, all(each["percent"] < 1 for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
