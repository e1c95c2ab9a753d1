"""
The published methods, one expression each; see `learner.methods.method` for the axes.

Each follows its paper's description of an update. Learning rates and group sizes are settings of the run, because
papers choose them for other models. So are `epochs` and `minibatches`, the optimizer steps for a batch, unless the
method's loss or penalty is trivial at a ratio of 1: then they are the paper's. With one step every ratio is 1, and
methods that differ only in their clip are the same.

Order: methods of every library, then advantages and losses, credit over steps, and what to sample.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial as p

from edgewise.learner.methods import losses, penalties, token_weights
from edgewise.learner.methods.method import Method
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.groups import advantage, filters, reward_shaping, step_credit
from edgewise.toolkit.groups.sampling import hints, replay, rollout_plan, row_selection
from edgewise.toolkit.util.import_by_name import did_you_mean

__all__ = ["METHODS", "find_method"]

grpo = Method(
    paper="2402.03300",
    penalties=(p(penalties.kl3, beta=0.04),),
    note="The paper states no clip bound and no eps: 0.2 is PPO's, 1e-4 TRL's. TRL leaves the penalty out by default, "
    "and multiplies it by the ratio where it is asked for: penalties.kl3.corrected=true.",
)

dr_grpo = Method(
    paper="2503.20783",
    differs="no deviation, a constant length in place of the reply's, no KL",
    advantage=advantage.centred,
    weigh=token_weights.constant,
    note="TRL divides by the most tokens of a reply, as here; verl by the padded width, which moves with the batch.",
)

dapo = Method(
    paper="2503.14476",
    differs="clip-higher, mean over tokens, dynamic sampling, overlong penalty, no KL",
    plan=rollout_plan.refill,
    shape=reward_shaping.overlong,
    keep=filters.mixed,
    weigh=token_weights.per_token,
    loss=p(losses.clipped, high=0.28),
    note="Groups are judged before the overlong penalty, as in the paper and verl; TRL's dapo samples nothing anew.",
)

gspo = Method(
    paper="2507.18071",
    differs="one ratio for a sequence, no KL",
    loss=losses.clipped_sequence,
    note="verl's gspo is the token form, held at log r = 10; ours is held at 20. One gradient where A is a sequence's.",
)

gspo_token = replace(
    gspo,
    differs="one ratio for a sequence with the gradient of each token, no KL",
    loss=losses.clipped_sequence_token,
    note="The same gradient as gspo, but for credit that differs within a sequence.",
)

cispo = Method(
    paper="2506.13585",
    differs="clips the weight of log p instead of the objective, mean over tokens, no KL",
    weigh=token_weights.per_token,
    loss=losses.clipped_weight,
    note="Bounds are relative, as in paper and verl, without a lower one, as in paper and TRL; the paper gives no "
    "upper one: 5 is what TRL recommends (TRL alone reads its epsilon_high as that bound itself, not 1 + it).",
)

sapo = Method(
    paper="2511.20347",
    differs="a sigmoid gate in place of the clip, cooler where A < 0, no KL",
    loss=losses.soft_gated,
    note="TRL and verl compute the same.",
)

gmpo = Method(
    paper="2507.20673",
    differs="geometric mean of clipped ratios, no KL",
    loss=losses.geometric,
    note="The paper's bounds of log r; verl takes its usual clip ratio of 0.2 for them.",
)

rloo = Method(
    paper="2402.14740",
    differs="mean of the others, a whole reply as one action, no clip, no KL",
    advantage=advantage.leave_one_out,
    weigh=token_weights.summed,
    loss=losses.plain,
    note="The policy gradient of the paper; TRL clips the ratio of sequences, the same at the first step. Paper and "
    "TRL put KL into the reward: shape=less_kl.",
)

reinforce_plus_plus = Method(
    paper="2501.03262",
    differs="reward whitened over the batch's tokens, no groups, mean over tokens, no KL",
    advantage=advantage.whitened,
    weigh=token_weights.per_token,
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
    weigh=token_weights.per_token,
    loss=losses.plain,
    note="The paper counts rollouts of groups without signal; verl counts rewards that are not 0: "
    "advantage.by_score=true.",
)

opo = Method(
    paper="2505.23585",
    differs="mean by length as baseline, no deviation, no clip, mean over tokens, no KL",
    advantage=advantage.length_weighted,
    weigh=token_weights.per_token,
    loss=losses.plain,
    note="The paper learns on policy only; verl's estimator leaves the loss open, loss=clipped is its usual one.",
)

pass_at_k = Method(
    paper="2503.19595",
    differs="only the best of a group counts, by what it has before the second best, mean over tokens, no KL",
    advantage=advantage.best_only,
    weigh=token_weights.per_token,
    note="verl divides by the deviation, as here; advantage.scaled=false is the paper's plain difference.",
)

bnpo = Method(
    paper="2402.03300",
    differs="mean over tokens, no KL",
    weigh=token_weights.per_token,
    note="TRL's name for GRPO with a mean over the tokens of a device's batch: here of the whole batch, however it is "
    "sliced. The paper called BNPO (arXiv 2506.02864) is another method: it normalises by a Beta distribution.",
)

luspo = Method(
    paper="2602.05261",
    differs="GSPO, each sequence by its length, no KL",
    weigh=token_weights.summed,
    loss=p(losses.clipped_sequence, low=2e-3, high=2.5e-3),
    note="As TRL, with the bounds that it gives for the paper.",
)

vespo = Method(
    paper="2602.10693",
    differs="a smooth gate of the whole sequence's ratio in place of the clip, mean over tokens, no KL",
    weigh=token_weights.per_token,
    loss=losses.gamma_weighted,
    note="As TRL, which also multiplies the gate's ratio by what a sampler's numbers are off; here that is a weight "
    "of its own, as for every loss.",
)

# ---- advantages and losses --------------------------------------------------------------------------

ngrpo = Method(
    paper="2509.18851",
    differs="a virtual best reward in each group, so that all-wrong ones are pushed down, clip 0.16/0.24, no KL",
    plan=rollout_plan.refill_imperfect,
    keep=filters.imperfect,
    advantage=advantage.calibrated,
    weigh=token_weights.per_token,
    loss=p(losses.clipped, low=0.16, high=0.24),
    minibatches=4,
    note="The sample deviation of the code; equation 6 divides by G + 1: advantage.ddof=0. Equation 8 prints max for "
    "A < 0, which leaves no gradient; the code's min is used. The script leaves the trainer's entropy bonus of 0.001 "
    "on, which no text mentions: penalties=entropy. The code gives a group of one its reward, here 0. Batches of 1024 "
    "in four parts. Another best reward than 1 is set in plan.best, keep.best and advantage.best.",
)

drpo = Method(
    paper="2510.04474",
    differs="right answers weighed by length, against the likeliest wrong ones; a trust region, no KL",
    advantage=advantage.decoupled,
    weigh=token_weights.per_group,
    loss=losses.discriminated,
    penalties=(penalties.trust_region,),
    minibatches=4,
    note="The code's surrogate has this gradient and another value. tau=10 is the script's, 1 the configuration's. Its "
    "C is the padded width; here the most tokens of a reply. Its KL is a mean over tokens; here over groups, as "
    "the loss is. At the first of the minibatches the trust region does nothing.",
)

grao = Method(
    paper="2508.07750",
    differs="a reference answer in each group: explore, imitate, align; no ratio, no clip, no KL",
    plan=rollout_plan.anchored,
    advantage=advantage.referred,
    weigh=token_weights.per_group,
    loss=losses.plain,
    note="No code is public. The paper does not say whether the reference is in mean and deviation: it is here, as "
    "without it the third term loses its reference and equal groups blow up: advantage.pooled=false.",
)

confucius3_math = Method(
    paper="2506.18330",
    differs="advantage by hardness without a deviation, entropy held at a target, leftover groups used",
    plan=replay.recovered,
    keep=filters.mixed,
    advantage=advantage.by_hardness,
    weigh=token_weights.per_token,
    loss=p(losses.clipped, high=0.28),
    penalties=(penalties.targeted_entropy,),
    note="The objective is printed without a normaliser: the mean over tokens and the clip are those of DAPO, which it "
    "refers to; weigh=summed is nearer to the print. The paper has the entropy target in its first stage only, "
    "the rest in its third.",
)

rift = Method(
    paper="2505.03344",
    differs="all answers of a listed set, each with its probability among them, dual clip, no KL",
    plan=rollout_plan.listed,
    advantage=p(advantage.standardised, eps=1e-5, ddof=0),
    loss=losses.enumerated,
    minibatches=16,
    note="As the code, whose candidates are trajectories under one softmax. Here they are replies, and the softmax is "
    "over their log-probabilities; each counts the same, not by its probability. 4096 scenes in parts of 256, or as "
    "many parts as there are rows.",
)

reg_grpo = Method(
    paper="2506.07464",
    differs="the log-ratio regressed on the advantage in place of ratio and clip",
    advantage=p(advantage.standardised, eps=1e-8, ddof=0),
    keep=filters.mixed,
    loss=losses.regressed,
    penalties=(p(penalties.kl3, beta=0.1),),
    epochs=2,
    note="The notes' formula; code is not public. With both deviations it is 2 - 2 corr(R, d). eps holds the step "
    "where replies hardly moved; at the first step of a batch, where none has, it is the policy gradient. How often "
    "the paper goes over a batch is not known: twice here, as once would never regress.",
)

unlikely = Method(
    paper="2506.02355",
    differs="rewards of likely replies are lowered by rank, after dead groups are left out; KL 0.1, two epochs",
    plan=rollout_plan.refill,
    shape=reward_shaping.unlikely,
    keep=filters.mixed,
    advantage=p(advantage.standardised, eps=1e-6),
    penalties=(p(penalties.kl3, beta=0.1),),
    epochs=2,
    note="Ranks from 1 by the mean log-probability of a token, as in the code; the text says from 0 as well: "
    "shape.first=0.",
)

dagrpo = Method(
    paper="2512.06337",
    differs="no gradient for right and wrong replies that are too alike; a reference answer where none is right",
    plan=p(rollout_plan.anchored, below=1),
    advantage=advantage.distinctive,
    reconstructed=True,
    note="A reconstruction from the abstract: score, threshold and formulas are not known. The score is the part "
    '"trait" of a reward, else the mean log-probability; a rollout counts if any of the other kind is tau away.',
)

skywork_r1v2 = Method(
    paper="2504.16656",
    differs="rollouts of earlier steps in place of dead groups, by |A|; ratio to the policy that drew each, no KL",
    plan=replay.buffered,
    keep=filters.mixed_or_stored,
    advantage=advantage.stored,
    loss=losses.clipped_to_sampler,
    reconstructed=True,
    note="A reconstruction: capacity, share and age of what is replayed are not known, nor a correction for its age; "
    "ours keeps the advantage of then. Its stage of preferences (MPO) comes before and is no part of this.",
)

advantage_alignment = Method(
    paper="2511.19405",
    differs="credit of a step for what it does for a partner's, against the others at the same step, no KL",
    advantage=advantage.zero,
    credit=step_credit.aligned,
    weigh=token_weights.per_token,
    loss=losses.plain,
    note="Weights are discounted once more where the step itself is left out, as in the code; its text does not. The "
    "first version had credit.inclusive=true. A game alone in its group gets 0, in the code its return. The reward "
    'must give parts "partner_reward N", and may give "step_reward N": docs/weights.md.',
)

# ---- credit over steps ------------------------------------------------------------------------------

gigpo = Method(
    paper="2505.10978",
    differs="steps from the same state are compared with each other as well, mean over tokens, KL 0.01",
    advantage=p(advantage.standardised, eps=1e-6),
    credit=step_credit.at_anchors,
    weigh=token_weights.per_token,
    penalties=(p(penalties.kl3, beta=0.01),),
    note="The paper's mean is over rollouts; its code's over steps: advantage=by_steps. Without deviations: "
    "credit.scaled=false and advantage=centred. States are equal; credit.threshold=0.9 takes alike texts, linked "
    "in any order, credit.greedy=true clusters as the code, where order decides. A penalty of a step belongs to "
    "its reward and is discounted; the code takes it off afterwards.",
)

salt = Method(
    paper="2510.20022",
    differs="steps that several rollouts share get the mean of their advantages",
    advantage=p(advantage.standardised, eps=1e-6),
    credit=step_credit.merged,
    reconstructed=True,
    note="A reconstruction from two third parties that agree; no code is public and the paper's window is not known: 3 "
    "is theirs. Texts are matched exactly; free text, for which the paper uses embeddings by a model and a threshold "
    "that are not known, by common characters: credit.threshold=0.9.",
)

m_grpo = Method(
    paper="2511.13288",
    differs="runs that a rollout delegates are groups of their own, where each rollout counts the same; no KL",
    plan=rollout_plan.delegated,
    advantage=advantage.shared,
    weigh=token_weights.per_share,
    loss=p(losses.clipped, high=0.28),
    note="Weights of 1 / d are exact; plan.depth=8 copies and drops runs at random, as in the paper; its code does "
    "neither. The ratio is a token's, as in the code; the paper's is a whole rollout's: loss=clipped_trajectory.",
)

hrpo = Method(
    paper="2506.08507",
    differs="each step also gets what its own reward is above its group's, no KL",
    credit=step_credit.action_wise,
    reconstructed=True,
    note="A reconstruction: the paper names both levels, not how they are joined. Steps have a reward of their own "
    'where the task\'s reward gives parts "step_reward N" (docs/weights.md); else it is grpo without KL. '
    "mas.search.policy.hrpo learns graphs by it.",
)

# ---- what to sample ---------------------------------------------------------------------------------

vade = Method(
    paper="2511.18902",
    differs="rows by their expected gain p (1 - p)^2, p drawn from what is known of them, no KL",
    select=row_selection.vade,
    note="Constants are read off the framework figure; code is not public.",
)

xrpo = Method(
    paper="2510.06672",
    differs="rollouts where uncertainty is, solved rows shown where all fail, unlikely good ones count more, no KL",
    plan=hints.explored,
    advantage=advantage.sharpened,
    reconstructed=True,
    note="A reconstruction: the bonus has its usual form and lam 0.1, alpha 0.05 are third parties'; they are not "
    "known. The novelty term is for A > 0 alone; public code of others adds it to wrong answers, too. Solved rows are "
    "found by common words, or as in the paper by vectors of a model: embedder=NAME.",
)

scaf_grpo = Method(
    paper="2510.19807",
    differs="where all fail, a success with hints takes the place of a failure, no KL",
    plan=hints.scaffolded,
    advantage=p(advantage.standardised, eps=1e-6),
    note="The paper's search: one level after the other, three tiers, a random failure replaced, none in the first 15 "
    "% of steps. The code draws all levels at once without planning, and replaces the first: plan.at_once=true "
    "plan.planning=false plan.first=true. That hints also wait until hard rows are solved no more often, of which the "
    "paper speaks and its code has nothing, is plan.window=10: when it is a plateau is our reading.",
)

pc_grpo = Method(
    paper="2512.14944",
    differs="groups weighed by difficulty and variety of answers, no deviation, no KL",
    advantage=advantage.centred,
    weigh=token_weights.curriculum,
    note="As version 2; version 1 has no variety, its formula is not known. weigh.options=4 takes the entropy over so "
    "many options, for puzzles that have them.",
)

deepvideo_r1 = replace(
    reg_grpo,
    differs="as reg_grpo, and hints for rows that are harder than recent ones",
    plan=hints.hinted,
    reconstructed=True,
    note="A reconstruction in text: hints are those of the row, by the reward of its latest visit; noise in the frames "
    "of easy videos has no counterpart. Else see reg_grpo.",
)

METHODS: Mapping[str, Method] = {name: x for name, x in vars().items() if isinstance(x, Method)}
"""All methods by name, in the order of this file."""


def find_method(name: str) -> Method:
    """Return a method by name; "-" may stand for "_". Raise ConfigError that suggests similar names."""
    known = name.strip().lower().replace("-", "_")
    if known not in METHODS:
        raise ConfigError(f"There is no method {name!r}{did_you_mean(known, list(METHODS))}")
    return METHODS[known]
