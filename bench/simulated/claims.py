"""Worlds made for what single papers claim, each of rows whose chances at the start are set."""

from collections.abc import Mapping, Sequence

import numpy as np
from simulated.bandit import Softmax
from simulated.worlds import Words, user

from edgewise.toolkit.types import Example

LEAST = 1e-6


def set_first(policy: Softmax, name: str, chances: Mapping[str, float]) -> None:
    """Let the first letter after a feature have these chances, and the others what is left, evenly."""
    rest = (1 - sum(chances.values())) / max(1, len(policy.letters) - len(chances))
    shares = [chances.get(letter, rest) for letter in policy.letters]
    policy.table(name)[0, 0] = np.log([LEAST, *np.maximum(shares, LEAST)])


def one_letter(chances: Mapping[str, float], letters: str = "abcdefgh") -> Words:
    """
    Rows that are right with one letter, the first, which has this chance by row; most of the rest is on another one.
    """
    goals = {name: letters[i % len(letters)] for i, name in enumerate(chances)}

    def start(policy: Softmax, rng: np.random.Generator) -> None:
        for name, goal in goals.items():
            chance, liked = chances[name], rng.choice([letter for letter in letters if letter != goal])
            set_first(policy, name, {goal: chance, liked: 0.7 * (1 - chance)})

    rows = tuple(Example(name, user(name), goal) for name, goal in goals.items())
    return Words(rows, {name: (goal,) for name, goal in goals.items()}, start, letters, 2, end=8.0)


def stuck() -> Words:
    """NGRPO: 12 of 20 rows are right in 3 of 1,000 replies: 6 of 10 groups of 8 have no right one at the start."""
    return one_letter({f"r{i}": 0.003 if i % 5 < 3 else 0.3 for i in range(20)})


def spread() -> Words:
    """VADE: a third of 96 rows are nearly always right, a third in 3 of 10 replies, a third in 3 of 100."""
    return one_letter({f"r{i}": (0.97, 0.3, 0.03)[i % 3] for i in range(96)})


def strategies(rows: int = 24, held: int = 32) -> tuple[Words, list[Example]]:
    """
    Rewarding the Unlikely: rows that several of eight strategies solve, and held-out rows that a single one solves.

    The policy knows strategies by what all rows share: "a" has 6 of 100, each next one is 0.6 times as likely, and 85
    of 100 replies are one of eight that solve nothing.
    """
    rng = np.random.default_rng(0)
    useful, junk = "abcdefgh", "stuvwxyz"
    solves = {f"r{i}": tuple(letter for letter in useful if rng.random() < 0.4) for i in range(rows)}
    solves |= {f"h{i}": (useful[i % len(useful)],) for i in range(held)}
    chances = 0.6 ** np.arange(len(useful))

    def start(policy: Softmax, rng: np.random.Generator) -> None:
        set_first(policy, "any", dict(zip(useful, 0.15 * chances / chances.sum(), strict=True)))

    train, test = ([Example(name, user(f"any {name}")) for name in solves if name[0] == kind] for kind in "rh")
    return Words(tuple(train), solves, start, useful + junk, 2, end=8.0), test


def thinking(rows: int = 18, length: int = 12) -> Words:
    """
    DRPO: rows that want one of four letters at the end, after as many "t" as one likes; every third row after four.

    Replies are of about six tokens at the start, and right in one of five.
    """
    answers = "abcd"
    goals = {f"r{i}": (answers[i % 4], 4 if i % 3 == 0 else 0) for i in range(rows)}

    def start(policy: Softmax, rng: np.random.Generator) -> None:
        for name in goals:
            table = policy.table(name)
            table[:] = 0.0
            table[:, :, 0], table[:, :, 1 + len(answers)] = -4.0, np.log(len(answers) * 4.0)
            table[:, 1 : 1 + len(answers), 0] = 8.0

    right = {name: tuple("t" * n + goal for n in range(least, length - 1)) for name, (goal, least) in goals.items()}
    return Words(tuple(Example(name, user(name)) for name in goals), right, start, answers + "t", length, end=0.0)


def spelled(rows: Sequence[Example], chances: Mapping[str, float], hint: float = 4.0) -> Words:
    """Rows that want their target, a word of three letters, each of which is as likely as the word's chance has it."""
    letters = "abcdefgh"

    def start(policy: Softmax, rng: np.random.Generator) -> None:
        for row in rows:
            table, each = policy.table(row.id), chances[row.id] ** (1 / 3)
            table[:] = 0.0
            table[:3, :, 0], table[3, :, 0] = np.log(LEAST), 12.0
            for place, letter in enumerate(row.target):
                table[place, :, 1:] = np.log((1 - each) / (len(letters) - 1))
                table[place, :, 1 + letters.index(letter)] = np.log(each)

    right = {row.id: (row.target,) for row in rows}
    return Words(tuple(rows), right, start, letters, 4, end=0.0, hint=hint, names=tuple(right))


def kinds(groups: int = 12, each: int = 4) -> Words:
    """
    XRPO: rows of 12 kinds with the same answer; one of each is right in 3 of 10 replies, the three others in 1 of 100.

    The policy tells rows apart, and not kinds, but it reads what a solved row before a question shows.
    """
    rng = np.random.default_rng(0)
    words = {f"k{kind}": "".join(rng.choice(list("abcdefgh"), 3)) for kind in range(groups)}
    rows = [
        Example(f"{kind}x{n}", user(f"{kind}x{n} {kind}"), word) for kind, word in words.items() for n in range(each)
    ]
    return spelled(rows, {row.id: 0.3 if row.id.endswith("x0") else 0.01 for row in rows}, hint=1.5)


def hopeless(count: int = 16) -> Words:
    """
    Scaf-GRPO: every second row is right in 1 of 10,000 replies, which is never, and the others in 3 of 10.

    Hints show the first letter of the word (knowledge), the first two (planning), or all of it (solution).
    """
    rng = np.random.default_rng(0)
    rows = []
    for n in range(count):
        word = "".join(rng.choice(list("abcdefgh"), 3))
        hints = {"knowledge": [word[:1]], "planning": [word[:2]], "solution": [word]}
        rows.append(Example(f"{'zs'[n % 2]}{n}", user(f"{'zs'[n % 2]}{n}"), word, {"hints": hints}))
    return spelled(rows, {row.id: 1e-4 if row.id[0] == "z" else 0.3 for row in rows})
