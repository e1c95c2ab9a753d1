"""Numbers that methods of credit over steps and of what to sample must give; see `tests.support.golden_seeds`."""

from collections.abc import Callable, Sequence
from functools import partial as p
from statistics import stdev
from typing import Any

import numpy as np
from scipy.stats import beta

from edgewise.learner.methods import token_weights
from edgewise.learner.methods.batch import Batch
from edgewise.toolkit.groups import advantage, state_matching, step_credit
from edgewise.toolkit.groups.sampling import row_selection
from edgewise.toolkit.groups.sampling.rollout_plan import half_width, priority
from edgewise.toolkit.groups.sampling.row_history import Memory, Record
from edgewise.toolkit.groups.table import Table
from edgewise.toolkit.types import Example, Group, Rollout, Score
from tests.support.golden_seeds import Case, Numbers, extremes, group

# ---- steps: GiGPO, SALT, advantage alignment ---------------------------------------------------------------


def steps(reward: Numbers, *rollouts: str, **columns: Any) -> Table:
    """Rollouts of one group; each a word for each of its steps."""
    words = [word for rollout in rollouts for word in rollout.split()]
    table = Table.from_arrays(
        [0] * len(reward), reward, [i for i, rollout in enumerate(rollouts) for _ in rollout.split()]
    )
    values = {"state": ["root"] * len(words), "action": words, "observation": words, **columns}
    return Table(
        table.group,
        table.reward,
        table.rollout,
        {},
        {name: np.asarray(x, np.float64 if name.endswith("reward") else object) for name, x in values.items()},
    )


WALKS = ("s0 s1", "s0 s2 s0", "s0 s1")


def gigpo(outer: Callable[[Table], Any], scaled: bool) -> Any:
    table = steps([10, 0, 0], *WALKS, state=" ".join(WALKS).split(), step_reward=[0, 10, 0, 0, 0, 0, 0])
    return step_credit.at_anchors(table, outer(table), scaled=scaled)[[0, 1, 2, 3, 6]]


plain_std = p(advantage.standardised, eps=1e-6)


def clusters(order: str, threshold: float, is_greedy: bool) -> list[int]:
    """The anchors of a, b and c, met in this order."""
    text = {
        "a": "you are in room 1 with a red box",
        "b": "you are in room 1 with a red cup",
        "c": "you are in room 9 with a red cup",
    }
    states = [text[name] for name in order]
    values = state_matching.match_similar(np.zeros(3, int), states, threshold, is_greedy=is_greedy).tolist()
    by_name = dict(zip(order, values, strict=True))
    return [int(by_name[x] == by_name[y]) for x, y in ("ab", "bc", "ac")]


def salt(rewards: Numbers, *rollouts: str, history: int = 1, **columns: Any) -> Any:
    table = steps(rewards, *rollouts, **columns)
    return step_credit.merged(table, plain_std(table), history=history)


SHOP = ("search click1 buy", "search click2 buy", "search click1 back")
CIRCLE = ("go stay stay stay", "go stay stay win")
OWN, PARTNER = np.array([1, -1, 0.5]), np.array([0.5, -0.5, 1])


def shaped(**options: Any) -> Any:
    return step_credit.shaped_by_partner(OWN, PARTNER, np.zeros(3, int), 1.0, 0.9, **options)


GAME = steps(
    [0, 0, 0],
    "x x",
    "x x",
    "x x",
    step_reward=np.array([3, 3, 5, 1, 0, 1]) / 5,
    partner_reward=np.array([3, 3, 0, 1, 5, 1]) / 5,
)

GIGPO = [
    Case(
        "paper, no deviation", p(gigpo, advantage.centred, False), "13.791667 11.666667 -5.708333 -3.333333 -8.333333"
    ),
    Case("paper, deviations", p(gigpo, plain_std, True), "2.654700 1.861807 -1.077350 -0.577350 -1.284457"),
    Case(
        "code, mean_norm",
        p(gigpo, p(advantage.by_steps, scaled=False), False),
        "14.267857 12.142857 -5.232143 -2.857143 -7.857143",
    ),
    Case("code, mean_std_norm", p(gigpo, advantage.by_steps, True), "2.963849 2.170956 -1.085540 -0.585540 -1.292647"),
    Case("greedy at .92, abc", p(clusters, "abc", 0.92, True), "0 1 0"),
    Case("greedy at .92, bac", p(clusters, "bac", 0.92, True), "0 1 0"),
    Case("greedy at .90, abc", p(clusters, "abc", 0.9, True), "1 0 0"),
    Case("greedy at .90, bac", p(clusters, "bac", 0.9, True), "1 1 1"),
    Case("linked at .90, abc", p(clusters, "abc", 0.9, False), "1 1 1"),
    Case("linked at .90, bac", p(clusters, "bac", 0.9, False), "1 1 1"),
    Case("linked at .92", p(clusters, "cab", 0.92, False), "0 1 0"),
]
SALT = [
    Case("a shop", p(salt, [1, 0, 1], *SHOP), "0 .577349 .577349 0 -1.154699 -1.154699 0 .577349 .577349"),
    *(
        Case(f"window of {h}", lambda h=h: salt([1, 0], "a b c", "x b c", history=h)[[2, 5]], text)
        for h, text in ((1, "0 0"), (2, ".707106 -.707106"), (3, ".707106 -.707106"))
    ),
    Case("a step in a circle", lambda: salt([0, 1], *CIRCLE)[[2, 3, 6]], "-.2357 -.2357 -.2357"),
]
ALIGNMENT = [
    Case("credit", shaped, "1 -1.405 .419"),
    Case("credit with the step itself", p(shaped, inclusive=True), "1.5 -.95 .91"),
    Case(
        "returns",
        lambda: step_credit.discounted_returns(GAME, GAME.column("step_reward"), 0.9),
        "1.14 .6 1.18 .2 .18 .2",
    ),
    Case("without one", lambda: step_credit.aligned(GAME, np.zeros(3), beta=0.0), ".46 .40 .52 -.20 -.98 -.20"),
    Case(
        "prisoner's dilemma",
        lambda: step_credit.aligned(GAME, np.zeros(3), beta=0.5),
        ".46 .47452 .52 -.24212 -.98 -.12062",
    ),
]

# ---- what to sample: VADE, XRPO, Scaf-GRPO, PC-GRPO --------------------------------------------------------


def remembered(alpha: float, beta: float, right: int | None) -> list[float]:
    """Counts after a visit with so many right of 8; None for a step without it."""
    rewards = [] if right is None else [1.0] * right + [0.0] * (8 - right)
    runs = tuple(Rollout("a", "solver", i, (), "stop", Score(r)) for i, r in enumerate(rewards))
    after = Memory({"a": Record(alpha, beta)}).update([Group(Example("a", ()), "solver", runs)])
    return [after.record_of("a").alpha, after.record_of("a").beta]


def sharpened() -> Any:
    return advantage.sharpened(group([1, 0, 1, 0], mean_logp=[-0.20, -0.40, -0.90, -0.30]))


def curriculum(rewards: Numbers, choices: Sequence[float], **options: Any) -> float:
    n = len(rewards)
    batch = Batch.from_lists(
        [(1,)] * n,
        [(1,)] * n,
        [0] * n,
        [0.0] * n,
        reward=list(rewards),
        rollout=list(range(n)),
        choice=[float(c) for c in choices],
    )
    return float(token_weights.curriculum(batch, **options)[0, 0] / token_weights.per_sequence(batch)[0, 0])


def letters(text: str, **options: Any) -> float:
    """Answers of a group to a puzzle whose answer is A."""
    return curriculum([float(c == "A") for c in text], [ord(c) for c in text], options=6, **options)


TILES = [0.25, 1, 0.5, 0.25, 0.25, 0, 0.5, 0.25]
VADE = [
    Case("gain", lambda: row_selection.information_gain(np.array([0.13, 0.32, 0.90])), "0.098397 0.147968 0.009000"),
    Case("a visit", p(remembered, 0.1, 8.4, 1), "1.02 8.68"),
    Case("another visit", p(remembered, 2.7, 5.3, 4), "4.54 5.06"),
    Case("no visit", p(remembered, 9.0, 0.2, None), "8.991 .1998"),
    Case(
        "expected gain",
        lambda: [
            beta(a + 1, b + 1).expect(row_selection.information_gain)
            for a, b in ((0.1, 8.4), (2.7, 5.3), (9, 0.2), (0, 0))
        ],
        "0.071245 0.128911 0.014637 0.083333",
    ),
]
XRPO = [
    Case("half width of 4", lambda: half_width(stdev([1, 0, 0, 1]), 4), "0.918693"),
    Case("reduction, 2 of 4", lambda: priority(stdev([1, 0, 0, 1]), 4, 64, lam=0.0), "0.201818"),
    Case("reduction, 1 of 4", lambda: priority(stdev([1, 0, 0, 0]), 4, 64, lam=0.0), "0.174780"),
    Case("reduction, 0 of 4", lambda: priority(0.0, 4, 64, lam=0.0), "0"),
    Case("bonus", lambda: priority(0.0, 4, 64), "0.102157"),
    Case("sharpened", sharpened, ".866024 -.866024 1.299036 -.866024"),
]
SCAF = [
    Case("one success with hints", lambda: extremes(plain_std, [1] + [0] * 7), "2.474867 -.353552"),
    Case(
        "population", lambda: extremes(p(advantage.standardised, eps=1e-6, ddof=0), [1] + [0] * 7), "2.645743 -.377963"
    ),
]
PC = [
    Case("few answers", p(letters, "ABBBBBBB"), "0.200621"),
    Case("many answers", p(letters, "ABBCCDEF"), "0.430250"),
    Case("variety", lambda: letters("ABBBBBBB", lam=64 / 7, gamma=1.0), "0.210279"),
    Case("tiles", p(curriculum, TILES, [1, 2, 3, 1, 1, 4, 3, 1]), "0.613738"),
    Case("4 of 8, two of four options", lambda: curriculum([1, 0] * 4, [1, 2] * 4, options=4), "0.7071"),
    Case("all right", lambda: curriculum([1] * 8, range(8)), "0"),
    Case("one answer", lambda: curriculum([0.5] * 8, [1] * 8), "0"),
]

CASES = {
    "gigpo": GIGPO,
    "salt": SALT,
    "advantage_alignment": ALIGNMENT,
    "vade": VADE,
    "xrpo": XRPO,
    "scaf_grpo": SCAF,
    "pc_grpo": PC,
}
