"""
The published methods, one expression each; see `learner.method` for the axes.

Each is what its paper says of an update. Learning rates, group sizes and the number of optimizer steps for a batch are
settings of the run: papers choose them for other models. With one step for a batch every ratio is 1, and methods that
differ only in how they clip are the same.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial as p

from learner import loss, penalty, weigh
from learner.method import Method
from toolkit.errors import ConfigError
from toolkit.groups import advantage, keep, plan, shape
from toolkit.load import meant

__all__ = ["METHODS", "find"]

grpo = Method(
    paper="2402.03300",
    penalties=(p(penalty.kl3, beta=0.04),),
    note="The paper states no clip bound and no eps: 0.2 is PPO's, 1e-4 TRL's. TRL leaves the penalty out by default, "
    "and multiplies it by the ratio where it is asked for: penalties.kl3.corrected=true.",
)

dr_grpo = Method(
    paper="2503.20783",
    differs="no deviation, a constant length in place of the reply's, no KL",
    advantage=advantage.centred,
    weigh=weigh.constant,
    note="TRL divides by the most tokens of a reply, as here; verl by the padded width, which moves with the batch.",
)

dapo = Method(
    paper="2503.14476",
    differs="clip-higher, mean over tokens, dynamic sampling, overlong penalty, no KL",
    plan=plan.refill,
    shape=shape.overlong,
    keep=keep.mixed,
    weigh=weigh.per_token,
    loss=p(loss.clipped, high=0.28),
    note="Groups are judged before the overlong penalty, as in the paper and verl; TRL's dapo samples nothing anew.",
)

gspo = Method(
    paper="2507.18071",
    differs="one ratio for a sequence, no KL",
    loss=loss.clipped_sequence,
    note="verl's gspo is the token form, held at log r = 10; ours is held at 20. One gradient where A is a sequence's.",
)

gspo_token = replace(
    gspo,
    differs="one ratio for a sequence with the gradient of each token, no KL",
    loss=loss.clipped_sequence_token,
    note="The same gradient as gspo, but for credit that differs within a sequence.",
)

cispo = Method(
    paper="2506.13585",
    differs="clips the weight of log p instead of the objective, mean over tokens, no KL",
    weigh=weigh.per_token,
    loss=loss.clipped_weight,
    note="Bounds are relative, as in paper and verl, without a lower one, as in paper and TRL; the paper gives no "
    "upper one: 5 is what TRL recommends (TRL alone reads its epsilon_high as that bound itself, not 1 + it).",
)

sapo = Method(
    paper="2511.20347",
    differs="a sigmoid gate in place of the clip, cooler where A < 0, no KL",
    loss=loss.soft_gated,
    note="TRL and verl compute the same.",
)

gmpo = Method(
    paper="2507.20673",
    differs="geometric mean of clipped ratios, no KL",
    loss=loss.geometric,
    note="The paper's bounds of log r; verl takes its usual clip ratio of 0.2 for them.",
)

rloo = Method(
    paper="2402.14740",
    differs="mean of the others, a whole reply as one action, no clip, no KL",
    advantage=advantage.leave_one_out,
    weigh=weigh.summed,
    loss=loss.plain,
    note="The policy gradient of the paper; TRL clips the ratio of sequences, the same at the first step. Paper and "
    "TRL put KL into the reward: shape=less_kl.",
)

reinforce_plus_plus = Method(
    paper="2501.03262",
    differs="reward whitened over the batch's tokens, no groups, mean over tokens, no KL",
    advantage=advantage.whitened,
    weigh=weigh.per_token,
    note="As verl's estimator. The paper puts KL into the reward of each token: shape=less_kl does so for the reply.",
)

reinforce_plus_plus_baseline = replace(
    reinforce_plus_plus,
    differs="centred in the group, then whitened over the batch's tokens, mean over tokens, no KL",
    advantage=advantage.centred_whitened,
    note="As verl's estimator, which takes the batch's mean away again: a dead group can get a gradient, where "
    "lengths differ.",
)

gpg = Method(
    paper="2504.02546",
    differs="no deviation but a factor for groups without signal, no clip, mean over tokens, no KL",
    advantage=advantage.amplified,
    weigh=weigh.per_token,
    loss=loss.plain,
    note="The paper counts rollouts of groups without signal; verl counts rewards that are not 0: "
    "advantage.by_score=true.",
)

opo = Method(
    paper="2505.23585",
    differs="mean by length as baseline, no deviation, no clip, mean over tokens, no KL",
    advantage=advantage.length_weighted,
    weigh=weigh.per_token,
    loss=loss.plain,
    note="The paper learns on policy only; verl's estimator leaves the loss open, loss=clipped is its usual one.",
)

pass_at_k = Method(
    paper="2503.19595",
    differs="only the best of a group counts, by what it has before the second best, mean over tokens, no KL",
    advantage=advantage.best_only,
    weigh=weigh.per_token,
    note="verl divides by the deviation, as here; advantage.scaled=false is the paper's plain difference.",
)

bnpo = Method(
    paper="2402.03300",
    differs="mean over tokens, no KL",
    weigh=weigh.per_token,
    note="TRL's name for GRPO with a mean over the tokens of a device's batch: here of the whole batch, however it is "
    "sliced. The paper called BNPO (arXiv 2506.02864) is another method: it normalises by a Beta distribution.",
)

luspo = Method(
    paper="2602.05261",
    differs="GSPO, each sequence by its length, no KL",
    weigh=weigh.summed,
    loss=p(loss.clipped_sequence, low=2e-3, high=2.5e-3),
    note="As TRL, with the bounds that it gives for the paper.",
)

vespo = Method(
    paper="2602.10693",
    differs="a smooth gate of the whole sequence's ratio in place of the clip, mean over tokens, no KL",
    weigh=weigh.per_token,
    loss=loss.gamma_weighted,
    note="As TRL, which also multiplies the gate's ratio by what a sampler's numbers are off; here that is a weight "
    "of its own, as for every loss.",
)

METHODS: Mapping[str, Method] = {name: found for name, found in vars().items() if isinstance(found, Method)}
"""All of them by name."""


def find(name: str) -> Method:
    """A method by its name; "-" may stand for "_". Raises ConfigError with what is near."""
    known = name.strip().lower().replace("-", "_")
    if known not in METHODS:
        raise ConfigError(f"There is no method {name!r}{meant(known, list(METHODS))}")
    return METHODS[known]
