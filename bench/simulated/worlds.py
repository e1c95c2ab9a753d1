"""Worlds that the softmax policy is trained in: words, a path of steps, a planner with workers, a game of two."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from simulated.bandit import Softmax
from simulated.training import said, scored

from edgewise.toolkit.types import Example, Message, Rollout, Step

LETTERS = "abcdefg"
HINT = 3.0
"""Logits that a letter in view adds to the letter in its place."""
Start = Callable[[Softmax, np.random.Generator], None]


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def blank(names: Sequence[str], letters: str, length: int, *, end: float, hint: float = HINT) -> Softmax:
    """A policy that ends a reply with `end` more logits than a letter, from the second place on, and reads hints."""
    views = {f"{place}{letter}": (place, letter) for place in range(length) for letter in letters}
    made = Softmax([*names, *views], letters, length)
    for name in names:
        made.table(name)[1:, :, 0] += end
    for name, (place, letter) in views.items():
        made.table(name)[place, :, 1 + letters.index(letter)] += hint
    return made


# ---- words -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """
    One reply to a row: right if it is one of `right`, by row, and ended. `start` sets the logits of a new policy.

    The policy tells prompts by `names`, by all words of the rows where there are none, and by what is shown.
    """

    rows: tuple[Example, ...]
    right: Mapping[str, tuple[str, ...]]
    start: Start
    letters: str = LETTERS
    length: int = 3
    end: float = 2.0
    hint: float = HINT
    names: tuple[str, ...] = ()

    def policy(self, rng: np.random.Generator) -> Softmax:
        words = dict.fromkeys(word for row in self.rows for word in row.messages[-1].content.split())
        made = blank(self.names or tuple(words), self.letters, self.length, end=self.end, hint=self.hint)
        self.start(made, rng)
        return made

    def runs(self, policy: Softmax, example: Example, count: int, rng: np.random.Generator) -> list[Rollout]:
        drawn = policy.sample(policy.encode(example.messages), count, rng)
        decode = policy.tokenizer.decode
        return [self.graded(example, said(example, decode(each.completion_ids), each)) for each in drawn]

    def graded(self, example: Example, run: Rollout) -> Rollout:
        return scored(run, float(run.stop == "stop" and run.answer in self.right[example.id]))

    def rates(self, policy: Softmax, rows: Sequence[Example] = ()) -> np.ndarray:
        """(rows,) the exact chance of a right reply."""
        chosen = rows or self.rows
        return np.array([policy.chance(policy.encode(row.messages), self.right[row.id]) for row in chosen])

    def worth(self, policy: Softmax) -> float:
        return float(self.rates(policy).mean())


def first_letter(count: int = 12) -> Words:
    """Rows that want a letter at the beginning; about every seventh reply is right, more or less by row."""
    tails = ("", *LETTERS)
    goals = {f"r{i}": LETTERS[i % len(LETTERS)] for i in range(count)}

    def start(policy: Softmax, rng: np.random.Generator) -> None:
        for name in goals:
            policy.table(name)[0] += rng.normal(0, 1, len(LETTERS) + 1)

    def row(name: str, goal: str) -> Example:
        told = {
            "reference": goal,
            "candidates": list(LETTERS),
            "hints": {tier: [goal] for tier in ("knowledge", "planning", "solution")},
        }
        return Example(name, user(name), goal, told)

    right = {name: tuple(goal + tail for tail in tails) for name, goal in goals.items()}
    return Words(tuple(row(*each) for each in goals.items()), right, start)


# ---- steps -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Path:
    """
    Rooms in a row, a letter opens the next one, and the last is the goal; a wrong letter leads back to the first.

    The reward is 1 where the goal is reached within `most` steps; `pay` is what a step says that opening a door earns.
    """

    rows: tuple[Example, ...]
    doors: Mapping[str, str]
    most: int = 6
    pay: float | None = None

    def policy(self, rng: np.random.Generator) -> Softmax:
        names = [self._room(row.id, at) for row in self.rows for at in range(len(self.doors[row.id]))]
        return blank(names, LETTERS[:3], 2, end=4.0)

    def runs(self, policy: Softmax, example: Example, count: int, rng: np.random.Generator) -> list[Rollout]:
        return [self._walk(policy, example, rng) for _ in range(count)]

    def graded(self, example: Example, run: Rollout) -> Rollout:
        doors, at, parts = self.doors[example.id], 0, {}
        for number, step in enumerate(run.steps):
            opened = step.completion.content == doors[at]
            at = at + 1 if opened else 0
            parts[f"step_reward {number}"] = opened * (self.pay or 0.0)
        return scored(run, float(at == len(doors)), **(parts if self.pay else {}))

    def worth(self, policy: Softmax) -> float:
        return sampled_worth(self, policy)

    def _walk(self, policy: Softmax, example: Example, rng: np.random.Generator) -> Rollout:
        doors, at, steps = self.doors[example.id], 0, []
        while at < len(doors) and len(steps) < self.most:
            seen = user(self._room(example.id, at))
            (encoded,) = policy.sample(policy.encode(seen), 1, rng)
            letter = policy.tokenizer.decode(encoded.completion_ids)
            steps.append(Step(seen, Message("assistant", letter), tokens=encoded))
            at = at + 1 if letter == doors[at] else 0
        return self.graded(example, Rollout(example.id, "solver", 0, tuple(steps), "stop"))

    @staticmethod
    def _room(row: str, at: int) -> str:
        return f"{row}-{at}"


def path(count: int = 8, pay: float | None = None) -> Path:
    """Rows of three doors, each of three letters: a random walk reaches the goal in about a tenth of the runs."""
    names = [f"p{i}" for i in range(count)]
    doors = {name: "".join("abc"[(i + j * j) % 3] for j in range(3)) for i, name in enumerate(names)}
    return Path(tuple(Example(name, user(name)) for name in names), doors, pay=pay)


# ---- delegation ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Team:
    """
    A planner's letter and one to three workers' letters, as many as chance has it, each with a goal by row.

    The planner's reward is half its own letter and half the mean of its workers', which have their own.
    """

    rows: tuple[Example, ...]
    goals: Mapping[str, tuple[str, str]]

    def policy(self, rng: np.random.Generator) -> Softmax:
        names = [f"{who}{row.id}" for row in self.rows for who in "pw"]
        return blank(names, LETTERS, 2, end=4.0)

    def runs(self, policy: Softmax, example: Example, count: int, rng: np.random.Generator) -> list[Rollout]:
        return [self._run(policy, example, rng) for _ in range(count)]

    def graded(self, example: Example, run: Rollout) -> Rollout:
        calls = run.steps[0].subrollouts
        own = float(run.answer == self.goals[example.id][0])
        return scored(run, own / 2 + float(np.mean([call.score.value for call in calls if call.score])) / 2)

    def worth(self, policy: Softmax) -> float:
        return sampled_worth(self, policy)

    def _run(self, policy: Softmax, example: Example, rng: np.random.Generator) -> Rollout:
        calls = [self._say(policy, example, "w", rng) for _ in range(rng.integers(1, 4))]
        goal = self.goals[example.id][1]
        workers = tuple(scored(call, float(call.answer == goal)) for call in calls)
        planner = self._say(policy, example, "p", rng)
        return self.graded(example, replace(planner, steps=(replace(planner.steps[0], subrollouts=workers),)))

    def _say(self, policy: Softmax, example: Example, who: str, rng: np.random.Generator) -> Rollout:
        asked = replace(example, messages=user(f"{who}{example.id}"))
        (encoded,) = policy.sample(policy.encode(asked.messages), 1, rng)
        return said(
            asked, policy.tokenizer.decode(encoded.completion_ids), encoded, "planner" if who == "p" else "worker"
        )


def team(count: int = 8) -> Team:
    goals = {f"{i}": (LETTERS[i % 7], LETTERS[(3 * i + 1) % 7]) for i in range(count)}
    return Team(tuple(Example(name, user(name)) for name in goals), goals)


# ---- a game ----------------------------------------------------------------------------------------------

PAYOFF = {"cc": (3, 3), "cd": (0, 5), "dc": (5, 0), "dd": (1, 1)}


@dataclass(frozen=True)
class Game:
    """
    The prisoner's dilemma over `rounds`, against a partner who does what it was done to, and errs at times.

    "a" cooperates, any other reply does not. The reward is the mean payoff over 5; both players' are in its parts.
    """

    rows: tuple[Example, ...] = tuple(Example(f"g{n}", user("start")) for n in range(6))
    rounds: int = 6
    slip: float = 0.1

    def policy(self, rng: np.random.Generator) -> Softmax:
        return blank(["start", *PAYOFF], "ab", 2, end=4.0)

    def runs(self, policy: Softmax, example: Example, count: int, rng: np.random.Generator) -> list[Rollout]:
        return [self._match(policy, example, rng) for _ in range(count)]

    def graded(self, example: Example, run: Rollout) -> Rollout:
        return run

    def worth(self, policy: Softmax) -> float:
        return sampled_worth(self, policy, 80)

    def _match(self, policy: Softmax, example: Example, rng: np.random.Generator) -> Rollout:
        state, owed, steps, parts = "start", "c", [], {}
        for number in range(self.rounds):
            (encoded,) = policy.sample(policy.encode(user(state)), 1, rng)
            move = "c" if policy.tokenizer.decode(encoded.completion_ids) == "a" else "d"
            steps.append(Step(user(state), Message("assistant", move), tokens=encoded))
            theirs = owed if rng.random() > self.slip else "d"
            state, owed = move + theirs, move
            mine, other = PAYOFF[state]
            parts |= {f"step_reward {number}": mine / 5, f"partner_reward {number}": other / 5}
        mean = float(np.mean([parts[f"step_reward {number}"] for number in range(self.rounds)]))
        return scored(Rollout(example.id, "solver", 0, tuple(steps), "stop"), mean, **parts)


def sampled_worth(world: "Path | Team | Game", policy: Softmax, count: int = 40) -> float:
    """The mean reward over `count` rollouts of each row, the same random numbers each time."""
    rng = np.random.default_rng(0)
    scores = [run.score for row in world.rows for run in world.runs(policy, row, count, rng)]
    return float(np.mean([score.value for score in scores if score]))
