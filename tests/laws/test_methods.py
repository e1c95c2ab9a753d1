"""What every method of `learner.methods.published` obeys: one table, a method a row."""

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgewise.learner.methods.batch import Batch, LossInputs, split_into_slices
from edgewise.learner.methods.batch_statistics import STATISTICS, add_statistics
from edgewise.learner.methods.method import (
    AXES,
    Method,
    columns_of,
    compute_advantages,
    compute_losses,
    describe,
    limit_lengths,
    override,
    parameters_of,
)
from edgewise.learner.methods.published import METHODS
from edgewise.learner.update import gradient_step as updating
from edgewise.toolkit.groups import step_credit as credit
from edgewise.toolkit.groups.table import Table, reads_columns
from tests.support.laws.claims import (
    ALONE,
    CHOICE,
    CLAIMS,
    COLUMNS,
    COUNTS,
    DEAD,
    ENTROPY,
    GROUP,
    LENGTH,
    LONGEST,
    NEW,
    OLD,
    OLDER,
    PROMPTS,
    REF,
    REWARD,
    SAMPLER,
    SHARE,
    STATE,
    STORED,
    N,
    mates,
    mean,
)

every_method = pytest.mark.parametrize("name", METHODS)


def claiming(what: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [name for name, claims in CLAIMS.items() if getattr(claims, what)])


ONE = (1,) * N


def table(reward: Sequence[float] = REWARD, order: Sequence[int] = range(N), counts: Sequence[int] = ONE) -> Table:
    """With so many steps for each rollout; the task says nothing of the reward of a single one."""

    def sorted_by(values: Sequence) -> np.ndarray:
        return np.asarray(values)[list(order)]

    of_runs = {name: sorted_by(column) for name, column in COLUMNS.items()}
    steps = np.repeat(np.arange(N), sorted_by(counts))
    result = Table.from_arrays(sorted_by(GROUP), sorted_by(reward), steps, **of_runs)
    state, last = sorted_by(STATE).astype(object)[steps], np.append(steps[1:] != steps[:-1], True)
    of_steps = {
        "state": state,
        "action": state + "!",
        "observation": state + "?",
        "step_reward": np.where(last, result.reward[steps], 0.0),
        "action_reward": np.zeros(len(steps)),
        "partner_reward": np.full(len(steps), 0.3),
    }
    return replace(result, step_columns=of_steps)


def batch(
    method: Method, reward: Sequence[float] = REWARD, order: Sequence[int] = range(N), policy: torch.Tensor = NEW
) -> Batch:
    """The sequences that the method keeps; the column `row` is the number of each."""
    selection, credit = compute_advantages(limit_lengths(method, 8), table(reward, order))
    rows = [i for i, keeps in zip(order, selection, strict=True) if keeps]
    longest = max([1, *(LENGTH[i] for i in rows)])
    of_tokens = {"old_logp": OLD, "ref_logp": REF, "entropy": ENTROPY, "sampler_logp": SAMPLER}
    of_sequences = {"row": range(N), "rollout": range(N), "reward": reward, "share": SHARE, "choice": CHOICE}
    result = Batch.from_lists(
        [PROMPTS[i] for i in rows],
        [range(LENGTH[i]) for i in rows],
        [GROUP[i] for i in rows],
        credit[selection],
        **{name: x[rows, :longest] for name, x in of_tokens.items()},
        **{name: torch.tensor([x[i] for i in rows]) for name, x in of_sequences.items()},
    )
    return add_statistics(method, result, policy[rows, :longest], result.column("entropy"))


def tokens(part: Batch, logp: torch.Tensor) -> LossInputs:
    return LossInputs(logp, part.column("old_logp"), part.mask, part.advantage, part.group, part.columns)


def descend(method: Method, whole: Batch, policy: torch.Tensor = NEW, size: int = 10**6):
    """The loss and its gradient (N, LONGEST) in the log-probabilities, summed over slices of `size` tokens."""
    logp = policy.clone().requires_grad_()
    weights, rows = method.weigh(whole).double(), whole.column("row")
    total = torch.zeros((), dtype=torch.float64)
    for which in split_into_slices(whole, size, whole_groups=method.needs_whole_groups):
        part = whole.select_rows(which)
        x = tokens(part, logp[rows[which], : part.mask.shape[1]])
        loss = (compute_losses(method, x) * weights[which, : part.mask.shape[1]]).sum()
        loss.backward()
        total += loss.detach()
    return total, torch.zeros_like(logp) if logp.grad is None else logp.grad


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-10, atol=1e-12)


# ---- laws ------------------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("size", [1, 12, 30])
def test_slicing_does_not_change_the_gradient(name, size) -> None:
    method = METHODS[name]
    (value, whole), (sum_of_values, sliced) = (descend(method, batch(method), size=s) for s in (10**6, size))
    assert whole.abs().sum() > 0
    assert close(whole, sliced) and close(value, sum_of_values)


@every_method
def test_order_of_rows_does_not_change_the_gradient(name) -> None:
    method = METHODS[name]
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1)).tolist()
    (value, straight), (other, shuffled) = (descend(method, batch(method, order=o)) for o in (range(N), order))
    assert close(straight, shuffled) and close(value, other)


@claiming("surrogate")
def test_gradient_on_policy_is_the_policy_gradient(name) -> None:
    method = METHODS[name]
    whole = batch(method, policy=OLD)
    whole = whole.with_columns(ref_logp=whole.column("old_logp"), sampler_logp=whole.column("old_logp"))
    _, gradient = descend(method, whole, OLD)
    weights, expected = method.weigh(whole).double(), torch.zeros_like(OLD)
    if CLAIMS[name].whole:
        weights = weights.sum(1, keepdim=True) * whole.mask
    expected[whole.column("row"), : whole.mask.shape[1]] = -weights * whole.advantage
    if CLAIMS[name].whole:  # a reply without tokens is in its group's mean, and in no gradient
        gradient, expected = (
            x[[i for i in range(N) if all(LENGTH[j] for j in mates(i))]] for x in (gradient, expected)
        )
    assert torch.allclose(gradient, expected, rtol=1e-7 if CLAIMS[name].whole else 1e-12, atol=1e-15)


@every_method
def test_ratios_are_to_the_policy_before_the_update(name) -> None:
    """What a server that sampled says of its own is no part of a ratio, but for losses that declare it."""
    method = METHODS[name]
    whole = batch(method, policy=OLD)
    fresh = replace(whole, columns={n: x for n, x in whole.columns.items() if n not in ("old_logp", "row")})
    now = OLD[whole.column("row"), : whole.mask.shape[1]]
    parse_line = compute_losses(method, updating.build_loss_inputs(whole, now))
    assert not torch.allclose(whole.column("sampler_logp"), now)
    assert torch.equal(compute_losses(method, updating.build_loss_inputs(fresh, now)), parse_line)
    if "sampler_logp" not in method.required_columns:
        far = fresh.with_columns(sampler_logp=fresh.column("sampler_logp") - 3)
        assert torch.equal(compute_losses(method, updating.build_loss_inputs(far, now)), parse_line)


# In float64 the sum of eight float32 is exact, that of eight times 0.1 is not.
every_equal = pytest.mark.parametrize("equal", [float(np.float32(0.1)), 0.1])


@every_equal
@claiming("dead")
def test_group_without_signal_has_exactly_zero_gradient(name, equal) -> None:
    method = replace(METHODS[name], penalties=())
    reward = [*REWARD[: DEAD.start], *[equal] * 8, *REWARD[DEAD.stop :]]
    _, gradient = descend(method, batch(method, reward))
    assert not gradient[DEAD].any() and not gradient[ALONE].any()  # nor has a group of one
    assert gradient.any() and gradient[OLDER].any() == ("stored" in method.required_columns)


@every_equal
@claiming("dead")
def test_steps_of_a_group_without_signal_get_no_credit(name, equal) -> None:
    """Where a reward is worth the same sooner and later: with a discount, a shorter way to it is better."""
    method = METHODS[name]
    if "gamma" in parameters_of(method.credit):
        method = override(method, "credit.gamma=1")
    reward = [*REWARD[: DEAD.start], *[equal] * 8, *REWARD[DEAD.stop :]]
    result = table(reward, counts=COUNTS)
    credit = compute_advantages(method, result)[1]
    assert not credit[(result.rollout >= DEAD.start) & (result.rollout < DEAD.stop)].any()
    assert not credit[result.rollout == ALONE].any()
    assert credit.any() and credit[result.rollout >= OLDER.start].any() == ("stored" in method.required_columns)


@every_equal
@claiming("all_dead")
def test_batch_without_signal_has_exactly_zero_gradient(name, equal) -> None:
    """But for what earlier steps left."""
    method = replace(METHODS[name], penalties=())
    if "longest" in columns_of(method.shape):
        method = override(method, "shape.factor=0")
    _, gradient = descend(method, batch(method, [equal] * N))
    assert not gradient[: OLDER.start].any()
    assert gradient[OLDER].any() == ("stored" in method.required_columns)


@claiming("shift")
def test_reward_offset_of_a_group_changes_nothing(name) -> None:
    shift = [7.0] * N if CLAIMS[name].rule is None else [[3.0, 0.0, -5.0, 2.0, 1.0][group] for group in GROUP]
    moved = np.asarray(REWARD) + shift
    (_, a), (_, b) = (compute_advantages(METHODS[name], table(reward)) for reward in (REWARD, moved))
    assert np.allclose(a, b, rtol=1e-9, atol=1e-9)


@claiming("scale")
def test_reward_scale_changes_nothing_if_divided_out(name) -> None:
    method = override(METHODS[name], "advantage.eps=0", "shape=raw")
    (_, a), (_, b) = (compute_advantages(method, table(reward)) for reward in (REWARD, 8 * np.asarray(REWARD)))
    assert a.any() and np.allclose(a, b, rtol=1e-9, atol=1e-12)


@every_method
@pytest.mark.parametrize("garbage", [9.9, math.nan, math.inf, -math.inf])
def test_padding_values_do_not_matter(name, garbage) -> None:
    method = METHODS[name]
    whole = batch(method)
    value, clean = descend(method, whole)

    def spoil(x: torch.Tensor) -> torch.Tensor:
        return torch.where(whole.mask, x, garbage)

    logp = NEW.clone()
    logp[whole.column("row"), : whole.mask.shape[1]] = spoil(NEW[whole.column("row"), : whole.mask.shape[1]])
    dirty = {n: spoil(whole.column(n)) for n in ("old_logp", "ref_logp", "entropy", "sampler_logp")}
    spoiled_batch = whole.with_columns(**dirty)
    now = logp[whole.column("row"), : whole.mask.shape[1]]
    other, gradient = descend(method, add_statistics(method, spoiled_batch, now, spoiled_batch.column("entropy")), logp)
    assert value == other and (clean == gradient).all()


@every_method
def test_width_of_padding_does_not_matter(name) -> None:
    method = METHODS[name]
    whole = batch(method)

    def wider(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x, (0, LONGEST - x.shape[1]))

    wide = replace(
        whole,
        ids=wider(whole.ids),
        mask=wider(whole.mask),
        columns={k: wider(v) if v.ndim == 2 else v for k, v in whole.columns.items()},
    )
    (value, narrow), (other, gradient) = descend(method, whole), descend(method, wide)
    assert close(value, other) and close(narrow, gradient)


@every_method
def test_loss_is_finite_far_from_the_old_policy(name) -> None:
    method = METHODS[name]
    signs = torch.where(torch.arange(LONGEST) % 2 == 0, 1.0, -1.0).double()
    far = OLD + 5000 * signs
    whole = batch(method, policy=far)
    whole = whole.with_columns(ref_logp=far[whole.column("row"), : whole.mask.shape[1]])
    value, gradient = descend(method, whole, far)
    assert value.isfinite() and gradient.isfinite().all()


RULED = [name for name, claims in CLAIMS.items() if claims.rule]
# Credit of single steps is compared with slow loops in tests/toolkit/groups/test_step_credit.py.
OF_ROLLOUTS = [name for name in RULED if METHODS[name].credit in (credit.broadcast, credit.action_wise)]


@pytest.mark.parametrize(
    ("name", "counts"),
    [*((name, ONE) for name in RULED), *((name, COUNTS) for name in OF_ROLLOUTS)],
    ids=[*RULED, *(f"{name}, several steps" for name in OF_ROLLOUTS)],
)
def test_advantages_equal_a_naive_loop(name, counts) -> None:
    rule, method, result = CLAIMS[name].rule, METHODS[name], table(counts=counts)
    assert rule is not None
    selection, gradient = compute_advantages(override(method, "shape=raw"), result)
    for i, value in zip(result.rollout.tolist(), gradient, strict=True):
        dead = len({REWARD[j] for j in mates(i)}) == 1
        older = "stored" in method.required_columns and not math.isnan(STORED[i])
        if not dead or older:
            assert value == pytest.approx(rule(i), abs=1e-9)
        elif CLAIMS[name].dead:
            assert value == 0
        assert selection[i] or dead


@pytest.mark.parametrize("name", [name for name, claims in CLAIMS.items() if not claims.rule])
def test_whitened_advantages_equal_a_naive_loop_over_tokens(name) -> None:
    groups = {g: [r for r, other in zip(REWARD, GROUP, strict=True) if other == g] for g in GROUP}
    raw = name == "reinforce_plus_plus"
    one = [r if raw else r - mean(groups[g]) for r, g in zip(REWARD, GROUP, strict=True)]
    every = [value for value, length in zip(one, LENGTH, strict=True) for _ in range(length)]
    expected = (np.array(one) - mean(every)) / math.sqrt(statistics.variance(every) + 1e-8)
    assert np.allclose(compute_advantages(METHODS[name], table())[1], expected, atol=1e-7)


@every_method
def test_missing_column_is_named(name) -> None:
    method = METHODS[name]
    before, weighed, after = (
        frozenset().union(*map(columns_of, parts))
        for parts in (
            (method.shape, method.keep, method.advantage, method.credit),
            (method.weigh,),
            (method.loss, *method.penalties),
        )
    )
    assert method.required_columns == before | weighed | after
    for column in before:
        with pytest.raises(ValueError, match=f"no column '{column}'"):
            compute_advantages(method, table().select_columns(before - {column}))
    whole = batch(method)
    for column in weighed:
        others = {name: x for name, x in whole.columns.items() if name != column}
        with pytest.raises(ValueError, match=f"no column '{column}'"):
            method.weigh(replace(whole, columns=others))
    for column in after - {"group"}:
        with pytest.raises(ValueError, match=f"no column '{column}'"):
            compute_losses(method, tokens(whole, whole.column("old_logp")).select_columns(after - {column}))


def test_part_sees_only_the_columns_it_declares() -> None:
    whole = batch(METHODS["grpo"])
    x = tokens(whole, whole.column("old_logp"))
    assert "ref_logp" in x.columns
    with pytest.raises(ValueError, match="ref_logp"):
        compute_losses(replace(METHODS["grpo"], loss=lambda x: x.column("ref_logp")), x)
    with pytest.raises(ValueError, match="length"):
        compute_advantages(replace(METHODS["opo"], keep=lambda table: table.column("length") > 0), table())


@reads_columns("group")
def against_the_group(x: LossInputs) -> torch.Tensor:
    """Squares of what each sequence moved more than the mean of its group."""
    moved = x.sum(x.log_ratio)
    same = (x.group[:, None] == x.group[None]).double()
    return (moved - same @ moved / same.sum(1, keepdim=True)).square()


def test_loss_that_reads_group_gets_whole_groups() -> None:
    method = Method(paper="", loss=against_the_group)
    (value, whole), (other, sliced) = (descend(method, batch(method), size=size) for size in (10**6, 1))
    assert whole.any() and close(whole, sliced) and close(value, other)
    cut = descend(replace(method, loss=lambda x: against_the_group(x)), batch(method), size=1)
    assert not close(whole, cut[1])


@every_method
def test_describe_round_trips_through_override(name) -> None:
    method = METHODS[name]
    settings = [setting for line in describe(method) for setting in parse_line(line)]
    assert describe(override(Method(paper=""), *settings)) == describe(method)


def parse_line(line: str) -> list[str]:
    """A line of `describe` as settings for `override`."""
    axis, _, text = line.partition(": ")
    if axis not in AXES:
        return [f"{axis}={text}"]
    parts = [part.split(" ") for part in text.split(", ")]
    path = (lambda part: f"{axis}.{part}") if axis == "penalties" else lambda part: axis
    chosen = [f"{axis}={','.join(part[0] for part in parts)}"]
    return chosen + [f"{path(name)}.{setting}" for name, *rest in parts for setting in rest]


@every_method
def test_every_method_has_paper_difference_and_note(name) -> None:
    method = METHODS[name]
    assert re.fullmatch(r"\d{4}\.\d{5}", method.paper)
    assert (method.differs == "") == (name == "grpo")
    assert method.note.endswith((".", ")"))
    assert method.reconstructed == ("reconstruction" in method.note)
    for part in method.parts():
        assert (part.func if hasattr(part, "func") else part).__doc__


def test_statistics_are_weighted_means_over_all_tokens() -> None:
    method = METHODS["confucius3_math"]
    whole = batch(method)
    inside = ENTROPY[whole.column("row"), : whole.mask.shape[1]][whole.mask]
    assert torch.allclose(whole.column("mean_entropy"), inside.mean(), atol=1e-7)
    assert STATISTICS.keys() & whole.columns.keys() == {"mean_entropy"}
    wide = METHODS["drpo"]
    whole = batch(wide)
    moved = (OLD - NEW)[whole.column("row"), : whole.mask.shape[1]]
    by_group = [
        mean([float(moved[i][whole.mask[i]].mean()) if LENGTH[i] else 0.0 for i in mates(first)])
        for first in (0, 4, 12, 15, 16)
    ]
    total = float(wide.weigh(whole).sum())  # one reply has no tokens
    assert float(whole.column("mean_kl")[0]) == pytest.approx(sum(by_group) / 5 / total, abs=1e-7)
