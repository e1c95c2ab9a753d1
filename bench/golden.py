"""
Base estimators, losses, penalties and gates against `tests/support/golden.py`.

Two checks: against slow, plain formulas in float64 (values, and gradients by central differences), and against what
public code prints, to its last digit. Garbage in the padding, NaN included, must change no bit.
"""

import math
import sys

import numpy as np
import torch
from common import quick, report

from edgewise.learner.methods.batch import Batch, LossInputs
from edgewise.toolkit.groups import reward_shaping
from edgewise.toolkit.groups.table import Table
from tests.support import golden

BAR = 1e-6


def close(found: float, text: str) -> bool:
    ((number, room),) = golden.parse_printed(text)
    return abs(found - number) <= room


def advantages() -> tuple[float, int, int]:
    """The largest error, how many printed numbers there are, and how many differ."""
    worst, count, wrong = 0.0, 0, 0
    for rewards, lines in golden.PRINTED.items():
        for lengths in ([3] * 4, [10, 20, 30, 40]):
            table = Table.from_arrays([0] * 4, rewards, length=lengths)
            for each in golden.ESTIMATORS:
                found = each.part(table)
                dead = len(set(rewards)) == 1
                plain = [0.0] * 4 if dead else each.plain(rewards, lengths)
                worst = max(worst, float(np.abs(found - plain).max()))
                if lengths[0] == 3 and each.name in lines:
                    ends = zip((found[0], found[3]), lines[each.name].split(), strict=True)
                    wrong += sum(not close(float(value), text) for value, text in ends)
                    count += 2
    return worst, count, wrong


def descended(case: golden.Loss, garbage: float, wider: int) -> tuple[float, np.ndarray]:
    """Value and gradient of a loss, with `garbage` in its padding."""
    mask = torch.arange(3 + wider)[None] < torch.tensor([3, 2])[:, None]

    def filled(rows: golden.Rows) -> torch.Tensor:
        return torch.tensor([[*row, *[garbage] * (3 + wider - len(row))] for row in rows]).double()

    old, moved = (torch.tensor([[*row, 0.0][:3] for row in rows]).double() for rows in (golden.OLD, golden.MOVED))
    logp = filled([row[: len(golden.OLD[i])] for i, row in enumerate((old + moved).tolist())]).requires_grad_()
    batch = Batch.from_lists([(1,), (1,)], [(1, 2, 3), (4, 5)], [0, 0], golden.SIGN)
    weights = torch.nn.functional.pad(case.weigh(batch), (0, wider)).double()
    x = LossInputs(logp, filled(golden.OLD), mask, batch.advantage, batch.group)
    value = torch.where(mask, case.part(x) * weights, 0.0).sum()
    value.backward()
    assert logp.grad is not None
    assert not logp.grad[~mask].any(), "the padding has a gradient"
    return value.item(), logp.grad[mask].numpy()


def losses() -> tuple[float, float, int, int, bool]:
    """Largest errors of values and of gradients, printed numbers, how many differ, whether padding is inert."""
    value_error = slope_error = 0.0
    count = wrong = 0
    inert = True
    for name, case in golden.LOSSES.items():
        value, gradient = descended(case, 0.0, 0)
        plain, slopes = case.plain()
        value_error = max(value_error, abs(value - plain))
        slope_error = max(slope_error, float(np.abs(gradient - [s for row in slopes for s in row]).max()))
        numbers = [(value, case.value), *zip(gradient.tolist(), case.gradient.split(), strict=False)]
        off = sum(not close(found, text) for found, text in numbers)
        count, wrong = count + len(numbers), wrong + off
        for garbage in (9.9, math.nan, math.inf, -math.inf):
            for wider in (0, 4):
                same, slope = descended(case, garbage, wider)
                inert &= same == value and bool((slope == gradient).all())
        print(f"{name:36} {value:+.9f}  error {abs(value - plain):.1e}")
    return value_error, slope_error, count, wrong, inert


def penalties() -> tuple[float, int, int]:
    """The same of divergences and of the overlong penalty."""
    one = torch.ones(1, 1, dtype=torch.float64)
    x = LossInputs(-one, -one, one.bool(), one, torch.zeros(1), {"ref_logp": -1.2 * one})
    worst, wrong = 0.0, 0
    for part, (plain, text) in golden.PENALTIES.items():
        found = part(x, beta=1.0).item()
        worst, wrong = max(worst, abs(found - plain(-0.2))), wrong + (not close(found, text))
    for length, text in golden.OVERLONG.items():
        found = float(reward_shaping.overlong(Table.from_arrays([0], [0.0], longest=[length]))[0])
        worst, wrong = max(worst, abs(found + (length - 16384) / 4096)), wrong + (not close(found, text))
    return worst, len(golden.PENALTIES) + len(golden.OVERLONG), wrong


def main() -> int:
    quick()
    advantage_error, some, bad = advantages()
    value_error, slope_error, more, worse, inert = losses()
    penalty_error, few, off = penalties()
    figures = {
        "advantage_error": advantage_error,
        "loss_error": value_error,
        "gradient_error": slope_error,
        "penalty_error": penalty_error,
        "printed_numbers": some + more + few,
        "printed_numbers_missed": bad + worse + off,
        "padding_inert": inert,
    }
    errors = (advantage_error, value_error, slope_error, penalty_error)
    holds = max(errors) <= BAR and not bad + worse + off and inert
    return report("golden", figures, "absolute error <= 1e-6, garbage in the padding changes nothing", holds)


if __name__ == "__main__":
    sys.exit(main())
