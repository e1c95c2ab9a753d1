"""
The published methods, one expression each; see `learner.methods.method` for the axes.

Each follows its paper's description of an update. Learning rates and group sizes are settings of the run, because
papers choose them for other models. So are `epochs` and `minibatches`, the optimizer steps for a batch, unless the
method's loss or penalty is trivial at a ratio of 1: then they are the paper's. With one step every ratio is 1, and
methods that differ only in their clip are the same.

A method's card stands in published.toml: its paper, how it differs from GRPO, whether the paper leaves formulas open,
and where paper and public code differ.

Order: methods of every library, then advantages and losses, credit over steps, and what to sample.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial as p
from pathlib import Path
from typing import Any

from edgewise.learner.methods import losses, penalties, token_weights
from edgewise.learner.methods.method import Method
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.groups import advantage, filters, reward_shaping, step_credit
from edgewise.toolkit.groups.sampling import hints, replay, rollout_plan, row_selection
from edgewise.toolkit.util.import_by_name import did_you_mean

__all__ = ["METHODS", "find_method"]

grpo = Method(penalties=(p(penalties.kl3, beta=0.04),))

dr_grpo = Method(advantage=advantage.centred, weigh=token_weights.constant)

dapo = Method(
    plan=rollout_plan.refill,
    shape=reward_shaping.overlong,
    keep=filters.mixed,
    weigh=token_weights.per_token,
    loss=p(losses.clipped, high=0.28),
)

gspo = Method(loss=losses.clipped_sequence)

gspo_token = replace(gspo, loss=losses.clipped_sequence_token)

cispo = Method(weigh=token_weights.per_token, loss=losses.clipped_weight)

sapo = Method(loss=losses.soft_gated)

gmpo = Method(loss=losses.geometric)

rloo = Method(advantage=advantage.leave_one_out, weigh=token_weights.summed, loss=losses.plain)

reinforce_plus_plus = Method(advantage=advantage.whitened, weigh=token_weights.per_token)

reinforce_plus_plus_baseline = replace(reinforce_plus_plus, advantage=advantage.centred_whitened)

gpg = Method(advantage=advantage.amplified, weigh=token_weights.per_token, loss=losses.plain)

opo = Method(advantage=advantage.length_weighted, weigh=token_weights.per_token, loss=losses.plain)

pass_at_k = Method(advantage=advantage.best_only, weigh=token_weights.per_token)

bnpo = Method(weigh=token_weights.per_token)

luspo = Method(weigh=token_weights.summed, loss=p(losses.clipped_sequence, low=2e-3, high=2.5e-3))

vespo = Method(weigh=token_weights.per_token, loss=losses.gamma_weighted)

# ---- advantages and losses --------------------------------------------------------------------------

ngrpo = Method(
    plan=rollout_plan.refill_imperfect,
    keep=filters.imperfect,
    advantage=advantage.calibrated,
    weigh=token_weights.per_token,
    loss=p(losses.clipped, low=0.16, high=0.24),
    minibatches=4,
)

drpo = Method(
    advantage=advantage.decoupled,
    weigh=token_weights.per_group,
    loss=losses.discriminated,
    penalties=(penalties.trust_region,),
    minibatches=4,
)

grao = Method(
    plan=rollout_plan.anchored, advantage=advantage.referred, weigh=token_weights.per_group, loss=losses.plain
)

confucius3_math = Method(
    plan=replay.recovered,
    keep=filters.mixed,
    advantage=advantage.by_hardness,
    weigh=token_weights.per_token,
    loss=p(losses.clipped, high=0.28),
    penalties=(penalties.targeted_entropy,),
)

rift = Method(
    plan=rollout_plan.listed,
    advantage=p(advantage.standardised, eps=1e-5, ddof=0),
    loss=losses.enumerated,
    minibatches=16,
)

reg_grpo = Method(
    advantage=p(advantage.standardised, eps=1e-8, ddof=0),
    keep=filters.mixed,
    loss=losses.regressed,
    penalties=(p(penalties.kl3, beta=0.1),),
    epochs=2,
)

unlikely = Method(
    plan=rollout_plan.refill,
    shape=reward_shaping.unlikely,
    keep=filters.mixed,
    advantage=p(advantage.standardised, eps=1e-6),
    penalties=(p(penalties.kl3, beta=0.1),),
    epochs=2,
)

dagrpo = Method(plan=p(rollout_plan.anchored, below=1), advantage=advantage.distinctive)

skywork_r1v2 = Method(
    plan=replay.buffered, keep=filters.mixed_or_stored, advantage=advantage.stored, loss=losses.clipped_to_sampler
)

advantage_alignment = Method(
    advantage=advantage.zero, credit=step_credit.aligned, weigh=token_weights.per_token, loss=losses.plain
)

# ---- credit over steps ------------------------------------------------------------------------------

gigpo = Method(
    advantage=p(advantage.standardised, eps=1e-6),
    credit=step_credit.at_anchors,
    weigh=token_weights.per_token,
    penalties=(p(penalties.kl3, beta=0.01),),
)

salt = Method(advantage=p(advantage.standardised, eps=1e-6), credit=step_credit.merged)

m_grpo = Method(
    plan=rollout_plan.delegated,
    advantage=advantage.shared,
    weigh=token_weights.per_share,
    loss=p(losses.clipped, high=0.28),
)

hrpo = Method(credit=step_credit.action_wise)

# ---- what to sample ---------------------------------------------------------------------------------

vade = Method(select=row_selection.vade)

xrpo = Method(plan=hints.explored, advantage=advantage.sharpened)

scaf_grpo = Method(plan=hints.scaffolded, advantage=p(advantage.standardised, eps=1e-6))

pc_grpo = Method(advantage=advantage.centred, weigh=token_weights.curriculum)

deepvideo_r1 = replace(reg_grpo, plan=hints.hinted)

CARDS: Mapping[str, Mapping[str, Any]] = tomllib.loads(Path(__file__).with_name("published.toml").read_text("utf-8"))
METHODS: Mapping[str, Method] = {name: replace(x, **CARDS[name]) for name, x in vars().items() if isinstance(x, Method)}
"""All methods by name, in the order of this file, each with its card."""


def find_method(name: str) -> Method:
    """Return a method by name; "-" may stand for "_". Raise ConfigError that suggests similar names."""
    known = name.strip().lower().replace("-", "_")
    if known not in METHODS:
        raise ConfigError(f"There is no method {name!r}{did_you_mean(known, list(METHODS))}")
    return METHODS[known]
