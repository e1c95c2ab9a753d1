"""A method as a value: what it is printed as, changed by, and made of."""

from functools import partial

import numpy as np
import pytest

from edgewise.learner.methods import losses, penalties
from edgewise.learner.methods.method import (
    AXES,
    Method,
    compute_advantages,
    describe,
    limit_lengths,
    list_parts,
    override,
    parameters_of,
)
from edgewise.learner.methods.published import METHODS, find_method
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.groups import advantage, filters, reward_shaping, step_credit
from edgewise.toolkit.groups.table import Table

GRPO, DAPO = METHODS["grpo"], METHODS["dapo"]


def test_describe_has_one_line_for_each_axis() -> None:
    assert describe(DAPO) == [
        "select: in_turn",
        "plan: refill",
        "shape: overlong limit=20480 buffer=0.2 factor=1.0",
        "keep: mixed",
        "advantage: standardised eps=0.0001 ddof=1",
        "credit: broadcast",
        "weigh: per_token",
        "loss: clipped low=0.2 high=0.28 delta=null",
        "penalties: none",
        "epochs: 1",
        "minibatches: 1",
    ]


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("loss.high=0.3", "loss: clipped low=0.2 high=0.3 delta=null"),
        ("loss.delta=4", "loss: clipped low=0.2 high=0.2 delta=4.0"),
        ("loss=clipped_weight", "loss: clipped_weight low=1.0 high=4.0"),
        ("advantage.ddof=0", "advantage: standardised eps=0.0001 ddof=0"),
        ("penalties.kl3.beta=0.1", "penalties: kl3 beta=0.1 corrected=false clamp=null"),
        ("penalties.kl3.clamp=10", "penalties: kl3 beta=0.04 corrected=false clamp=10.0"),
        ("penalties=none", "penalties: none"),
        ("penalties=kl2, entropy", "penalties: kl2 beta=0.001, entropy coef=0.001"),
        ("epochs=3", "epochs: 3"),
    ],
)
def test_setting_changes_one_line_of_describe(setting, line) -> None:
    changed = describe(override(GRPO, setting))
    assert line in changed
    assert sum(a != b for a, b in zip(changed, describe(GRPO), strict=True)) == 1


def test_optional_parameter_can_be_set_and_unset() -> None:
    changed = override(GRPO, "loss.delta=4")
    assert describe(override(changed, "loss.delta=null")) == describe(GRPO)


def test_override_applies_in_order_and_changes_no_original() -> None:
    before = describe(GRPO)
    assert "loss: plain" in describe(override(GRPO, "loss.high=1", "loss=plain"))
    assert describe(GRPO) == before


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("loss.hihg=1", "clipped has no parameter 'hihg'; it has low, high, delta"),
        ("weigh.limit=4", "per_sequence has no parameter 'limit': it has none"),
        ("losss.high=1", "'losss.high' is no setting of a method; did you mean 'loss'"),
        ("loss.clipped.high=1", "'loss.clipped.high' is no setting of a method"),
        ("loss=cliped", "loss has no part 'cliped'; did you mean 'clipped'"),
        ("plan=half_width", "plan has no part 'half_width'"),
        ("penalties=kl3,kl9", "penalties has no part 'kl9'; did you mean"),
        ("penalties.kl2.beta=1", "no penalty 'kl2'; did you mean 'kl3'"),
        ("loss.high", "write it as loss.high=0.28"),
        ("loss.high=much", "high='much' does not fit clipped, where it is 0.2"),
        ("loss.high=true", "high=True does not fit clipped"),
        ("loss.high=NaN", "does not fit clipped"),
        ("loss.high=null", "does not fit clipped"),
        ("advantage.ddof=0.5", "does not fit standardised, where it is 1"),
        ("epochs=0", "epochs is a whole number from 1"),
        ("epochs=two", "epochs is a whole number from 1"),
        ("paper=1", "'paper' is no setting"),
    ],
)
def test_wrong_setting_raises_config_error(setting, sentence) -> None:
    with pytest.raises(ConfigError) as error:
        override(GRPO, setting)
    assert sentence in str(error.value)


def test_find_method_accepts_dashes_and_suggests_names() -> None:
    assert find_method("grpo") is GRPO and find_method("Dr-GRPO") is METHODS["dr_grpo"]
    with pytest.raises(ConfigError, match="no method 'grop'; did you mean 'grpo'"):
        find_method("grop")


@pytest.mark.parametrize("axis", AXES)
def test_parts_of_an_axis_share_the_default_signature(axis) -> None:
    usual = GRPO.penalties[0].func if axis == "penalties" else getattr(Method(paper=""), axis)
    assert usual in list_parts(axis).values()
    assert {"half_width", "priority", "reads", "gain"}.isdisjoint(list_parts(axis))


def test_required_columns_are_those_that_parts_declare() -> None:
    assert METHODS["dr_grpo"].required_columns == frozenset()
    assert GRPO.required_columns == {"ref_logp"} and DAPO.required_columns == {"longest"}
    assert override(DAPO, "penalties=entropy", "shape=less_kl").required_columns == {"entropy", "kl"}


def test_length_limit_reaches_every_part_that_has_one() -> None:
    assert parameters_of(limit_lengths(DAPO, 64).shape)["limit"] == 64
    assert parameters_of(limit_lengths(METHODS["dr_grpo"], 64).weigh)["limit"] == 64
    assert describe(limit_lengths(GRPO, 64)) == describe(GRPO)


def test_limit_of_rollouts_is_that_of_all_their_replies() -> None:
    assert parameters_of(limit_lengths(METHODS["drpo"], 64, 5).advantage)["limit"] == 320
    assert parameters_of(limit_lengths(DAPO, 64, 5).shape)["limit"] == 64


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("ngrpo", ["advantage.best=10"], "plan.best=1, keep.best=1, advantage.best=10: all of these"),
        ("ngrpo", ["plan.best=9", "keep.best=9"], "plan.best=9, keep.best=9, advantage.best=1: all of these"),
        ("dagrpo", ["advantage.full=2"], "plan.full=1, advantage.full=2: all of these"),
    ],
)
def test_two_values_of_a_shared_parameter_raise_config_error(name, settings, sentence) -> None:
    with pytest.raises(ConfigError) as error:
        override(METHODS[name], *settings)
    assert sentence in str(error.value)
    assert override(METHODS["ngrpo"], *(f"{axis}.best=10" for axis in ("plan", "keep", "advantage")))


def test_keep_sees_raw_rewards_and_advantage_shaped_ones() -> None:
    method = Method(
        paper="",
        keep=filters.mixed,
        shape=partial(reward_shaping.overlong, limit=10, buffer=0.5),
        advantage=advantage.centred,
    )
    table = Table.from_arrays([0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 2, 2, 3], longest=[0, 10, 10, 0])
    selection, credits = compute_advantages(method, table)
    assert selection.tolist() == [False, False, True, True]  # the first group differs only after shaping
    assert credits.tolist() == [0, 0, 0, 0, 0]
    assert compute_advantages(override(method, "shape.factor=0.5"), table)[1].tolist() == [0, 0, 0.25, 0.25, -0.25]


def test_step_columns_follow_the_selected_rollouts() -> None:
    method = Method(paper="", keep=lambda table: table.reward > 0, credit=step_credit.action_wise)
    table = Table(np.array([0, 0]), np.array([0.0, 1.0]), np.array([1, 1]), {}, {"action_reward": np.array([1.0, 3.0])})
    selection, credits = compute_advantages(method, table)
    assert selection.tolist() == [False, True] and credits.tolist() == [-1, 1]


def test_describe_shows_parts_by_their_function_name() -> None:
    method = Method(paper="", loss=partial(losses.geometric, low=0.1), penalties=(penalties.entropy,))
    assert {"loss: geometric low=0.1 high=0.4", "penalties: entropy coef=0.001"} <= set(describe(method))
