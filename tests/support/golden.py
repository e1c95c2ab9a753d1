"""
Numbers that base estimators and losses must give: as public code prints them, and as slow, plain formulas in float64.

Printed numbers were made by running verl and by TRL's formulas; they hold to their last digit. `tests` and
`bench/golden.py` both read this table.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial as p
from typing import Any

from edgewise.learner.methods import losses, penalties
from edgewise.learner.methods import token_weights as weigh
from edgewise.toolkit.groups import advantage

# ---- A: advantages of one group ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimator:
    """`plain` gives (rewards, lengths) -> advantages."""

    name: str
    part: Callable[..., Any]
    plain: Callable[[Sequence[float], Sequence[int]], list[float]]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _standardised(rewards, _, eps, deviation=statistics.stdev):
    return [(r - mean(rewards)) / (deviation(rewards) + eps) for r in rewards]


def _centred(rewards, _):
    return [r - mean(rewards) for r in rewards]


def _leave_one_out(rewards, _):
    return [r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]


def _by_length(rewards, lengths):
    baseline = math.fsum(r * n for r, n in zip(rewards, lengths, strict=True)) / sum(lengths)
    return [r - baseline for r in rewards]


def _by_score(rewards, _):
    scale = len(rewards) / max(1, sum(r != 0 for r in rewards))
    return [scale * value for value in _centred(rewards, _)]


def _best(rewards, _, scaled=True):
    second, first = sorted(rewards)[-2:]
    lead = (first - second) / (statistics.stdev(rewards) + 1e-6 if scaled else 1.0)
    return [lead if r == first and first > second else 0.0 for r in rewards]


def _whitened(rewards, lengths, centred=False):
    values = _centred(rewards, lengths) if centred else rewards
    tokens = [value for value, n in zip(values, lengths, strict=True) for _ in range(n)]
    return [(v - mean(tokens)) / math.sqrt(statistics.variance(tokens) + 1e-8) for v in values]


ESTIMATORS = [
    Estimator("grpo", p(advantage.standardised, eps=1e-6), p(_standardised, eps=1e-6)),
    Estimator("trl", advantage.standardised, p(_standardised, eps=1e-4)),
    Estimator(
        "ddof0", p(advantage.standardised, eps=0.0, ddof=0), p(_standardised, eps=1e-300, deviation=statistics.pstdev)
    ),
    Estimator("dr_grpo", advantage.centred, _centred),
    Estimator("rloo", advantage.leave_one_out, _leave_one_out),
    Estimator("opo", advantage.length_weighted, _by_length),
    Estimator("gpg", p(advantage.amplified, by_score=True), _by_score),
    Estimator("pass_at_k", advantage.best_only, _best),
    Estimator("pass_at_k_plain", p(advantage.best_only, scaled=False), p(_best, scaled=False)),
    Estimator("reinforce_plus_plus", advantage.whitened, _whitened),
    Estimator("reinforce_plus_plus_baseline", advantage.centred_whitened, p(_whitened, centred=True)),
]

# Rewards of a group -> the advantages of its best and of its worst, as printed. Every reply has 3 tokens.
PRINTED = {
    (1, 0, 0, 0): {
        "grpo": "1.499997 -.499999",
        "trl": "1.4997 -.4999",
        "ddof0": "1.732051 -.577350",
        "dr_grpo": ".75 -.25",
        "rloo": "1 -.333333",
        "opo": ".75 -.25",
        "gpg": "3 -1",
        "pass_at_k": "1.999996 0",
        "reinforce_plus_plus": "1.65831 -.55277",
        "reinforce_plus_plus_baseline": "1.65831 -.55277",
    },
    (1, 1, 0, 0): {
        "grpo": ".866024 -.866024",
        "trl": ".865875 -.865875",
        "ddof0": "1 -1",
        "dr_grpo": ".5 -.5",
        "rloo": ".666667 -.666667",
        "opo": ".5 -.5",
        "gpg": "1 -1",
        "pass_at_k": "0 0",
        "reinforce_plus_plus": ".95743 -.95743",
        "reinforce_plus_plus_baseline": ".95743 -.95743",
    },
    (1, 1, 1, 0): {
        "grpo": ".499999 -1.499997",
        "trl": ".4999 -1.4997",
        "ddof0": ".577350 -1.732051",
        "dr_grpo": ".25 -.75",
        "rloo": ".333333 -1",
        "opo": ".25 -.75",
        "gpg": ".333333 -1",
        "pass_at_k": "0 0",
        "reinforce_plus_plus": ".55277 -1.65831",
        "reinforce_plus_plus_baseline": ".55277 -1.65831",
    },
    (1, -1, -1, -1): {
        "grpo": "1.5 -.5",
        "trl": "1.49985 -.49995",
        "ddof0": "1.732051 -.577350",
        "dr_grpo": "1.5 -.5",
        "rloo": "2 -.666667",
        "opo": "1.5 -.5",
        "gpg": "1.5 -.5",
        "pass_at_k": "2 0",
        "reinforce_plus_plus": "1.65831 -.55277",
        "reinforce_plus_plus_baseline": "1.65831 -.55277",
    },
    (0, 0, 0, 0): {estimator.name: "0 0" for estimator in ESTIMATORS},
    (1, 1, 1, 1): {estimator.name: "0 0" for estimator in ESTIMATORS},
}


# ---- B: losses on two sequences ------------------------------------------------------------------------------------

OLD = [[-1.0, -0.5, -2.0], [-0.3, -1.5]]
MOVED = [[0.5, -0.1, 0.0], [0.1, -0.6]]
SIGN = [1.0, -1.0]
RATIOS = {"low": 0.2, "high": 0.28}

Rows = list[list[float]]
Rule = Callable[[int, Sequence[float], Sequence[float]], list[float]]
"""(number of the sequence, its log-probabilities, the same where they pass no gradient) -> a value a token."""


def _bounded(r, sign, low, high, delta=math.inf):
    return -min(min(r, delta) * sign, min(max(r, 1 - low), 1 + high) * sign)


def _moved(i, logp):
    return [now - old for now, old in zip(logp, OLD[i], strict=True)]


def _clip(i, logp, held, **bounds):
    return [_bounded(math.exp(d), SIGN[i], **bounds) for d in _moved(i, logp)]


def _clip_sequence(i, logp, held, **bounds):
    return [_bounded(math.exp(mean(_moved(i, logp))), SIGN[i], **bounds)] * len(logp)


def _clip_token(i, logp, held, **bounds):
    ratio = math.exp(mean(_moved(i, held)))
    return [_bounded(ratio * math.exp(now - then), SIGN[i], **bounds) for now, then in zip(logp, held, strict=True)]


def _soft(i, logp, held):
    t = 1.0 if SIGN[i] > 0 else 1.05
    return [-SIGN[i] * 4 / t / (1 + math.exp(-t * (math.exp(d) - 1))) for d in _moved(i, logp)]


def _weight(i, logp, held, low=1.0, high=4.0):
    caps = [min(max(math.exp(d), 1 - low), 1 + high) for d in _moved(i, held)]
    return [-cap * SIGN[i] * now for cap, now in zip(caps, logp, strict=True)]


def _gamma(i, logp, held):
    k, lam = (2.0, 3.0) if SIGN[i] >= 0 else (3.0, 2.0)
    w = math.exp(sum(_moved(i, held)))
    return [-(w**k) * math.exp(lam * (1 - w)) * SIGN[i] * now for now in logp]


def _geometric(i, logp, held, low=0.4, high=0.4):
    bounded = [min(d, high) if SIGN[i] > 0 else max(d, -low) for d in _moved(i, logp)]
    return [-math.exp(mean(bounded)) * SIGN[i]] * len(logp)


def _plain(i, logp, held):
    return [-SIGN[i] * now for now in logp]


def token_mean(rows: Rows) -> float:
    return mean([value for row in rows for value in row])


def sequence_mean(rows: Rows) -> float:
    return mean([mean(row) for row in rows])


def sequence_sum(rows: Rows) -> float:
    return mean([sum(row) for row in rows])


def fixed_length(rows: Rows, limit: int) -> float:
    return sequence_sum(rows) / limit


@dataclass(frozen=True)
class Loss:
    """A part and how it is reduced; `rule` and `reduced` are the same, plainly. `printed`: value, and gradient."""

    part: Callable[..., Any]
    weigh: Callable[..., Any]
    rule: Rule
    reduced: Callable[[Rows], float]
    value: str
    gradient: str = ""

    def plain(self) -> tuple[float, Rows]:
        """The value, and the gradient by central differences."""
        now = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(OLD, MOVED, strict=True)]

        def at(rows: Rows) -> float:
            return self.reduced([self.rule(i, rows[i], now[i]) for i in range(len(rows))])

        def slope(i: int, t: int, h: float = 1e-6) -> float:
            ends = [[list(row) for row in now] for _ in range(2)]
            ends[0][i][t] += h
            ends[1][i][t] -= h
            return (at(ends[0]) - at(ends[1])) / (2 * h)

        return at(now), [[slope(i, t) for t in range(len(row))] for i, row in enumerate(now)]


LOSSES = {
    "verl vanilla, TRL dapo and bnpo": Loss(
        p(losses.clipped, **RATIOS),
        weigh.per_token,
        p(_clip, **RATIOS),
        token_mean,
        "-0.255933",
        "0 -.18097 -.2 .22103 0",
    ),
    "verl seq-mean-token-mean, TRL grpo": Loss(
        p(losses.clipped, **RATIOS),
        weigh.per_sequence,
        p(_clip, **RATIOS),
        sequence_mean,
        "-0.054514",
        "0 -.15081 -.16667 .27629 0",
    ),
    "verl seq-mean-token-sum": Loss(
        p(losses.clipped, **RATIOS), weigh.summed, p(_clip, **RATIOS), sequence_sum, "-0.639833"
    ),
    "verl seq-mean-token-sum-norm": Loss(
        p(losses.clipped, **RATIOS),
        p(weigh.constant, limit=3),
        p(_clip, **RATIOS),
        p(fixed_length, limit=3),
        "-0.213278",
    ),
    "TRL dr_grpo": Loss(
        p(losses.clipped, **RATIOS),
        p(weigh.constant, limit=4),
        p(_clip, **RATIOS),
        p(fixed_length, limit=4),
        "-0.159958",
        "0 -.1131 -.125 .13815 0",
    ),
    "verl gspo, TRL grpo by sequence": Loss(
        p(losses.clipped_sequence, **RATIOS),
        weigh.per_sequence,
        p(_clip_sequence, **RATIOS),
        sequence_mean,
        "-0.171315",
        "-.19044 -.19044 -.19044 0 0",
    ),
    "gspo, token form": Loss(
        p(losses.clipped_sequence_token, **RATIOS),
        weigh.per_sequence,
        p(_clip_token, **RATIOS),
        sequence_mean,
        "-0.171315",
        "-.19044 -.19044 -.19044 0 0",
    ),
    "gspo, its own bounds": Loss(
        losses.clipped_sequence,
        weigh.per_sequence,
        p(_clip_sequence, low=3e-4, high=4e-4),
        sequence_mean,
        "-0.000350",
        "0 0 0 0 0",
    ),
    "TRL luspo": Loss(
        p(losses.clipped_sequence, **RATIOS), weigh.summed, p(_clip_sequence, **RATIOS), sequence_sum, "-0.913946"
    ),
    "sapo": Loss(
        losses.soft_gated,
        weigh.per_sequence,
        _soft,
        sequence_mean,
        "-0.220720",
        "-.24779 -.15047 -.16667 .27545 .12978",
    ),
    "verl cispo": Loss(
        p(losses.clipped_weight, **RATIOS),
        weigh.per_token,
        p(_weight, **RATIOS),
        token_mean,
        ".256374",
        "-.256 -.18097 -.2 .22103 .16",
    ),
    "TRL cispo, cap 5": Loss(
        losses.clipped_weight, weigh.per_token, _weight, token_mean, ".398745", "-.32974 -.18097 -.2 .22103 .10976"
    ),
    "TRL cispo, cap .2": Loss(
        p(losses.clipped_weight, high=-0.8), weigh.per_token, p(_weight, high=-0.8), token_mean, ".032000"
    ),
    "TRL vespo": Loss(losses.gamma_weighted, weigh.per_token, _gamma, token_mean, ".090062"),
    "verl geo_mean": Loss(
        p(losses.geometric, **RATIOS), weigh.per_sequence, p(_geometric, **RATIOS), sequence_mean, "-.055304"
    ),
    "verl gpg": Loss(losses.plain, weigh.per_token, _plain, token_mean, ".160000", "-.2 -.2 -.2 .2 .2"),
}

# ---- penalties at log-probability -1 where the reference model has -1.2, gates, the overlong penalty ----------------

PENALTIES = {
    penalties.kl1: (lambda x: -x, ".2"),
    penalties.kl2: (lambda x: x * x / 2, ".02"),
    penalties.kl3: (lambda x: math.exp(x) - x - 1, ".018731"),
}
# Ratio -> what multiplies A where A > 0, and where A < 0.
SAPO = {0.5: "1.5102 1.4159", 1.0: "2.0 1.90476", 2.0: "2.9242 2.8220", 10.0: "3.9995 3.8092"}
VESPO = {0.5: "1.1204 .3398", 1.0: "1 1", 1.5: ".5020 1.2416", 3.0: ".0223 .4945"}
OVERLONG = {18000: "-.394531"}


def parse_printed(text: str) -> Iterator[tuple[float, float]]:
    """Numbers of a line, and how far the exact one may be: half of the last digit, and what rounding adds."""
    for word in text.split():
        digits = len(word.partition(".")[2])
        yield float(word), max(0.51 * 10**-digits if digits >= 4 else 0, 5e-6 if digits < 4 else 0)
