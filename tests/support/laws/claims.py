"""
What each method claims, one a row, and the rollouts on which `test_methods` holds it to that.

Five groups: a mixed one, one of eight equal rewards, one with ties, one of one, and one of an earlier step. A rule says
in plain words what the advantage of one rollout is, in a group that is not dead. Rollouts have one step each, or as
many as COUNTS says.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from edgewise.learner.methods.published import METHODS

GROUP = [0] * 4 + [1] * 8 + [2] * 3 + [3] + [4] * 2
REWARD = [1.0, 0.0, 0.0, 0.5, *[float(np.float32(0.1))] * 8, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
LENGTH = [3, 1, 6, 2, 4, 4, 1, 2, 3, 5, 2, 1, 2, 0, 4, 3, 2, 5]
COUNTS = [2, 3, 1, 2, 1, 2, 3, 2, 3, 3, 2, 1, 2, 1, 3, 2, 3, 2]
DEAD, ALONE, OLDER = slice(4, 12), 15, slice(16, 18)
N, LONGEST = len(GROUP), 9
PROMPTS = [(1, 2, 3)] * 4 + [(4,)] * 8 + [(5, 6)] * 3 + [(7,)] + [(8, 9)] * 2
RNG = torch.Generator().manual_seed(5)


def draw_noise(spread: float) -> torch.Tensor:
    return torch.randn(N, LONGEST, generator=RNG, dtype=torch.float64) * spread


OLD = draw_noise(0.5) - 2
NEW, REF, ENTROPY, SAMPLER = (
    OLD + draw_noise(0.4),
    OLD + draw_noise(0.3),
    draw_noise(0.1).abs(),
    OLD + draw_noise(0.01),
)
MEAN_LOGP = OLD.mean(1).tolist()
TRAIT = [0.3, 0.35, 0.9, 0.32, *[0.1] * 8, 0.5, 0.7, 0.52, 0.5, 0.1, 0.9]
SHARE = [1.0, 1.0, 0.5, 0.5, *[0.25] * 8, 1.0, 0.5, 0.5, 1.0, 0.5, 0.5]
ANCHOR = [0.0, 0.0, 0.0, 1.0, *[0.0] * 8, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
STATE = list("aaab") + list("aabbccdd") + list("aaa") + ["a"] + list("ab")
CHOICE = [1.0, 2.0, 3.0, 3.0, *[1.0] * 8, 2.0, 1.0, 1.0, 1.0, 1.0, 2.0]
STORED = [math.nan] * OLDER.start + [0.7, -1.2]
COLUMNS = {
    "length": LENGTH,
    "longest": LENGTH,
    "kl": [n / 10 for n in LENGTH],
    "mean_logp": MEAN_LOGP,
    "trait": TRAIT,
    "share": SHARE,
    "anchor": ANCHOR,
    "stored": STORED,
}
"""Of rollouts."""

Rule = Callable[[int], float]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def mates(i: int, by: Sequence = GROUP) -> list[int]:
    """All of the group of a rollout, itself among them."""
    return [j for j in range(N) if GROUP[j] == GROUP[i] and by[j] == by[i]]


def rewards(i: int) -> list[float]:
    return [REWARD[j] for j in mates(i)]


def standard(i: int, eps: float = 1e-6) -> float:
    return (REWARD[i] - mean(rewards(i))) / (statistics.stdev(rewards(i)) + eps)


def trl(i: int) -> float:
    return standard(i, 1e-4)


def population(i: int, eps: float = 1e-5) -> float:
    return (REWARD[i] - mean(rewards(i))) / (statistics.pstdev(rewards(i)) + eps)


def plainly_centred(i: int) -> float:
    return REWARD[i] - mean(rewards(i))


def without_one(i: int) -> float:
    return REWARD[i] - mean([REWARD[j] for j in mates(i) if j != i])


def optimal(i: int) -> float:
    return REWARD[i] - sum(LENGTH[j] * REWARD[j] for j in mates(i)) / sum(LENGTH[j] for j in mates(i))


def informative(i: int) -> float:
    return plainly_centred(i) * N / 7  # 7 rollouts are in groups that are not dead


def best(i: int) -> float:
    lead = REWARD[i] - max(REWARD[j] for j in mates(i) if j != i)
    return max(0.0, lead) / (statistics.stdev(rewards(i)) + 1e-6)


def beside_the_best(i: int) -> float:
    every = [*rewards(i), 1.0]
    return (REWARD[i] - mean(every)) / (statistics.stdev(every) + 1e-6)


def by_length(i: int) -> float:
    """1.0 in the group of ties has no tokens, so one right answer is left."""
    right = [j for j in mates(i) if REWARD[j] == 1 and LENGTH[j]]
    wrong = [j for j in mates(i) if REWARD[j] == 0 and LENGTH[j]]
    if i in wrong:
        return -1 / len(wrong)
    weights = [math.exp((1 - LENGTH[j] / 8192) / 0.1) for j in right]
    return math.exp((1 - LENGTH[i] / 8192) / 0.1) / sum(weights) if i in right else 0.0


def beside_a_reference(i: int) -> float:
    """GRAO's objective is n times this and J, on average; its three terms, one after the other."""
    own = [j for j in mates(i) if not ANCHOR[j]]
    a = {j: population(j, 1e-8) for j in mates(i)}
    if not ANCHOR[i]:
        return len(mates(i)) * (a[i] / len(own) + 0.6 * a[i] / len(own))
    return len(mates(i)) * (0.5 * a[i] - 0.6 * mean([a[j] for j in own]))


def hard(i: int) -> float:
    signed = mean([2 * r - 1 for r in rewards(i)])
    return (2 * REWARD[i] - 1 - signed) * (-0.256 * signed + 1.256)


def unlike(i: int) -> float:
    others = [j for j in mates(i) if (REWARD[j] >= 1) != (REWARD[i] >= 1)]
    return standard(i) if any(abs(TRAIT[i] - TRAIT[j]) >= 0.1 for j in others) else 0.0


def novel(i: int) -> float:
    eta = math.exp(MEAN_LOGP[i] - mean([MEAN_LOGP[j] for j in mates(i)]))
    advantage = standard(i)
    return advantage + min(max(2.5 * (1 - eta), 0.0), 0.5 * advantage) if advantage > 0 else advantage


def replayed(i: int) -> float:
    return standard(i) if math.isnan(STORED[i]) else STORED[i]


def by_share(i: int) -> float:
    total = sum(SHARE[j] for j in mates(i))
    middle = sum(SHARE[j] * REWARD[j] for j in mates(i)) / total
    spread = sum(SHARE[j] * (REWARD[j] - middle) ** 2 for j in mates(i)) / total
    return (REWARD[i] - middle) / (math.sqrt(spread) + 1e-8)


def anchored(i: int) -> float:
    """Where a rollout has one step, and all of its reward there."""
    same = [REWARD[j] for j in mates(i, STATE)]
    if len(set(same)) == 1:
        return standard(i)
    return standard(i) + (REWARD[i] - mean(same)) / (statistics.stdev(same) + 1e-6)


def edges(i: int) -> float:
    return mean([standard(j) for j in mates(i, STATE)])


def two_players(i: int) -> float:
    return without_one(i)  # nothing came before the only step


@dataclass(frozen=True)
class Claims:
    """
    `rule` is the advantage in a mixed group; None where it is one of the batch.

    `dead` and `all_dead`: a dead group, a dead batch, has no gradient, in no step of it. `shift` and `scale`: a reward
    that all get, the unit of rewards, changes nothing. `whole`: at the old policy a reply's log-probability is one
    value; `surrogate`: the gradient there is the policy gradient.
    """

    rule: Rule | None = trl
    dead: bool = True
    all_dead: bool = True
    shift: bool = True
    scale: bool = True
    whole: bool = False
    surrogate: bool = True


CLAIMS = {
    "grpo": Claims(),
    "dr_grpo": Claims(plainly_centred, scale=False),
    "dapo": Claims(),
    "gspo": Claims(),
    "gspo_token": Claims(),
    "cispo": Claims(),
    "sapo": Claims(),
    "gmpo": Claims(),
    "rloo": Claims(without_one, scale=False),
    # Their mean is the batch's, so that a dead group has a gradient among others.
    "reinforce_plus_plus": Claims(None, dead=False),
    "reinforce_plus_plus_baseline": Claims(None, dead=False),
    "gpg": Claims(informative, scale=False),
    "opo": Claims(optimal, scale=False),
    "pass_at_k": Claims(best),
    "bnpo": Claims(),
    "luspo": Claims(),
    "vespo": Claims(),
    # It is there to push down what is all wrong, and knows the best reward.
    "ngrpo": Claims(beside_the_best, dead=False, all_dead=False, shift=False, scale=False),
    # Rewards are 1 or 0; wrong answers are weighed by their likelihood.
    "drpo": Claims(by_length, shift=False, scale=False, surrogate=False),
    "grao": Claims(beside_a_reference),
    # Hardness is on the scale from wrong to right.
    "confucius3_math": Claims(hard, shift=False, scale=False),
    "rift": Claims(population, whole=True),
    "reg_grpo": Claims(lambda i: population(i, 1e-8), whole=True),
    # Rewards are multiplied, with the shape of the method, so an offset counts.
    "unlikely": Claims(standard, shift=False),
    "dagrpo": Claims(unlike, shift=False, scale=False),
    "skywork_r1v2": Claims(replayed),
    "advantage_alignment": Claims(two_players, scale=False),
    "gigpo": Claims(anchored, scale=False),
    "salt": Claims(edges),
    "m_grpo": Claims(by_share),
    "hrpo": Claims(),
    "vade": Claims(),
    "xrpo": Claims(novel),
    "scaf_grpo": Claims(standard),
    # d (1 - d) has its meaning between 0 and 1 only.
    "pc_grpo": Claims(plainly_centred, scale=False),
    "deepvideo_r1": Claims(lambda i: population(i, 1e-8), whole=True),
}
assert list(CLAIMS) == list(METHODS)
