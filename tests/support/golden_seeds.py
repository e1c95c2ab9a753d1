"""
Numbers that the methods of the seeds must give: from papers, from public code, or worked out from their formulas.

Each case says how the number is made here and what is printed; more digits than printed are not claimed. `tests` and
`bench/golden_seeds.py` both read this table.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial as p
from typing import Any

import numpy as np
import torch

from edgewise.learner.methods import losses, penalties, token_weights
from edgewise.learner.methods.batch import Batch, LossInputs
from edgewise.toolkit.groups import advantage, reward_shaping
from edgewise.toolkit.groups.sampling import replay, rollout_plan
from edgewise.toolkit.groups.table import Table
from edgewise.toolkit.types import Rollout

Numbers = Sequence[float]


@dataclass(frozen=True)
class Case:
    """`found` gives the numbers that `printed` has, in order."""

    name: str
    compute: Callable[[], Any]
    printed: str

    def pairs(self) -> Iterator[tuple[float, float, float]]:
        """What is found, what is printed, and how far apart the two may be: half of the last digit."""
        values = np.atleast_1d(np.asarray(self.compute(), np.float64)).ravel().tolist()
        for number, word in zip(values, self.printed.split(), strict=True):
            digits = len(word.partition(".")[2])
            yield number, float(word), 0.51 * 10**-digits if 4 <= digits <= 5 else 1e-6


def group(rewards: Numbers, **columns: Any) -> Table:
    return Table.from_arrays([0] * len(rewards), rewards, range(len(rewards)), **columns)


def sequences(logp: Numbers, gain: Numbers, *, old: Numbers | None = None, **columns: Numbers) -> LossInputs:
    """Replies of one token each, of one group."""
    row = torch.tensor(logp, dtype=torch.float64)[:, None].requires_grad_()
    then = row.detach() if old is None else torch.tensor(old, dtype=torch.float64)[:, None]
    named = {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}
    signs = torch.tensor(gain, dtype=torch.float64)[:, None]
    return LossInputs(row, then, torch.ones_like(row, dtype=torch.bool), signs, torch.zeros(len(logp)), named)


def batch_of(tokens: LossInputs, **columns: Any) -> Batch:
    n = len(tokens.mask)
    return Batch.from_lists([(1,)] * n, [(1,)] * n, [0] * n, [0.0] * n, **columns)


def descended(
    part: Callable[[LossInputs], torch.Tensor], x: LossInputs, weighed=token_weights.per_sequence
) -> list[float]:
    """The value, and its gradient in the log-probability of each reply."""
    value = (part(x) * weighed(batch_of(x)).double()).sum()
    return [value.item(), *torch.autograd.grad(value, x.logp)[0].flatten().tolist()]


# ---- NGRPO -------------------------------------------------------------------------------------------------


def extremes(part: Callable[[Table], Any], rewards: Numbers) -> list[float]:
    """The advantages of the first and of the last."""
    values = part(group(rewards))
    return [values[0], values[-1]]


def clipped_by_sign(ratio: float, gain: float) -> float:
    x = sequences([math.log(ratio)], [gain], old=[0.0])
    return -losses.clipped(x, low=0.16, high=0.24).item()


SIGNS = [(0.5, 1), (0.5, -1), (1.24, 1), (1.24, -1), (1.5, 1), (1.5, -1)]
NGRPO = [
    Case("one right of 4", p(extremes, advantage.calibrated, [1, 0, 0, 0]), "1.095443 -0.730295"),
    Case("none right of 4", p(extremes, advantage.calibrated, [0] * 4), "-0.447213 -0.447213"),
    Case("all right of 4", p(extremes, advantage.calibrated, [1] * 4), "0 0"),
    Case("two right of 4", p(extremes, advantage.calibrated, [1, 1, 0, 0]), ".730295 -1.095443"),
    Case("one right of 8", p(extremes, advantage.calibrated, [1] + [0] * 7), "1.763830 -0.503951"),
    Case("none right of 8", p(extremes, advantage.calibrated, [0] * 8), "-0.333332 -0.333332"),
    Case("7 right of 8", p(extremes, advantage.calibrated, [1] * 7 + [0]), "0.333332 -2.666658"),
    Case("two virtual ones", p(extremes, p(advantage.calibrated, virtual=2), [0] * 4), "-0.645496 -0.645496"),
    Case("one alone", p(extremes, advantage.calibrated, [0]), "0 0"),
    *(
        Case(f"population, {name}", p(extremes, p(advantage.calibrated, ddof=0, eps=eps), rewards), text)
        for name, rewards, eps, text in (
            ("one right of 4", [1, 0, 0, 0], 1e-6, "1.224742 -0.816495"),
            ("none right of 4", [0] * 4, 0.0, "-0.5 -0.5"),
            ("none right of 8", [0] * 8, 1e-6, "-0.353552 -0.353552"),
        )
    ),
    Case("sum of advantages", lambda: advantage.calibrated(group([1, 0, 0, 0])).sum(), "-1.095443"),
    Case(
        "objective at ratio and sign",
        lambda: [clipped_by_sign(*pair) for pair in SIGNS],
        ".5 -.84 1.24 -1.24 1.24 -1.5",
    ),
]

# ---- DRPO --------------------------------------------------------------------------------------------------

SCORES = [-0.5, -0.4, -0.6, -0.3]


def drpo_gain(lam: float, correct: Numbers = (1, 1, 0, 0)) -> Any:
    return advantage.decoupled(group(correct, length=[2, 6, 4, 8]), limit=8, lam=lam)


def drpo(lam: float, correct: Numbers = (1, 1, 0, 0), tau: float = 10.0) -> list[float]:
    x = sequences(SCORES, drpo_gain(lam, correct).tolist())
    return descended(p(losses.discriminated, tau=tau), x, token_weights.per_group)


def coded(lam: float) -> float:
    """The value of the code's surrogate, whose part for wrong answers is always tau."""
    return 10 - float(np.dot(drpo_gain(lam)[:2], SCORES[:2]))


def weights(lengths: Numbers, lam: float) -> list[float]:
    """Of right answers; a wrong one is beside them."""
    n = len(lengths)
    values = advantage.decoupled(group([1] * n + [0], length=[*lengths, 5]), limit=8192, lam=lam)
    return values[:n].tolist()


def trust(kl: float) -> float:
    x = sequences([-kl], [0.0], old=[0.0], mean_kl=[kl])
    return penalties.trust_region(x).item()


DRPO = [
    Case("weights, lam .1", lambda: drpo_gain(0.1)[:2], ".993307 .006693"),
    Case("weights, lam .5", lambda: drpo_gain(0.5)[:2], ".731059 .268941"),
    Case("weights, lam 1e6", lambda: drpo_gain(1e6)[:2], ".500000 .500000"),
    Case("true loss", lambda: [drpo(lam)[0] for lam in (0.1, 0.5, 1e6)], "0.050456 0.024231 0.001125"),
    Case("gradient, lam .1", lambda: drpo(0.1)[1:], "-.99331 -.00669 .49250 .50750"),
    Case("gradient, lam .5", lambda: drpo(0.5)[1:], "-.73106 -.26894 .49250 .50750"),
    Case("gradient, lam 1e6", lambda: drpo(1e6)[1:], "-.50000 -.50000 .49250 .50750"),
    Case("the code's value", lambda: [coded(lam) for lam in (0.1, 0.5, 1e6)], "10.499330 10.473105 10.450000"),
    Case("all wrong", lambda: drpo(0.1, [0] * 4), "0 0 0 0 0"),
    Case("all right", lambda: drpo(0.1, [1] * 4), "0 0 0 0 0"),
    Case("wrong ones at tau .1", lambda: drpo(0.1, tau=0.1)[3:], ".0474 .9526"),
    Case("trust region at a KL of .01", lambda: trust(0.01), ".099"),
    *(
        Case(f"weights, lam {lam}", p(weights, [2048, 6144], lam), text)
        for lam, text in ((0.1, ".9933 .0067"), (0.2, ".9241 .0759"), (0.5, ".7311 .2689"))
    ),
    Case("weights of four", p(weights, [1000, 2000, 4000, 8000], 0.1), ".757062 .223350 .019440 .000147"),
]

# ---- Skywork R1V2, GRAO ------------------------------------------------------------------------------------

J = [-0.5, -0.8, -1.0, -0.7, -0.6]


def grao(rewards: Numbers, **options: Any) -> float:
    gain = advantage.referred(group([*rewards, 1.0], anchor=[0] * 4 + [1]), **options)
    x = sequences(J, gain.tolist())
    return -descended(losses.plain, x, token_weights.per_group)[0]


def term(rewards: Numbers, part: str, **options: Any) -> float:
    """One of the objective's three terms."""
    explore = grao(rewards, beta=0.0, lam=0.0, **options)
    if part == "explore":
        return explore
    alone = {"imitate": {"lam": 0.0}, "align": {"beta": 0.0}}[part]
    return grao(rewards, **alone, **options) - explore


def buffered(gains: Numbers) -> Any:
    """Chances to be drawn first."""
    runs = [rollout_plan.set_marks(Rollout("a", "solver", i, (), "stop"), stored=a) for i, a in enumerate(gains)]
    return replay.sampling_probabilities(runs)


SKYWORK = [Case("chances to be drawn", p(buffered, [1.5, -0.5, -0.5, -0.5]), ".5 .1667 .1667 .1667")]
GRAO = [
    Case("reference apart", lambda: grao([1, 0, 0, 0], pooled=False), "-.288675"),
    Case("reference pooled", lambda: grao([1, 0, 0, 0]), ".093897"),
    Case("reference pooled, all wrong", lambda: grao([0] * 4), "-.18"),
    *(
        Case(f"{name}, {part}", p(term, rewards, part), text)
        for name, rewards, texts in (
            ("pooled", [1, 0, 0, 0], {"explore": ".357217", "imitate": "-.367423", "align": ".104103"}),
            ("all wrong", [0] * 4, {"explore": ".375", "imitate": "-.6", "align": ".045"}),
        )
        for part, text in texts.items()
    ),
    Case("explore, apart", p(term, [1, 0, 0, 0], "explore", pooled=False), ".144338"),
    Case("imitate, apart", p(term, [1, 0, 0, 0], "imitate", pooled=False), "-.519615"),
    Case("align, apart", p(term, [1, 0, 0, 0], "align", pooled=False), ".086603"),
]

# ---- Confucius3-Math, RIFT, DaGRPO -------------------------------------------------------------------------

by_hardness = p(advantage.by_hardness, wrong=-1.0)


def entropy_term(h: float) -> float:
    return penalties.targeted_entropy(sequences([0.0], [0.0], entropy=[h], mean_entropy=[h])).item()


RETURNS, OLD_LOGITS, LOGITS = [5, 3, -2, -20], [1, 0.5, 0, -1], [2, 0.5, 0, 1]


def rift_gain() -> list[float]:
    return advantage.standardised(group(RETURNS), eps=1e-5, ddof=0).tolist()


def rift(**options: Any) -> list[float]:
    x = sequences(LOGITS, rift_gain(), old=OLD_LOGITS)
    return (-losses.enumerated(x, **options)).flatten().tolist()


def rift_ratios() -> list[float]:
    ones = sequences(LOGITS, [1.0] * 4, old=OLD_LOGITS)
    return (-losses.enumerated(ones, low=1e9, high=1e9, delta=None)).flatten().tolist()


def dagrpo(right: Numbers, trait: Numbers) -> list[float]:
    return (advantage.distinctive(group(right, trait=trait)) != 0).tolist()


TRAITS = [0.9, 0.85, 0.2, 0.5]
CONFUCIUS = [
    Case("one right", lambda: by_hardness(group([1, -1, -1, -1])), "2.076 -.692 -.692 -.692"),
    Case("two right", lambda: by_hardness(group([1, 1, -1, -1])), "1.256 1.256 -1.256 -1.256"),
    Case("three right", lambda: by_hardness(group([1, 1, 1, -1])), ".564 .564 .564 -1.692"),
    Case("none right", lambda: by_hardness(group([-1] * 4)), "0 0 0 0"),
    Case("all right", lambda: by_hardness(group([1] * 4)), "0 0 0 0"),
    Case("rewards of 0 and 1", lambda: advantage.by_hardness(group([1, 0, 0, 0])), "2.076 -.692 -.692 -.692"),
    Case("entropy", lambda: [entropy_term(h) for h in (0.30, 0.55, 0.80)], ".00025 0 .00025"),
]
RIFT = [
    Case("advantages", rift_gain, ".861933 .659125 .152106 -1.673165"),
    Case("ratios", rift_ratios, "1.222088 .449581 .449581 3.321980"),
    Case("one clip", p(rift, delta=None), "1.034320 .296330 .068384 -5.558219"),
    Case("dual clip", rift, "1.034320 .296330 .068384 -5.019494"),
    Case("loss", lambda: -np.mean(rift()), ".905115"),
    Case(
        "ratio 4 where A = -1",
        lambda: -losses.clipped(sequences([math.log(4)], [-1.0], old=[0.0]), delta=3.0).item(),
        "-3",
    ),
]
DAGRPO = [
    Case("look-alikes", p(dagrpo, [1, 0, 0, 0], TRAITS), "1 0 1 1"),
    Case("all wrong", p(dagrpo, [0] * 4, TRAITS), "0 0 0 0"),
    Case(
        "all wrong, and a reference",
        lambda: advantage.distinctive(group([0] * 4 + [1], trait=[*TRAITS, math.inf])),
        "-.447213 -.447213 -.447213 -.447213 1.788850",
    ),
]

# ---- Reg-GRPO, Rewarding the Unlikely ----------------------------------------------------------------------


def regressed(rewards: Numbers, moved: Numbers) -> float:
    gain = advantage.standardised(group(rewards), eps=0.0, ddof=0)
    x = sequences(moved, gain.tolist(), old=[0.0] * 4)
    return descended(p(losses.regressed, eps=0.0), x)[0]


def correlated(rewards: Numbers, moved: Numbers) -> float:
    return 2 - 2 * float(np.corrcoef(rewards, moved)[0, 1])


def unlikely(first: int = 1) -> Any:
    return reward_shaping.unlikely(group([1, 0, 1, 0], mean_logp=[-0.2, -0.4, -0.8, -1.0]), first=first)


def compared(rewards: Any) -> Any:
    return advantage.standardised(group(rewards), eps=1e-6)


MOVES = [0.3, -0.1, 0.0, -0.2]
REG = [
    Case("loss", p(regressed, [1, 0, 0, 0], MOVES), ".148360"),
    Case("2 - 2 corr", p(correlated, [1, 0, 0, 0], MOVES), ".148360"),
    Case("told exactly", p(regressed, [1, 0, 0, 0], [0.5, 0.1, 0.1, 0.1]), "0"),
    Case("nothing moved", p(regressed, [1, 0, 0, 0], [0.0] * 4), "1"),
]
UNLIKELY = [
    Case("rewards", unlikely, ".8125 0 .9375 0"),
    Case("advantages", lambda: compared(unlikely()), ".738547 -.861639 .984730 -.861639"),
    Case("rewards, ranks from 0", p(unlikely, 0), ".75 0 .875 0"),
    Case("advantages, ranks from 0", lambda: compared(unlikely(0)), ".728491 -.860944 .993397 -.860944"),
    Case(
        "all right, if they were kept",
        lambda: np.sort(compared(reward_shaping.unlikely(group([1] * 4, mean_logp=[-1, -2, -3, -4])))),
        "-1.1619 -.3873 .3873 1.1619",
    ),
    Case("plain", lambda: compared([1, 0, 1, 0]), ".866024 -.866024 .866024 -.866024"),
]

CASES = {
    "ngrpo": NGRPO,
    "drpo": DRPO,
    "skywork_r1v2": SKYWORK,
    "grao": GRAO,
    "confucius3_math": CONFUCIUS,
    "rift": RIFT,
    "dagrpo": DAGRPO,
    "reg_grpo": REG,
    "unlikely": UNLIKELY,
}
